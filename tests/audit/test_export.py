"""Exports of the log: from any position, and of a damaged one what can be read."""

from __future__ import annotations

import io
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache.artifacts.layout import Layout
from msb_cache.audit.export import export_log
from msb_cache.errors import CorruptLogError, LogError
from msb_cache.eventstore import export
from msb_cache.home.ledger import Ledger
from tests.logs import new_ledger, some_events


def test_a_tail_goes_on_where_it_says(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events())
    whole, tail = io.BytesIO(), io.BytesIO()
    assert export_log(ledger, whole) == 7
    assert export_log(ledger, tail, since_seq=4) == 3
    assert whole.getvalue().splitlines()[4:] == tail.getvalue().splitlines()
    assert export_log(ledger, io.BytesIO(), since_seq=7) == 0
    with pytest.raises(LogError, match="ends at event 7, before 8"):
        export_log(ledger, io.BytesIO(), since_seq=8)


def test_a_home_without_a_log_has_none(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="no log yet"):
        export_log(Ledger(Layout(tmp_path / "none")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_of_a_damaged_log_the_beginning_comes(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, [each for _ in range(200) for each in some_events()[:2]])
    ledger.close()
    path = Path(ledger.layout.database)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = path.read_bytes()
    half = len(data) // 2 // 4096 * 4096
    path.write_bytes(data[:half] + b"\xaa" * (len(data) - half))
    out = io.BytesIO()
    with pytest.raises(CorruptLogError, match=r"only (\d+) events could be exported, up to event \1:"):
        export_log(ledger, out)
    rows = [*export.read(io.BytesIO(out.getvalue()))]
    assert 1 < len(rows) < 401
