"""Open an SQLite database of another program or home: read-only, in one read, and without leaving a trace.

It may come from anywhere, be written to by others meanwhile, and lie where nothing can be written. What
its tables hold is for the caller to know.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from msb_cache.home import descriptors, shared_memory
from msb_cache.home.wal_index import is_short
from msb_cache.waiting import TURN_SECONDS, patiently

MAGIC = b"SQLite format 3\0"
"""How every SQLite database begins."""

MAX_VALUE = 8 * 1024 * 1024
"""Bytes of any value that is looked at; SQLite hands out no larger one."""

_LOCKED_SECONDS = 0.5
"""How long a process may have a database to itself before a copy is read."""

_COPY_ATTEMPTS = 40
_MEMORY = "/dev/shm"  # noqa: S108 - a folder of our own is made in it
_BESIDE_COPY = 256 * 1024  # bytes, for what SQLite makes beside it
MTIME_TICK = 20_000_000
"""Nanoseconds: two writes that close together can leave the same modification time."""


@contextmanager
def opened(path: str | Path) -> Iterator[sqlite3.Connection]:
    """Open a database, or a copy of it where opening it would leave files behind, in one read.

    Raises:
        OSError, sqlite3.Error: it cannot be read.
    """
    found = shared(path)
    if found is not None:
        with closing(found) as connection:
            yield connection
        return
    with folder_for(path) as folder:
        target = folder / "copy.db"
        copy(path, target)
        with closing(_begin(f"file:{quote(os.fsencode(target))}")) as connection:
            yield connection


@contextmanager
def damaged(path: Path, table: str, columns: Sequence[str]) -> Iterator[sqlite3.Connection]:
    """Open a copy of a database for what can be read of one table, where it is too damaged for ``opened``.

    Raises:
        OSError, sqlite3.Error: nothing of it can be read.
    """
    with folder_for(path) as folder:
        target = folder / "copy.db"
        copy(path, target)
        with closing(_connected(f"file:{quote(os.fsencode(target))}")) as connection:
            # Else SQLite reads nothing if the file is too short or a line of the schema is none.
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("BEGIN")
            kinds = connection.execute(
                "SELECT type FROM pragma_table_list WHERE name = ?", (table,)
            ).fetchall()
            if kinds != [("table",)]:
                raise sqlite3.DataError(f"its table {table} cannot be found")
            _check_stored(connection, table, columns)
            yield connection


def _shared(path: str | Path) -> bool:
    """Whether the database is ours and open to others already."""
    try:
        found = [os.stat(f"{path}{suffix}") for suffix in ("", "-wal", "-shm")]
    except OSError:
        return False
    ours = all(stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() for status in found)
    return ours and not is_short(path)


def shared(path: str | Path) -> sqlite3.Connection | None:
    """Open a database of this user that other processes have open; None: it would leave files behind.

    A read-only connection to a database in WAL mode uses the -wal and -shm that are there, and leaves them
    there. It keeps no process from writing.

    Returns:
        A connection in one read, which holds what is there.
    """
    if not _shared(path) or not shared_memory.fits(path):
        return None
    try:
        return patiently(lambda: _begin(f"file:{quote(os.fsencode(path))}?mode=ro"), seconds=_LOCKED_SECONDS)
    except sqlite3.OperationalError:
        return None  # such as a -shm that only a writer can mend, or a process that has it to itself


def stamp(path: str | Path) -> tuple[Status, Status]:
    """Return what a database file and its write-ahead log are now; of a log that is not there, zeros.

    Raises:
        OSError: there is no such database.
    """
    try:
        log = _status(f"{path}-wal")
    except FileNotFoundError:
        log = Status(0, 0, 0)
    return _status(path), log


def _begin(address: str) -> sqlite3.Connection:
    connection = _connected(address)
    try:
        _begin_reading(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _connected(address: str) -> sqlite3.Connection:
    connection = descriptors.connect(address, uri=True, isolation_level=None, timeout=TURN_SECONDS)
    try:
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE)
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _begin_reading(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


@contextmanager
def reading(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Read once more on a connection whose read has ended."""
    connection.execute("BEGIN")
    try:
        yield connection
    finally:
        connection.execute("ROLLBACK")


class Status(NamedTuple):
    """What tells that a file is another or was changed; the time in ns since the epoch."""

    inode: int
    size: int
    mtime_ns: int


@contextmanager
def folder_for(path: str | Path) -> Iterator[Path]:
    """Make a folder with room for a copy of a database, where temporary files lie, or else in memory.

    Raises:
        OSError: none can be made.
    """
    size = sum(status.size for status in stamp(path))
    parent = None
    for place in (_temporary(), _MEMORY):
        if parent is None and place is not None and os.path.isdir(place):
            found = os.statvfs(place)
            if found.f_bavail * found.f_frsize >= 2 * size + _BESIDE_COPY:
                parent = place
    folder = Path(tempfile.mkdtemp(prefix="msb-cache-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _temporary() -> str | None:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return None  # it could write to none of them


def copy(path: str | Path, target: Path) -> None:
    """Copy the database and its write-ahead log, both as they were at one moment.

    In WAL mode the database file changes only when a checkpoint copies pages out of the log, and what a
    checkpoint copies stands in the log until that is begun anew. So the two belong together if the log
    has not changed meanwhile, or has only grown while the database file stayed as it was.

    Raises:
        OSError: one cannot be read, or they change faster than that.
    """
    wal = Path(f"{path}-wal")
    for attempt in range(_COPY_ATTEMPTS):
        began = time.time_ns()
        before, log = _status(path), _content(wal)
        with target.open("wb") as copied:
            copied.writelines(descriptors.chunks(path))
        after, log_after = _status(path), _content(wal)
        same = before == after and abs(began - before.mtime_ns) > MTIME_TICK
        if (same and log_after[: len(log)] == log) or (log and log_after == log):
            if log:
                Path(f"{target}-wal").write_bytes(log)
            return
        time.sleep(min(0.005 * (attempt + 1), 0.05))
    raise OSError("it changes faster than it can be read; try again")


def _status(path: str | Path) -> Status:
    found = os.stat(path)
    return Status(found.st_ino, found.st_size, found.st_mtime_ns)


def _content(path: Path) -> bytes:
    try:
        return b"".join(descriptors.chunks(path))
    except FileNotFoundError:
        return b""


def regular(path: str | Path) -> Any:
    """Open a regular file for reading bytes, and nothing else.

    Raises:
        OSError: it cannot be opened, or is something else.
    """
    # Not blocking, so that a pipe in the file's place is refused and not waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is no regular file")
    return os.fdopen(descriptor, "rb")


def check_columns(connection: sqlite3.Connection, table: str, columns: Sequence[str]) -> None:
    """Check that a table is one and stores these columns, computing none.

    Raises:
        sqlite3.DataError: it is no such table.
    """
    if not has_table(connection, table):
        raise sqlite3.DataError(f"it has no table {table} with a column {columns[0]}")
    _check_stored(connection, table, columns)


def _check_stored(connection: sqlite3.Connection, table: str, columns: Sequence[str]) -> None:
    stored = {row[1] for row in connection.execute(f"PRAGMA table_xinfo({table})") if row[6] == 0}
    missing = [column for column in columns if column not in stored]
    if missing:
        raise sqlite3.DataError(f"it has no table {table} with a column {missing[0]}")


def has_table(connection: sqlite3.Connection, table: str) -> bool:
    """Return whether the schema has this table, as a table: of a view, a file could make anything."""
    return (
        connection.execute(
            "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ? AND sql LIKE 'CREATE TABLE%'",
            (table,),
        ).fetchone()
        is not None
    )
