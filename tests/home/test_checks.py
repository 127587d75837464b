from __future__ import annotations

from pathlib import Path

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore.ids import uuid7
from msb_cache.home import checks
from msb_cache.home.ledger import Ledger

LAYER, FSMETA = ("layer", "sha256:1"), ("fsmeta", "sha256:1")


def test_what_was_found_when(tmp_path: Path) -> None:
    ledger = Ledger(Layout(tmp_path / "home"))
    with ledger.write(uuid7()) as transaction:
        connection = transaction.connection
        assert checks.last(connection, LAYER) is None
        checks.remember(connection, [LAYER, FSMETA], 5)
        checks.remember(connection, [FSMETA], 7)
        assert (checks.last(connection, LAYER), checks.last(connection, FSMETA)) == (5, 7)
        assert checks.all_of(connection) == {LAYER: 5, FSMETA: 7}
        checks.forget_others(connection, [LAYER])
        assert checks.all_of(connection) == {LAYER: 5}
        checks.forget(connection, [LAYER, FSMETA])
        assert checks.all_of(connection) == {}
    ledger.close()


def test_a_rebuild_leaves_it(tmp_path: Path) -> None:
    """The log does not have it, so nothing could make it anew."""
    ledger = Ledger(Layout(tmp_path / "home"))
    with ledger.write(uuid7()) as transaction:
        checks.remember(transaction.connection, [LAYER], 5)
    ledger.close()
    with ImageCache(tmp_path / "home") as cache:
        cache.rebuild()
    with ledger.read() as connection:
        assert connection is not None
        assert checks.all_of(connection) == {LAYER: 5}
    ledger.close()
