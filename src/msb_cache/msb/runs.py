"""Read msb's record of boots: those that are new, and those that were open.

msb adds a row to ``run`` for every boot and changes it when the boot is over; rows go with their sandbox. No
number is used for two of them, so those behind the last one that was looked at are new.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from msb_cache.home import foreign_db

BATCH = 10_000
"""So many new runs are looked at in one transaction."""

_TEXT = "substr(CAST({0} AS BLOB), 1, 64)"
_NUMBER = "CASE typeof({0}) WHEN 'integer' THEN {0} END"
_COLUMNS = {
    "sandbox_id": _NUMBER,
    "pid": _NUMBER,
    "status": _TEXT,
    "started_at": _TEXT,
    "terminated_at": _TEXT,
}
"""What is read of a run; hostile values come as bytes of bounded length, or not at all."""


class Cursor(NamedTuple):
    """How far the runs of a database were looked at.

    Attributes:
        database: its identity; None: none was looked at.
        through: the greatest id that was looked at.
        recorded_through: of ids up to this one the log can have runs already, though they are behind that.
        open: which runs the log has as open.
    """

    database: str | None = None
    through: int = 0
    recorded_through: int = 0
    open: frozenset[str] = frozenset()


class MsbRun(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One boot of a sandbox. Times in ns since the epoch, UTC; None: msb has none that can be read."""

    key: str
    """Identifies it for good: its number, and when it began."""
    sandbox: int | None
    """msb's id of the sandbox."""
    pid: int | None
    is_open: bool
    started_at_ns: int | None
    terminated_at_ns: int | None


class MsbRuns(msgspec.Struct, frozen=True, kw_only=True):
    """What was found behind a cursor, and of the runs that were open.

    Attributes:
        database: identifies the database: another file, or another beginning, has runs of its own.
        through: the greatest id that was looked at.
        found: the new ones, then those that were open, each by id.
        is_new_database: the cursor was not of this database, so all its runs are looked at.
        is_complete: nothing is left behind ``through``.
        without_row: how many ids were given to boots whose rows are gone.
    """

    database: str
    through: int
    found: tuple[MsbRun, ...]
    is_new_database: bool
    is_complete: bool
    without_row: int


def read(
    connection: sqlite3.Connection, path: str | Path, cursor: Cursor, as_ns: Callable[[Any], int | None]
) -> MsbRuns | None:
    """Read the runs behind a cursor, and those that were open; None when the schema has none.

    Args:
        connection: msb's database, in a read.
        path: its file.
        cursor: how far they were looked at.
        as_ns: turns a time of msb's into ns since the epoch.
    """
    if "id" not in _present(connection, "run"):
        return None
    database = _identity(connection, path)
    last = _last(connection)
    anew = cursor.database != database or last < cursor.through
    after = 0 if anew else cursor.through
    columns = _columns(connection)
    query = f"SELECT id, {columns} FROM run WHERE "  # noqa: S608
    behind = connection.execute(f"{query} id > ? ORDER BY id LIMIT {BATCH}", (after,)).fetchall()
    complete = len(behind) < BATCH
    through = max(last, after) if complete else int(behind[-1][0])
    ids = msgspec.json.encode([number for key in cursor.open if (number := number_of(key)) <= after])
    by_id = f"{query} id IN (SELECT value FROM json_each(?)) ORDER BY id"  # noqa: S608
    were_open = connection.execute(by_id, (ids.decode(),)).fetchall()
    return MsbRuns(
        database=database,
        through=through,
        found=tuple([_run(row, as_ns) for row in (*behind, *were_open)]),
        is_new_database=anew,
        is_complete=complete,
        without_row=max(through - after - len(behind), 0),
    )


def number_of(key: str) -> int:
    """Return msb's id of a run by its key; 0 if the key is none of ours."""
    number = key.partition("@")[0].removeprefix("run:")
    return int(number) if number.isdecimal() and len(number) < 19 else 0


def _identity(connection: sqlite3.Connection, path: str | Path) -> str:
    """Return what tells the database from one that was put into its place."""
    made = None
    if "applied_at" in _present(connection, "seaql_migrations"):
        (made,) = connection.execute(
            f"SELECT min({_NUMBER.format('applied_at')}) FROM seaql_migrations"  # noqa: S608
        ).fetchone()
    return f"{os.stat(path).st_ino}@{'-' if made is None else made}"


def _last(connection: sqlite3.Connection) -> int:
    """Return the greatest id that a run ever had here."""
    (greatest,) = connection.execute("SELECT max(id) FROM run").fetchone()
    given = None
    if foreign_db.has_table(connection, "sqlite_sequence"):
        given = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'run'").fetchone()
    return max(each for each in (0, greatest, given and given[0]) if isinstance(each, int))


def _present(connection: sqlite3.Connection, table: str) -> set[str]:
    """Return the columns of a table; none if there is no such table."""
    if not foreign_db.has_table(connection, table):
        return set()
    return {str(row[1]).lower() for row in connection.execute(f"PRAGMA table_info({table})")}


def _columns(connection: sqlite3.Connection) -> str:
    present = _present(connection, "run")
    return ", ".join(how.format(f'"{name}"') if name in present else "NULL" for name, how in _COLUMNS.items())


def _run(row: Sequence[Any], as_ns: Callable[[Any], int | None]) -> MsbRun:
    number, sandbox, pid, status, started, terminated = row
    started_at = as_ns(_text(started))
    return MsbRun(
        key=f"run:{number}@{'-' if started_at is None else started_at}",
        sandbox=sandbox,
        pid=pid,
        is_open=terminated is None and _text(status) != "Terminated",
        started_at_ns=started_at,
        terminated_at_ns=as_ns(_text(terminated)),
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")
