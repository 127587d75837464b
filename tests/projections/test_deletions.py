"""Deletions in the index: lists, what is left to do, claims of msb, operations by their ids."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.projections import deletions
from tests.logs import CLAIMED, DONE, PYTHON, digest, ledger_with_deletions

X = digest("x")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return ledger_with_deletions(tmp_path)


def ask(ledger: Ledger, question: Any, *arguments: object) -> Any:
    with ledger.read() as connection:
        assert connection is not None
        return question(connection, *arguments)


def test_lists_are_newest_first(ledger: Ledger) -> None:
    assert [row.operation for row in ask(ledger, deletions.deletions)] == [CLAIMED, DONE]
    assert [row.operation for row in ask(ledger, partial(deletions.deletions, limit=1))] == [CLAIMED]


def test_what_is_left_to_do(ledger: Ledger) -> None:
    assert ask(ledger, deletions.unfinished) == [CLAIMED]
    left = [(row.kind, row.subject, row.operation, row.reason) for row in ask(ledger, deletions.leftovers)]
    assert left == [("layer", digest("z"), DONE, "not permitted")]  # what is held is no leftover
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
