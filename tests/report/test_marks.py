"""Deletions as marks: by which rules, what of it, and whether it came back."""

from __future__ import annotations

from pathlib import Path

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.report.cut import Cut
from msb_cache.report.facts import DeletionMark
from msb_cache.report.marks import deletions_at, marks
from tests.logs import PYTHON, digest, new_ledger, pulled
from tests.report.chronicles import chronicle_of

OPERATION = "01a224f9-a6ea-79eb-be16-0ea5907f5933"
APP = "docker.io/library/app:1"
DUE = ev.Judged(subject=PYTHON, rule="max_age", policy_rule="due", age_ns=1)
OLD = ev.Judged(subject=APP, rule="max_age", age_ns=1)
PRUNE = [
    NewEvent(ev.DeletionStarted(kind="prune", policy={}, going=(DUE, OLD)), OPERATION),
    NewEvent(ev.ImageRemoved(manifest_digest=digest(1), cause="prune", forced=True), PYTHON),
    NewEvent(ev.ImageRemoved(manifest_digest=digest(1), cause="prune"), APP),
    NewEvent(ev.FlatDeleted(bytes=100), digest("flat")),
    NewEvent(ev.FlatRefDeleted(bytes=1), digest(1)),
    NewEvent(ev.FsmetaDeleted(bytes=20), digest(1)),
    NewEvent(ev.DeletionFinished(outcome="partial"), OPERATION),
]
BACK = ev.ImagePulled(
    manifest_digest=digest(1), changed=True, source=ev.Source(kind="archive"), undoes=OPERATION
)


def test_rules_bytes_and_restores(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, [NewEvent(pulled(digest(1)), name) for name in (PYTHON, APP)])
    with ledger.write(OPERATION) as transaction:
        transaction.append(PRUNE)
    with ledger.write("back") as transaction:
        transaction.append([NewEvent(BACK, PYTHON)])
    with chronicle_of(ledger) as (chronicle, store):
        end = chronicle.seq

        def at(until: int, after: int = 0, people: bool = True) -> list[DeletionMark]:
            cut = Cut(chronicle, until, after, 0, 10**19, people)
            return [*marks(cut, deletions_at(cut, store))]

        (found,) = at(end - 1)
        assert found.rules == (("due", 1), ("max_age", 1))
        assert (found.images, found.names, found.bytes) == (2, ("python:3.12", "app:1"), 120)
        assert (found.outcome, found.restored, found.who) == ("partial", False, "alice@host (test)")
        (later,) = at(end, people=False)
        assert (later.restored, later.who) == (True, "test")
        assert at(found.seq - 1) == at(end, after=found.seq) == []
        half = Cut(chronicle, found.seq + 1, 0, 0, 10**19)
        (begun,) = deletions_at(half, store)
        assert (begun.images, begun.forced, begun.bytes, begun.outcome) == (1, 1, None, None)


def test_what_another_program_deleted_is_one_mark_of_its_sync(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, [NewEvent(pulled(digest(1)), PYTHON)])
    with ledger.write(OPERATION) as transaction:
        transaction.append(
            [
                NewEvent(ev.ImageRemoved(manifest_digest=digest(1), cause="external"), PYTHON),
                NewEvent(ev.LayerDeleted(bytes=7), digest("layer")),
                NewEvent(pulled(digest(2)), APP),
            ]
        )
    with chronicle_of(ledger) as (chronicle, store):
        cut = Cut(chronicle, chronicle.seq, 0, 0, 10**19)
        (found,) = marks(cut, deletions_at(cut, store))
        assert (found.kind, found.images, found.bytes, found.outcome) == ("external", 1, 7, "completed")
        assert chronicle.deletions[OPERATION].last_seq == chronicle.seq - 1
