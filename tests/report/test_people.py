"""Who did how much: a line for each, whatever else is known of them."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.report.cut import Cut
from msb_cache.report.facts import PersonLine
from msb_cache.report.marks import deletions_at
from msb_cache.report.people import people
from tests.logs import ACTOR, PYTHON, digest, new_ledger
from tests.report.chronicles import chronicle_of

FETCHED = ev.ImagePulled(
    manifest_digest=digest(1), changed=True, source=ev.Source(kind="archive"), bytes_fetched=70
)
USED = ev.ImageUsed(manifest_digest=digest(1))
BOOTED = ev.ImageUsed(manifest_digest=digest(1), run="run:1", holder="sandbox:x")


def test_lines(tmp_path: Path) -> None:
    """Alice pulls by one program and uses by another, bob removes by force what she pulled."""
    ledger = new_ledger(tmp_path, [NewEvent(FETCHED, PYTHON), NewEvent(FETCHED, PYTHON)])
    with ledger.write("uses", actor=replace(ACTOR, program="other", reason="why")) as transaction:
        transaction.append([NewEvent(USED, PYTHON), NewEvent(BOOTED, PYTHON)])
    with ledger.write("gone", actor=replace(ACTOR, login="bob")) as transaction:
        transaction.append(
            [
                NewEvent(ev.DeletionStarted(kind="remove", policy={}), "gone"),
                NewEvent(ev.ImageRemoved(manifest_digest=digest(1), cause="remove", forced=True), PYTHON),
                NewEvent(ev.MetadataDeleted(bytes=5), PYTHON),
                NewEvent(ev.DeletionFinished(outcome="completed"), "gone"),
            ]
        )
    with chronicle_of(ledger) as (chronicle, store):

        def told(after: int = 0, people_too: bool = True) -> list[PersonLine]:
            cut = Cut(chronicle, chronicle.seq, after, 0, 10**19, people_too)
            return [*people(cut, deletions_at(cut, store))]

        bob = PersonLine("bob@host", deletions=1, deleted_images=1, deleted_bytes=5, forced=1)
        assert told() == [bob, PersonLine("alice@host", pulls=2, pulled_bytes=140, uses=2)]
        assert told(after=3) == [bob, PersonLine("alice@host", uses=2)]
        assert [each.who for each in told(people_too=False)] == ["test", "other"]
