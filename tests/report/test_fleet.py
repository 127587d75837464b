from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache import Fleet
from msb_cache.errors import InvalidConfigError
from msb_cache.report.fleet import make
from tests.fleet.random_lives import BEGIN, Life


def fleet_of(folder: Path) -> tuple[Fleet, list[Life]]:
    hosts = [Life(folder / name, name) for name in ("one", "two")]
    hosts[1].step(("load", "tool:1", 1))
    hosts[1].step(("remove", "tool:1", 0))
    fleet = Fleet(db=folder / "fleet.db")
    assert len([*fleet.take([each.home / "db" / "msb-cache.db" for each in hosts])]) == 2
    return fleet, hosts


def test_a_report_says_what_the_hosts_have_and_lost(tmp_path: Path) -> None:
    fleet, hosts = fleet_of(tmp_path)
    found = make(fleet, since="1d", clock=lambda: BEGIN + 3600 * 10**9)
    assert [(each.host, each.images) for each in found.hosts] == [("one", 1), ("two", 1)]
    assert [(each.reference, each.hosts) for each in found.spread] == [("app:1", 2)]
    [gone] = found.deletions
    assert (gone.host, gone.deletion.kind, gone.deletion.images) == ("two", "remove", 1)
    assert "alice" in gone.deletion.who
    with hosts[1].cache() as cache:
        assert gone.deletion.operation == cache.prunes()[0].operation
    assert found.events == sum(each.events for each in fleet.hosts())
    [private] = make(fleet, since="1d", people=False, clock=lambda: BEGIN + 3600 * 10**9).deletions
    assert "alice" not in private.deletion.who


def test_what_was_before_the_time_shown_is_left_out(tmp_path: Path) -> None:
    fleet, _ = fleet_of(tmp_path)
    assert make(fleet, since="1m", clock=lambda: BEGIN + 3600 * 10**9).deletions == ()


@pytest.mark.parametrize("since", ["@5", "2999-01-01"])
def test_a_time_that_is_none_for_a_fleet_is_refused(tmp_path: Path, since: str) -> None:
    fleet, _ = fleet_of(tmp_path)
    with pytest.raises(InvalidConfigError):
        make(fleet, since=since)
