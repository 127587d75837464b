"""History: which events belong to an image (R5), against a brute-force reading of the whole log."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent, StoredEvent
from msb_cache.home.ledger import Ledger
from msb_cache.projections.history import Scope, history
from tests.logs import digest, layer, manifest_added, new_ledger, pulled

A, B = "docker.io/library/a:1", "docker.io/library/b:1"
M = [digest(n) for n in range(3)]
LAYERS = {M[0]: [layer("x"), layer("y")], M[1]: [layer("y"), layer("z")], M[2]: [layer("z")]}


def brute_force(events: list[StoredEvent], reference: str) -> list[int]:
    """Read the rule word by word over the whole log."""
    first_pointed: dict[str, int] = {}
    layers_of: dict[str, set[str]] = {}
    for event in events:
        if isinstance(event.data, ev.ImagePulled) and event.subject == reference:
            first_pointed.setdefault(event.data.manifest_digest, event.seq)
        if isinstance(event.data, ev.ManifestAdded):
            found = layers_of.setdefault(event.subject, set())
            found.update(each.diff_id for each in event.data.layers)
    kinds = ("image.held", "image.released", "manifest.deleted", "fsmeta.deleted", "vmdk.deleted")
    kinds += ("artifact.kept", "artifact.delete_failed")
    chosen: list[int] = []
    operations: dict[str, set[str]] = {}
    for event in events:
        pointed = event.seq > first_pointed.get(event.subject, event.seq)
        on_reference = event.subject == reference
        if on_reference or (pointed and event.type in kinds):
            chosen.append(event.seq)
            if event.type in ("image.removed", "manifest.deleted"):
                before = [manifest for manifest, seq in first_pointed.items() if seq < event.seq]
                mine = set().union(*(layers_of.get(manifest, set()) for manifest in before))
                operations.setdefault(event.operation, mine)
        elif event.subject in operations.get(event.operation, ()) and event.type in (
            "layer.deleted",
            "artifact.kept",
            "artifact.delete_failed",
        ):
            chosen.append(event.seq)
    return chosen


def deletion(operation: str, names: list[str], manifests: list[str]) -> list[NewEvent]:
    """A whole deletion as the cache records it."""
    diff_ids = sorted({each.diff_id for manifest in manifests for each in LAYERS[manifest]})
    artifacts = tuple(ev.PlannedArtifact(kind="layer", subject=found, bytes=1) for found in diff_ids)
    events = [NewEvent(ev.DeletionStarted(kind="prune", policy={}, artifacts=artifacts), operation)]
    events += [NewEvent(ev.ImageRemoved(manifest_digest=M[0], cause="prune"), name) for name in names]
    events += [NewEvent(ev.ManifestDeleted(), manifest) for manifest in manifests]
    events += [NewEvent(ev.FsmetaDeleted(bytes=1), manifest) for manifest in manifests]
    for number, found in enumerate(diff_ids):
        outcome: ev.Event = ev.LayerDeleted(bytes=1, manifests=len(manifests))
        if number % 3 == 2:
            outcome = ev.ArtifactKept(kind="layer", reason="needed")
        events.append(NewEvent(outcome, found))
    return [*events, NewEvent(ev.DeletionFinished(outcome="completed"), operation)]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("pull"), st.sampled_from([A, B]), st.sampled_from(M)),
        st.tuples(st.just("hold"), st.just(""), st.sampled_from(M)),
        st.tuples(st.just("release"), st.just(""), st.sampled_from(M)),
        st.tuples(st.just("use"), st.sampled_from([A, B]), st.sampled_from(M)),
        st.tuples(
            st.just("delete"),
            st.lists(st.sampled_from([A, B]), unique=True),
            st.lists(st.sampled_from(M), unique=True),
        ),
    ),
    max_size=15,
)


def write(ledger: Ledger, script: list[tuple[str, object, object]]) -> None:
    for number, (verb, first, second) in enumerate(script):
        operation = f"step-{number}"
        if verb == "pull":
            events = [NewEvent(manifest_added(LAYERS[second]), second), NewEvent(pulled(second), first)]  # type: ignore[index,arg-type]
        elif verb == "hold":
            events = [NewEvent(ev.ImageHeld(holder="sandbox:s"), second)]  # type: ignore[arg-type]
        elif verb == "release":
            events = [NewEvent(ev.ImageReleased(holder="sandbox:s"), second)]  # type: ignore[arg-type]
        elif verb == "use":
            events = [NewEvent(ev.ImageUsed(manifest_digest=second), first)]  # type: ignore[arg-type]
        else:
            events = deletion(operation, first, second)  # type: ignore[arg-type]
        with ledger.write(operation) as transaction:
            transaction.append(events)


@settings(max_examples=60, deadline=None)
@given(script=steps)
def test_history_is_what_a_reading_of_the_whole_log_finds(
    tmp_path_factory: object, script: list[tuple[str, object, object]]
) -> None:
    ledger = new_ledger(tmp_path_factory.mktemp("home"), [])  # type: ignore[attr-defined]
    write(ledger, script)
    with ledger.read() as connection:
        if connection is None:
            return
        store = ledger.store(connection)
        everything = list(store.read())
        for reference in (A, B):
            found = [event.seq for event in history(connection, store, Scope([reference]))]
            assert found == brute_force(everything, reference)
            half = len(everything) // 2
            until = [event.seq for event in history(connection, store, Scope([reference]), until=half)]
            assert until == brute_force(everything[:half], reference)
            # Read in two parts it is the same: what removed an image before still deletes layers after.
            later = [event.seq for event in history(connection, store, Scope([reference]), after=half)]
            assert later == [seq for seq in found if seq > half]
        both = [event.seq for event in history(connection, store, Scope([A, B]))]
        assert both == sorted(both)
        assert set(both) >= {*brute_force(everything, A), *brute_force(everything, B)}
    ledger.close()


def test_shared_layers_are_marked(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, [])
    write(
        ledger, [("pull", A, M[0]), ("delete", [A], [M[0]]), ("pull", A, M[1]), ("delete", [A], [M[1], M[2]])]
    )
    with ledger.read() as connection:
        assert connection is not None
        events = list(history(connection, ledger.store(connection), Scope([A])))
    layers = [
        (event.type, event.shared) for event in events if event.type in ("layer.deleted", "artifact.kept")
    ]
    assert layers == [("layer.deleted", False)] * 2 + [("layer.deleted", True)] * 2


def test_an_unknown_reference_has_no_history(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, [NewEvent(pulled(M[0]), A)])
    with ledger.read() as connection:
        assert connection is not None
        assert list(history(connection, ledger.store(connection), Scope([B]))) == []


def test_a_history_costs_no_row_beside_its_events(tmp_path: Path) -> None:
    """Why history has no table of its own: a use writes an event and its image's row, nothing else."""
    uses = [NewEvent(ev.ImageUsed(manifest_digest=M[0]), A) for _ in range(20)]
    ledger = new_ledger(tmp_path, [NewEvent(pulled(M[0]), A), *uses])
    with ledger.read() as connection:
        assert connection is not None
        tables = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        rows = {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT seq FROM events WHERE subject IN (?) AND +type IN (?) ORDER BY seq",
            ("a", "b"),
        ).fetchall()
        assert len(list(history(connection, ledger.store(connection), Scope([A])))) == 21
    assert rows["events"] == 22
    assert sum(count for name, count in rows.items() if name not in ("events", "_sqlite_migrations")) == 3
    assert "events_by_subject" in plan[0][-1]
