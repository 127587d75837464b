"""The engine by its name."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from msb_cache.artifacts.layout import Layout
from msb_cache.engines.choose import engine_named
from msb_cache.eventstore.events import Engine
from msb_cache.home.ledger import Ledger


def test_each_name_of_the_log_has_its_engine(tmp_path: Path) -> None:
    ledger = Ledger(Layout(tmp_path))
    assert [engine_named(name, ledger).name for name in get_args(Engine)] == [*get_args(Engine)]
