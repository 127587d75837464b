"""The engine by its name. Each is imported when it is asked for: most commands need one, and reading none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msb_cache.home.ledger import Ledger

if TYPE_CHECKING:
    from msb_cache.engines.engine import Engine


def engine_named(name: str, ledger: Ledger) -> Engine:
    """Return the engine of this name (``events.Engine``) for a home."""
    if name == "msb":
        from msb_cache.engines.msb.engine import MsbEngine

        return MsbEngine(ledger)
    from msb_cache.engines.own.engine import OwnEngine

    return OwnEngine(ledger)
