"""Reading msb's record of boots: what is new and what was open, and how little is read for it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache.home import foreign_db
from msb_cache.msb import runs
from msb_cache.msb.database import Asked, read
from msb_cache.msb.runs import Cursor, MsbRuns, number_of
from tests.msbhome import MsbHome


@pytest.fixture
def home(tmp_path: Path) -> Iterator[MsbHome]:
    found = MsbHome(tmp_path / "msb")
    found.load("app:1", "one")
    found.create("app:1", "dev")
    yield found
    found.close()


def look(home: MsbHome, cursor: Cursor = Cursor()) -> MsbRuns:  # noqa: B008 - it does not change
    found = read(home.path, Asked(cursor)).runs
    assert found is not None
    return found


def behind(found: MsbRuns, *open_: str) -> Cursor:
    return Cursor(found.database, found.through, 0, frozenset(open_))


def numbers(found: MsbRuns) -> list[int]:
    return [number_of(run.key) for run in found.found]


def test_what_is_new_and_what_was_open_is_read(home: MsbHome) -> None:
    first = home.boot("dev", pid=77)
    found = look(home)
    (run,) = found.found
    assert (run.is_open, run.pid, run.terminated_at_ns, run.sandbox) == (True, 77, None, 1)
    assert run.key == f"run:{first}@{run.started_at_ns}"
    assert run.started_at_ns == home.now
    assert (found.through, found.is_new_database, found.is_complete, found.without_row) == (1, True, True, 0)
    assert numbers(look(home, behind(found))) == []
    assert numbers(look(home, behind(found, run.key))) == [first]
    home.end(first)
    second = home.boot("dev")
    ended, new = sorted(look(home, behind(found, run.key)).found, key=lambda each: each.key)
    assert (ended.key, ended.is_open, ended.terminated_at_ns is None) == (run.key, False, False)
    assert (number_of(new.key), new.is_open) == (second, True)


def test_of_many_only_the_new_ones_are_read(home: MsbHome) -> None:
    home.connection.executescript(
        "INSERT INTO run (sandbox_id, status, started_at, terminated_at) "
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 5000) "
        "SELECT 1, 'Terminated', 1790000000 + x, 1790000001 + x FROM n"
    )
    cursor = behind(look(home))
    open_ = home.boot("dev")
    cursor = behind(look(home, cursor), look(home, cursor).found[0].key)
    for _ in range(3):
        home.boot("dev")
    steps: list[int] = []
    with foreign_db.opened(home.path) as connection:
        connection.set_progress_handler(lambda: steps.append(1), 10)
        found = runs.read(connection, home.path, cursor, lambda value: None)
    assert found is not None
    assert sorted(numbers(found)) == [open_, open_ + 1, open_ + 2, open_ + 3]
    assert len(steps) < 100, "SQLite did the work of a whole table"


def test_many_come_in_batches(home: MsbHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "BATCH", 2)
    ids = [home.boot("dev") for _ in range(5)]
    found, batches = look(home), []
    while not found.is_complete:
        batches.append(numbers(found))
        found = look(home, behind(found))
    assert [*batches, numbers(found)] == [ids[:2], ids[2:4], ids[4:]]


def test_numbers_whose_rows_are_gone_are_counted(home: MsbHome) -> None:
    home.boot("dev")
    cursor = behind(look(home))
    home.create("app:1", "gone")
    for _ in range(3):
        home.boot("gone")
    home.remove_sandbox("gone")
    found = look(home, cursor)
    assert (numbers(found), found.without_row, found.through) == ([], 3, 4)
    assert look(home, behind(found)).without_row == 0


def test_another_database_begins_anew(home: MsbHome, tmp_path: Path) -> None:
    home.boot("dev")
    cursor = behind(look(home))
    copied = tmp_path / "copy.db"
    with closing(sqlite3.connect(home.path)) as connection:
        connection.execute("VACUUM INTO ?", (str(copied),))
    found = read(copied, Asked(cursor)).runs  # another file
    assert found is not None
    assert (numbers(found), found.is_new_database) == ([1], True)
    assert not look(home, cursor).is_new_database
    home.connection.execute("UPDATE sqlite_sequence SET seq = 0 WHERE name = 'run'")
    home.connection.execute("DELETE FROM run")
    home.boot("dev")
    home.connection.execute("UPDATE run SET id = 1")
    assert not look(home, cursor).is_new_database
    assert look(home, cursor._replace(through=2)).is_new_database  # its numbers were given out again


def test_a_database_made_anew_in_the_same_file_is_another(home: MsbHome) -> None:
    script = "CREATE TABLE seaql_migrations (version varchar NOT NULL, applied_at integer NOT NULL);"
    home.connection.executescript(f"{script} INSERT INTO seaql_migrations VALUES ('a', 7), ('b', 8)")
    assert look(home).database.endswith("@7")
    home.connection.execute("ALTER TABLE seaql_migrations RENAME applied_at TO at")
    assert look(home).database.endswith("@-")


def test_a_schema_without_runs_has_none(tmp_path: Path) -> None:
    home = MsbHome(tmp_path / "msb", "images only")
    assert read(home.path, Asked(Cursor())).runs is None
    home.close()


def test_hostile_values_are_bounded(home: MsbHome) -> None:
    run = home.boot("dev")
    home.connection.execute(
        "UPDATE run SET pid = ?, status = ?, started_at = ?, terminated_at = ?",
        (b"\xff" * 9, "x" * 10**6, b"\xff\xfe", 2.5),
    )
    (found,) = look(home).found
    assert (found.key, found.pid, found.started_at_ns, found.is_open) == (f"run:{run}@-", None, None, False)


@pytest.mark.parametrize(
    ("key", "number"), [("run:7@12", 7), ("run:7@-", 7), ("x", 0), ("", 0), ("run:²@1", 0), ("run:@1", 0)]
)
def test_the_number_of_a_key(key: str, number: int) -> None:
    assert number_of(key) == number
