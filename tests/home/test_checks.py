from __future__ import annotations

from pathlib import Path

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.engines.digesting import digested
from msb_cache.eventstore.ids import uuid7
from msb_cache.home import checks
from msb_cache.home.checks import Check
from msb_cache.home.ledger import Ledger
from tests.logs import digest

LAYER, FSMETA = ("layer", "sha256:1"), ("fsmeta", "sha256:1")


def test_what_was_found_when(tmp_path: Path) -> None:
    ledger = Ledger(Layout(tmp_path / "home"))
    with ledger.write(uuid7()) as transaction:
        connection = transaction.connection
        assert checks.last(connection, LAYER) is None
        checks.remember(connection, {LAYER: 1, FSMETA: 2}, 5)
        checks.remember(connection, {FSMETA: 3}, 7)
        assert checks.last(connection, LAYER) == Check(5, 1)
        assert checks.all_of(connection) == {LAYER: Check(5, 1), FSMETA: Check(7, 3)}
        checks.remember(connection, {LAYER: None}, None)
        assert checks.last(connection, LAYER) == Check(None, None)
    ledger.close()


def test_what_has_no_digest_any_more_is_forgotten(tmp_path: Path) -> None:
    ledger = Ledger(Layout(tmp_path / "home"))
    with ledger.write(uuid7()) as transaction:
        connection = transaction.connection
        transaction.append([digested("layer", digest(1), digest(2), "made")])
        checks.remember(connection, {("layer", digest(1)): 1, ("layer", digest(3)): 2}, 5)
        checks.remember(connection, {("layer", digest(4)): None}, None)  # of none that is good
        checks.forget_others(connection)
        assert checks.all_of(connection) == {
            ("layer", digest(1)): Check(5, 1),
            ("layer", digest(4)): Check(None, None),
        }
    ledger.close()


def test_a_rebuild_leaves_it(tmp_path: Path) -> None:
    """The log does not have it, so nothing could make it anew."""
    ledger = Ledger(Layout(tmp_path / "home"))
    with ledger.write(uuid7()) as transaction:
        checks.remember(transaction.connection, {LAYER: 1}, 5)
    ledger.close()
    with ImageCache(tmp_path / "home") as cache:
        cache.rebuild()
    with ledger.read() as connection:
        assert connection is not None
        assert checks.all_of(connection) == {LAYER: Check(5, 1)}
    ledger.close()
