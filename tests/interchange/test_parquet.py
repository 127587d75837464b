"""Events as Parquet, as DuckDB reads them."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
from msgspec.structs import replace

from msb_cache.errors import UnsupportedError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import MAX_DATA
from msb_cache.interchange import parquet
from msb_cache.interchange.columns import COLUMNS, row_of
from msb_cache.interchange.privacy import Privacy
from tests.cli.support import stored
from tests.samples import new_sample


def ask(path: Path, query: str) -> list[Any]:
    with duckdb.connect() as database:
        return database.execute(query, [str(path)]).fetchall()


def test_every_event_comes_back(tmp_path: Path) -> None:
    events = []
    for seq, kind in enumerate(ev.EVENT_TYPES, 1):
        new = new_sample(kind)
        events.append(replace(stored(new.event, f"'{new.subject}\x00\n\U0001f600"), seq=seq))
    path = tmp_path / "a folder" / "it's.parquet"
    path.parent.mkdir()
    with path.open("wb") as out:
        parquet.write(iter(events), Privacy(), out)
    assert os.listdir(path.parent) == [path.name]
    names = ", ".join(name + ("_ns" if kind == "time" else "") for name, kind in COLUMNS.items())
    assert ask(path, f"select {names} from read_parquet(?)") == [row_of(event, Privacy()) for event in events]
    types = dict(row[:2] for row in ask(path, "describe select * from read_parquet(?)"))
    assert (types["occurred_at"], types["occurred_at_ns"], types["uid"]) == (
        *("TIMESTAMP_NS", "BIGINT"),
        "BIGINT",
    )
    assert ask(path, "select count(*) from read_parquet(?) where epoch_ns(occurred_at) = occurred_at_ns") == [
        (len(events),)
    ]
    assert ask(path, "select distinct compression from parquet_metadata(?)") == [("ZSTD",)]


def test_no_events_and_a_stream(tmp_path: Path) -> None:
    out = io.BytesIO()
    parquet.write(iter(()), Privacy(), out)
    path = tmp_path / "empty.parquet"
    path.write_bytes(out.getvalue())
    assert ask(path, "select count(*) from read_parquet(?)") == [(0,)]


def test_without_duckdb_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'msb-cache\[parquet\]'"):
        parquet.check_installed()


def test_the_largest_event_comes_back(tmp_path: Path) -> None:
    # Each of these characters is six in JSON, and twelve as text within JSON.
    event = stored(ev.ImagePullFailed(reason="\x01" * (MAX_DATA // 6 - 100)), "it")
    path = tmp_path / "large.parquet"
    with path.open("wb") as out:
        parquet.write(iter([event]), Privacy(), out)
    ((data,),) = ask(path, "select data from read_parquet(?)")
    assert data == row_of(event, Privacy())[[*COLUMNS].index("data")]
