"""The log in every format: whole, private, and as much of it as can be read."""

from __future__ import annotations

import io
import json
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.errors import CorruptLogError, InvalidConfigError, LogError, UnknownEventError
from msb_cache.interchange.formats import FORMATS
from tests.logs import new_ledger, some_events

EVERY = pytest.mark.parametrize("format_", FORMATS)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ImageCache]:
    new_ledger(tmp_path / "logged", some_events()).close()
    with ImageCache(tmp_path / "logged") as cache:
        yield cache


@EVERY
def test_a_file_is_its_owners_and_has_every_event(cache: ImageCache, tmp_path: Path, format_: str) -> None:
    path = tmp_path / "out"
    assert cache.export(path, format=format_) == 7  # type: ignore[arg-type]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert cache.export(io.BytesIO(), format=format_, since_seq=5) == 2  # type: ignore[arg-type]
    with pytest.raises(LogError, match="before 8"):
        cache.export(tmp_path / "none", format=format_, since_seq=8)  # type: ignore[arg-type]
    assert not (tmp_path / "none").exists()


def test_json_lines_leave_nothing_out(cache: ImageCache) -> None:
    for left_out in ({"with_config": True}, {"people": False}):
        with pytest.raises(InvalidConfigError, match="nothing is left out"):
            cache.export(io.BytesIO(), **left_out)  # type: ignore[arg-type]
    with pytest.raises(InvalidConfigError, match="'xml' is no format; use jsonl, cloudevents"):
        cache.export(io.BytesIO(), format="xml")  # type: ignore[arg-type]


def test_people_are_left_out_on_request(cache: ImageCache) -> None:
    for format_ in ("cloudevents", "csv"):
        out = io.BytesIO()
        cache.export(out, format=format_, people=False)  # type: ignore[arg-type]
        assert b"alice" not in out.getvalue()
    cache.export(out, format="csv")
    assert b"alice" in out.getvalue()


def change(cache: ImageCache, statement: str) -> None:
    with closing(sqlite3.connect(cache.home / "db" / "msb-cache.db")) as connection, connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        connection.execute(statement)


@EVERY
def test_an_unknown_event_is_one_clear_error(cache: ImageCache, tmp_path: Path, format_: str) -> None:
    change(cache, "UPDATE events SET type = 'image.odd' WHERE seq = 4")
    with pytest.raises(UnknownEventError, match=r"image\.odd"):
        cache.export(tmp_path / "out", format=format_)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_what_can_be_read_is_kept(cache: ImageCache, tmp_path: Path) -> None:
    change(cache, "UPDATE events SET data = '{' WHERE seq = 5")
    for format_ in FORMATS:
        with pytest.raises(CorruptLogError, match="only 4 events could be exported, up to event 4"):
            cache.export(tmp_path / format_, format=format_)  # type: ignore[arg-type]
    assert len(json.loads((tmp_path / "cloudevents-batch").read_bytes())) == 4
    assert len((tmp_path / "csv").read_text().splitlines()) == 5
