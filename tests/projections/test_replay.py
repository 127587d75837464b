"""A watched fold: the changes of each event, and where a state went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent, StoredEvent
from msb_cache.projections import FOLD_VERSION
from msb_cache.projections.replay import Replay, State, divergences
from tests.logs import ACTOR, digest, layer, manifest_added, pulled

A, B = "docker.io/library/a:1", "docker.io/library/b:1"


OPERATIONS = [f"01a208e6-ab10-7741-a5e9-d0d4e768140{number}" for number in range(3)]


events = st.one_of(
    st.sampled_from([A, B]).map(lambda name: NewEvent(pulled(digest(name)), name)),
    st.sampled_from([A, B]).map(lambda name: NewEvent(pulled(digest(1)), name)),
    st.sampled_from([A, B]).map(lambda name: NewEvent(ev.ImageUsed(manifest_digest=digest(1)), name)),
    st.sampled_from([A, B]).map(
        lambda name: NewEvent(ev.ImageRemoved(manifest_digest=digest(1), cause="external"), name)
    ),
    st.sampled_from(["sandbox:x", "sandbox:y"]).map(
        lambda name: NewEvent(ev.ImageHeld(holder=name), digest(1))
    ),
    st.sampled_from(["sandbox:x", "sandbox:y"]).map(
        lambda name: NewEvent(ev.ImageReleased(holder=name), digest(1))
    ),
    st.just(NewEvent(manifest_added([layer(1), layer(2)]), digest(1))),
    st.just(NewEvent(ev.ManifestDeleted(), digest(1))),
    st.sampled_from(OPERATIONS).map(lambda each: NewEvent(ev.DeletionStarted(kind="prune", policy={}), each)),
    st.integers(1, 9).map(lambda each: NewEvent(ev.LayerDeleted(bytes=each), digest(f"diff{each}"))),
)


def stored(chosen: list[NewEvent]) -> list[StoredEvent]:
    return [
        StoredEvent(
            seq=seq,
            id=str(seq),
            type=event.event.type,
            version=1,
            subject=event.subject,
            operation=OPERATIONS[seq % 3],
            occurred_at_ns=1000 + seq,
            recorded_at_ns=1000 + seq,
            actor=ACTOR,
            data=event.event,
            hash=bytes(32),
        )
        for seq, event in enumerate(chosen, 1)
    ]


def state_of(log: list[StoredEvent], seq: int) -> State:
    replay = Replay()
    for event in log:
        replay.step(event)
    return State(log_id="", seq=seq, hash=None, fold_version=FOLD_VERSION, tables=replay.tables())


@given(st.lists(events, min_size=1, max_size=30), st.data())
@settings(deadline=None)
def test_a_state_that_missed_one_event(chosen: list[NewEvent], data: st.DataObject) -> None:
    """Each row that went wrong is led back to where its columns were last right, as looking at all says."""
    log = stored(chosen)
    missed = data.draw(st.integers(1, len(log)))
    state = state_of([event for event in log if event.seq != missed], len(log))
    found = divergences(lambda: log, state)
    given = state.rows()
    past = [state_of(log[:seq], seq).rows() for seq in range(len(log) + 1)]
    assert {(each.table, each.key) for each in found} == {
        place for place in past[-1].keys() | given.keys() if past[-1].get(place) != given.get(place)
    }
    for each in found:
        place = (each.table, each.key)
        cells = [[row.get(place) for row in past], given.get(place)]
        assert each.seq == min(blamed(*cells, column) for column in differing(each)), place


def blamed(rows: Sequence[Any], wanted: Any, column: int) -> int:
    """Return the event after which a column was last as wanted; if it never was, its last writer."""
    values = [None if row is None else (row[column],) for row in rows]
    want = None if wanted is None else (wanted[column],)
    changed = [seq for seq in range(1, len(values)) if values[seq] != values[seq - 1]]
    return max((seq for seq in changed if values[seq - 1] == want), default=max(changed, default=0))


def differing(found: Any) -> list[int]:
    ours, theirs = found.folded, found.state
    if ours is None or theirs is None:
        return [*range(len(ours or theirs))]
    return [column for column in range(len(ours)) if ours[column] != theirs[column]]
