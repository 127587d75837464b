"""What a home is: its engine and why, whether it can be written to, and its counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache.engines.choose import engine_named
from msb_cache.home.ledger import Ledger
from msb_cache.migrations import SCHEMA_VERSION
from msb_cache.queries.info import HomeInfo, info
from tests.logs import new_ledger, some_events

pytestmark = pytest.mark.usefixtures("no_msb")


def of(ledger: Ledger, engine: str = "msb-cache") -> HomeInfo:
    return info(ledger, engine_named(engine, ledger))


def test_a_home_of_ours(tmp_path: Path) -> None:
    found = of(new_ledger(tmp_path, some_events()[:3]))
    assert (found.engine, found.why, found.writable) == ("msb-cache", "there is no db/msb.db", True)
    assert (found.events, found.images, found.holds, found.manifests) == (4, 1, 1, 0)
    assert (found.schema, found.began_at, found.unfinished) == (SCHEMA_VERSION, 1_800_000_000 * 10**9, ())
    assert len(found.log_id or "") == 32


def test_a_home_of_msb_without_it_is_only_read(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events()[:1])
    Path(ledger.layout.msb_database).touch()
    found = of(ledger, "msb")
    assert (
        found.why == "db/msb.db is there, so msb keeps this cache, but no msb was found, so it is only read"
    )
    assert (found.writable, found.program) == (False, None)


def test_a_home_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    found = of(new_ledger(tmp_path / "none", []))
    assert (found.schema, found.events, found.log_id, found.writable) == (None, 0, None, True)
    assert not (tmp_path / "none").exists()
