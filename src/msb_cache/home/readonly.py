"""Open the home's database where nothing can be written: a read-only or full disk, or another user's home.

SQLite cannot read a database in WAL mode without its ``-wal`` and ``-shm`` files, which it makes where there
are none. Where they are there and can be read, the database is opened like any other, and its writers are
seen. Where they are not and cannot be made, it is opened as a file that does not change, and what it was then
is remembered, so that a change is noticed. Nothing here decides whether a home may be written to.
"""

from __future__ import annotations

import os
import sqlite3
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from msb_cache.home import descriptors

if TYPE_CHECKING:
    from pathlib import Path

_MTIME_TICK = 0.02
"""Seconds: two writes that close together can leave the same modification time."""

_REFUSALS = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})


class Content(NamedTuple):
    """What shows that a database file, or its write-ahead log, was changed. Sizes in bytes; -1: no log."""

    inode: int
    size: int
    mtime_ns: int
    log_size: int
    log_mtime_ns: int


def is_refusal(error: sqlite3.Error) -> bool:
    """Return whether SQLite failed because it may not write, or may not make a file."""
    code = getattr(error, "sqlite_errorcode", 0)
    return isinstance(code, int) and code & 0xFF in _REFUSALS


def content(path: str | Path) -> Content:
    """Return what a database file is now; raises OSError."""
    found = os.stat(path)
    try:
        log = os.stat(f"{path}-wal")
    except FileNotFoundError:
        return Content(found.st_ino, found.st_size, found.st_mtime_ns, -1, 0)
    return Content(found.st_ino, found.st_size, found.st_mtime_ns, log.st_size, log.st_mtime_ns)


def in_wal_mode(path: str | Path) -> bool:
    """Return whether a database is in WAL mode, with no change in another one under way; raises OSError."""
    return descriptors.beginning(path, 20)[18:] == b"\2\2" and not os.path.lexists(f"{path}-journal")


def connect(path: str | Path) -> tuple[sqlite3.Connection, Content]:
    """Open a database that cannot be opened like any other; its locks are not looked at.

    Returns:
        The connection, in autocommit mode, and what the file is: its later changes the connection cannot see.

    Raises:
        sqlite3.Error, OSError: it cannot be read.
    """
    before = _settled(path)
    if before.log_size > 0:
        return _copied(path), before  # what is in the log is not yet in the file
    return _connect(path, "mode=ro&immutable=1"), before


def _settled(path: str | Path) -> Content:
    """Return what the file is, once a change after this would be seen in its modification time."""
    while True:
        found = content(path)
        age = time.time() - max(found.mtime_ns, found.log_mtime_ns) / 1e9
        if abs(age) > _MTIME_TICK:
            return found
        time.sleep(_MTIME_TICK)


def _copied(path: str | Path) -> sqlite3.Connection:
    from msb_cache.home.foreign_db import copy, folder_for

    with folder_for(path) as folder:
        target = folder / os.path.basename(path)
        copy(path, target)
        connection = _connect(target, "mode=rw")
        try:
            # The whole log goes into the file, so that SQLite never asks for it by name when that is gone.
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA query_only = ON")
        except BaseException:
            connection.close()
            raise
        return connection


def _connect(path: str | Path, parameters: str) -> sqlite3.Connection:
    address = f"file:{quote(os.fsencode(path))}?{parameters}"
    connection = descriptors.connect(address, uri=True, isolation_level=None)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection
