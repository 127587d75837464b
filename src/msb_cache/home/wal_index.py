"""Wait for a process that is making a database's ``-shm``, where SQLite waits without end or signal for it.

The first process that opens a database in WAL mode makes that file, under locks at which SQLite asks no busy
handler: any other process tries again for ten seconds, in C, and then fails with SQLITE_PROTOCOL. Where that
may be, SQLite is let wait in a thread of its own, and this one for that thread.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing

from msb_cache.home import descriptors
from msb_cache.waiting import TURN_SECONDS, Wait, is_busy

_WHOLE = 32 * 1024
"""Bytes of the smallest whole one."""


def is_short(path: str | os.PathLike[str]) -> bool:
    """Return whether a database's ``-shm`` is half made: a process makes it now, or was killed at that."""
    return 0 <= _size(f"{os.fspath(path)}-shm") < _WHOLE


def may_be_half_made(path: str) -> bool:
    """Return whether the ``-shm`` is half made, or may be whole and without content yet.

    What it says can only be seen through SQLite: to open and close the file would drop the locks that this
    process may have on it. Before anything is written to the log, there is nothing to wait for anyway.
    """
    size = _size(f"{path}-shm")
    return size >= 0 and (size < _WHOLE or _size(f"{path}-wal") <= 0)


def _size(path: str) -> int:
    """Return a file's length in bytes; -1: there is none that can be seen."""
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def wait_for(path: str, say: Callable[[], object] | None, seconds: float) -> None:
    """Return when a database can be opened, or fails for another reason than a half made ``-shm``.

    Args:
        path: the database.
        say: called once, when that takes longer than a second.
        seconds: how long to wait.

    Raises:
        sqlite3.OperationalError: with SQLITE_BUSY, after so many seconds.
    """
    from threading import Thread  # a command that reads needs none

    wait = Wait(say, seconds)
    while may_be_half_made(path):
        busy: list[sqlite3.Error] = []
        thread = Thread(target=_open, args=(path, busy), daemon=True)
        thread.start()
        while thread.is_alive():
            if wait.over():
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                raise error
        if not busy:
            return


def _open(path: str, busy: list[sqlite3.Error]) -> None:
    from urllib.parse import quote

    try:
        address = f"file:{quote(os.fsencode(path))}?mode=rw"
        with closing(descriptors.connect(address, uri=True, timeout=TURN_SECONDS)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        if is_busy(error):
            busy.append(error)
