"""Reports of deletions: what was planned and what became of it, claims of msb, operations by their ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.projections import deletions
from tests.logs import PYTHON, digest, new_ledger, pulled

DONE, CLAIMED = "aaaa-1", "aaab-2"
X, Y, Z = (digest(name) for name in "xyz")


def planned(kind: ev.ArtifactKind, subject: str) -> ev.PlannedArtifact:
    return ev.PlannedArtifact(kind=kind, subject=subject, bytes=10)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = new_ledger(tmp_path, [NewEvent(pulled(digest(1)), PYTHON)])
    layers = tuple(planned("layer", each) for each in (X, Y, Z))
    with ledger.write(DONE) as transaction:
        decided = ev.DeletionStarted(
            kind="prune", policy={"rule": "unused"}, artifacts=layers[:2], part=1, parts=2
        )
        more = ev.DeletionStarted(
            kind="prune", policy={"rule": "unused"}, artifacts=layers[2:], part=2, parts=2
        )
        transaction.append(
            [
                NewEvent(decided, DONE),
                NewEvent(more, DONE),
                NewEvent(ev.LayerDeleted(bytes=9, recovered=True), X),
                NewEvent(ev.ArtifactKept(kind="layer", reason="held", holders=("sandbox:dev",)), Y),
                NewEvent(ev.ArtifactDeleteFailed(kind="layer", errno=1, reason="not permitted"), Z),
                NewEvent(ev.DeletionFinished(outcome="partial"), DONE),
            ]
        )
    with ledger.write(CLAIMED) as transaction:
        asked = (planned("metadata", PYTHON), planned("layer", X))
        started = ev.DeletionStarted(kind="remove", policy={"force": True}, artifacts=asked, engine="msb")
        transaction.append([NewEvent(started, CLAIMED)])
    return ledger


def ask(ledger: Ledger, question: Any, *arguments: object) -> Any:
    with ledger.read() as connection:
        assert connection is not None
        return question(connection, *arguments)


def test_a_report_has_all_parts_and_the_outcome_of_each(ledger: Ledger) -> None:
    with ledger.read() as connection:
        assert connection is not None
        report = deletions.report(connection, ledger.store(connection), DONE)
        assert deletions.report(connection, ledger.store(connection), "other") is None
    assert report is not None
    assert [(each.subject, each.outcome, each.bytes, each.reason) for each in report.artifacts] == [
        (X, "deleted", 9, None),
        (Y, "kept", None, "held"),
        (Z, "failed", None, "not permitted"),
    ]
    assert report.artifacts[0].recovered
    assert report.artifacts[1].holders == ("sandbox:dev",)
    assert (report.counters.outcome, report.counters.kept, report.counters.failed) == ("partial", 1, 1)


def test_lists_are_newest_first_and_limited(ledger: Ledger) -> None:
    assert [row.operation for row in ask(ledger, deletions.deletions)] == [CLAIMED, DONE]
    with ledger.read() as connection:
        assert connection is not None
        (only,) = deletions.summaries(connection, ledger.store(connection), limit=1)
    assert (only.operation, only.policy, only.actor.user) == (CLAIMED, {"force": True}, "alice")


def test_what_is_left_to_do(ledger: Ledger) -> None:
    assert ask(ledger, deletions.unfinished) == [CLAIMED]
    left = [(row.kind, row.subject, row.operation, row.reason) for row in ask(ledger, deletions.leftovers)]
    assert left == [("layer", Z, DONE, "not permitted")]  # what is held is no leftover
    with ledger.read() as connection:
        assert connection is not None
        store = ledger.store(connection)
        assert deletions.pending(connection, store, DONE) == []
        assert len(deletions.pending(connection, store, CLAIMED)) == 2


def test_a_claim_ends_with_its_reference(ledger: Ledger) -> None:
    def claims() -> dict[tuple[str, str], deletions.Claim]:
        with ledger.read() as connection:
            assert connection is not None
            return deletions.claims(connection, ledger.store(connection))

    claim = deletions.Claim(CLAIMED, "remove", True)
    assert claims() == {("metadata", PYTHON): claim, ("layer", X): claim}
    with ledger.write(CLAIMED) as transaction:
        transaction.append([NewEvent(ev.ImageRemoved(manifest_digest=digest(1), cause="remove"), PYTHON)])
    assert claims() == {("layer", X): claim}
    with ledger.write(CLAIMED) as transaction:
        transaction.append([NewEvent(ev.DeletionFinished(outcome="partial"), CLAIMED)])
    assert claims() == {}


def test_operations_by_the_beginning_of_their_id(ledger: Ledger) -> None:
    assert [row.operation for row in ask(ledger, deletions.find, "aaa")] == [DONE, CLAIMED]
    assert [row.operation for row in ask(ledger, deletions.find, "aaab")] == [CLAIMED]
    assert ask(ledger, deletions.find, "aaac") == []
    assert len(ask(ledger, deletions.operations_with, "")) == 2
    assert ask(ledger, deletions.operations_with, "operation-0") == ["operation-0"]
