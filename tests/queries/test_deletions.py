"""Reports of deletions: what was planned and what became of it, and the lists of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache.home.ledger import Ledger
from msb_cache.queries import deletions
from tests.logs import CLAIMED, DONE, digest, ledger_with_deletions

X, Y, Z = (digest(name) for name in "xyz")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return ledger_with_deletions(tmp_path)


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
    with ledger.read() as connection:
        assert connection is not None
        (only,) = deletions.summaries(connection, ledger.store(connection), limit=1)
    assert (only.operation, only.policy, only.actor.user) == (CLAIMED, {"force": True}, "alice")
