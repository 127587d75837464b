"""Files that are given as logs or states, whatever is in them."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from msb_cache import CorruptLogError, ImageCache, LogError, NewerDatabaseError
from msb_cache.artifacts.layout import Layout
from tests.carrying import USED, forged, lived_in


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return lived_in(tmp_path / "home")


def _foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (name)")


def _empty_database(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + bytes(84))


def _newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def _view(path: Path) -> None:
    """A table that is made up by a query would never end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TABLE events")
        connection.execute(
            "CREATE VIEW events AS WITH RECURSIVE n(seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM n) "
            "SELECT seq, '' id, '' type, 1 version, '' subject, '' operation, 1 occurred_at, 1 recorded_at, "
            "'{}' actor, '{}' data, x'00' hash FROM n"
        )


def _generated(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TABLE events")
        connection.execute(
            "CREATE TABLE events (seq, id, type, version, subject, operation, occurred_at, recorded_at, "
            "actor, data GENERATED ALWAYS AS (hex(zeroblob(100000000))), hash)"
        )


def _damaged(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xaa" * (len(data) - 4096))


def _other_types(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TRIGGER events_no_update")
        connection.execute("UPDATE events SET occurred_at = 'yesterday' WHERE seq = 2")


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (_foreign, CorruptLogError, "not one of msb-cache"),
        (_empty_database, CorruptLogError, "damaged"),
        (_newer, NewerDatabaseError, "upgrade msb-cache"),
        (_view, CorruptLogError, "no table events"),
        (_generated, CorruptLogError, "column data"),
        (_damaged, CorruptLogError, "damaged"),
        (_other_types, CorruptLogError, "its occurred_at is no integer"),
        (lambda path: path.write_bytes(b""), LogError, "the log is empty"),
        (lambda path: path.write_bytes(b"hello\n"), CorruptLogError, "line 1 is no exported event"),
        (lambda path: path.unlink(), LogError, "No such file"),
        (lambda path: (path.unlink(), path.mkdir()), LogError, "regular file"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_files_that_are_no_log(
    home: Path, tmp_path: Path, spoil: Any, error: type[Exception], says: str
) -> None:
    path = tmp_path / "log"
    if spoil is not _foreign:
        with closing(sqlite3.connect(Layout(home).database)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(Layout(home).database, path)
    spoil(path)
    with ImageCache(tmp_path / "none") as cache:
        with pytest.raises(error, match=says):
            list(cache.replay(log=path))
        with pytest.raises(LogError):
            cache.compare_state(path, log=path)


def test_events_that_would_harm_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(forged(tmp_path, USED, subject="docker.io/UPPER:1"))
    with ImageCache(tmp_path / "none") as cache, pytest.raises(CorruptLogError, match="event 2 is none"):
        list(cache.replay(log=path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "neither"),
        ("{}", "neither"),
        ("[]", "neither"),
        ("[" * 100_000, "neither"),
        ('{"kind":"x","log_id":"","seq":1,"hash":null,"fold_version":2,"tables":{}}', "no state"),
        (
            '{"kind":"msb-cache state","log_id":"","seq":1,"hash":null,"fold_version":2,'
            '"tables":{"image":[["a"]]}}',
            "rows of 'image'",
        ),
        (
            '{"kind":"msb-cache state","log_id":"","seq":1,"hash":null,"fold_version":2,'
            '"tables":{"x":[[1]]}}',
            "rows of 'x'",
        ),
        (
            '{"kind":"msb-cache state","log_id":"","seq":1,"hash":null,"fold_version":2,'
            '"tables":{"layer":[["a",' + "9" * 5000 + ",1]]}}",
            "state",
        ),
    ],
    ids=lambda value: value[:30],
)
def test_files_that_are_no_state(home: Path, tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "state").write_text(text)
    with ImageCache(home) as cache, pytest.raises(CorruptLogError, match=says):
        cache.compare_state(tmp_path / "state")
