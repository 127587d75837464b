from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache import Fleet
from msb_cache.errors import ImageNotFoundError, InvalidConfigError
from tests.fleet.filled import Filled
from tests.fleet.random_lives import Life


@pytest.mark.parametrize("given", [{}, {"dsn": "host=x", "db": "y"}])
def test_a_fleet_is_at_a_dsn_or_in_a_file(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MSB_CACHE_FLEET", raising=False)
    with pytest.raises(InvalidConfigError, match="MSB_CACHE_FLEET"):
        Fleet(**given)


def test_the_environment_names_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSB_CACHE_FLEET", "host=fleet.test")
    assert Fleet().dsn == "host=fleet.test"
    with pytest.raises(InvalidConfigError, match="PostgreSQL"):
        _ = Fleet(db="x").dsn


def test_a_dsn_that_is_empty_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSB_CACHE_FLEET", "host=fleet.test")
    assert Fleet("").dsn == "host=fleet.test"
    assert Fleet("", db="x").is_file


def test_hosts_are_named_by_host_role_or_log(filled: Filled, tmp_path: Path) -> None:
    one, two = Life(tmp_path / "one", "named-one"), Life(tmp_path / "two", "named-two")
    ids = [filled.add(each.home) for each in (one, two)]
    fleet = filled.fleet()
    assert [log.log_id for log in fleet.logs(["named-one"])] == ids[:1]
    assert [log.host for log in fleet.logs(["named-two", ids[0][:12]])] == ["named-one", "named-two"]
    with pytest.raises(ImageNotFoundError, match="no host of the fleet is 'named-thee'"):
        fleet.logs(["named-thee"])
    assert {*ids} <= {log.log_id for log in fleet.logs()}
