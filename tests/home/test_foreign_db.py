"""Databases of others: read in one read, never written to, and nothing is left beside them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache.home import foreign_db


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "theirs").mkdir()
    path = tmp_path / "theirs" / "a?b#c.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a, b, made AS (a + b))")
        connection.execute("CREATE VIEW v AS SELECT a, b FROM t")
        connection.execute("INSERT INTO t VALUES (1, 2)")
    return path


@pytest.fixture(params=["at rest", "open"])
def used(request: pytest.FixtureRequest, path: Path) -> Iterator[Path]:
    if request.param == "at rest":
        yield path
        return
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO t VALUES (3, 4)")
        yield path


def content(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.suffix != ".db-shm"}


def test_reading_leaves_nothing_and_writes_nothing(used: Path) -> None:
    before, names = content(used.parent), sorted(os.listdir(used.parent))
    with foreign_db.opened(used) as connection:
        rows = connection.execute("SELECT a, b FROM t").fetchall()
        with pytest.raises(sqlite3.OperationalError):
            connection.execute("INSERT INTO t VALUES (5, 6)")
    assert rows == ([(1, 2), (3, 4)] if f"{used.name}-wal" in names else [(1, 2)])
    assert content(used.parent) == before
    assert sorted(os.listdir(used.parent)) == names


def test_one_that_nobody_has_open_is_not_opened_in_its_place(path: Path) -> None:
    assert foreign_db.shared(path) is None
    with closing(sqlite3.connect(path)) as other:
        other.execute("SELECT * FROM t").fetchall()
        found = foreign_db.shared(path)
        assert found is not None
        found.close()


def test_one_read_sees_one_moment(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("SELECT * FROM t").fetchall()
        with foreign_db.opened(path) as connection:
            before = connection.execute("SELECT * FROM t").fetchall()
            other.execute("INSERT INTO t VALUES (5, 6)")
            assert connection.execute("SELECT * FROM t").fetchall() == before


def test_a_value_that_is_too_large_is_not_read(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE t SET a = zeroblob(?)", (foreign_db.MAX_VALUE + 1,))
    with foreign_db.opened(path) as connection, pytest.raises(sqlite3.DataError, match="too big"):
        connection.execute("SELECT a FROM t").fetchone()


@pytest.mark.parametrize(
    ("table", "columns", "missing"),
    [
        ("t", ["a", "b"], None),
        ("t", ["a", "made"], "made"),
        ("t", ["c"], "c"),
        ("v", ["a"], "a"),
        ("x", ["a"], "a"),
    ],
)
def test_only_stored_columns_of_tables_count(
    path: Path, table: str, columns: list[str], missing: str | None
) -> None:
    with foreign_db.opened(path) as connection:
        if missing is None:
            foreign_db.check_columns(connection, table, columns)
            return
        with pytest.raises(sqlite3.DataError, match=f"no table {table} with a column {missing}"):
            foreign_db.check_columns(connection, table, columns)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for each in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match="no regular file"):
            foreign_db.regular(each)


def test_a_database_that_never_rests_is_given_up(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    numbers = iter(range(1000))
    monkeypatch.setattr(foreign_db, "_content", lambda wal: b"%d" % next(numbers))
    with pytest.raises(OSError, match="changes faster than it can be read"):
        foreign_db.copy(path, tmp_path / "copy")
