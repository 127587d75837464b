"""Look at a file that SQLite may have open in this process, without giving up its locks.

They are POSIX locks: a process loses all that it has on a file when it closes any descriptor of it, whichever
part of the program that was. SQLite minds that among its own connections, and cannot know of others. To
other processes the database then looks as if this one did not have it open, and the last of them to close it
deletes the write-ahead log.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from _thread import RLock  # threading is not imported by commands that read
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_opening = RLock()
"""Held while SQLite opens or closes a file, and while one is opened and closed that SQLite did not have open.

A thread may take it again, because the garbage collector closes what was dropped wherever a thread is."""

_FOLDERS = ("/proc/self/fd", "/dev/fd")
_CHUNK = 1024 * 1024


def connect(database: str | os.PathLike[str], **options: Any) -> sqlite3.Connection:
    """Open a database as ``sqlite3.connect`` does, while no other thread looks at the file.

    Any thread may use the connection; the caller sees to it that one does at a time.
    """
    with _opening:
        connection: sqlite3.Connection = sqlite3.connect(database, check_same_thread=False, **options)
        return connection


def close(connection: sqlite3.Connection, opening: Any = _opening) -> None:
    """Close a database, while no other thread looks at the file with the descriptor of it that SQLite has."""
    with opening:
        connection.close()


def hold_back() -> None:
    """Let no other thread open or close a database until ``let_go``."""
    _opening.acquire()


def let_go() -> None:
    """Let other threads go on; said by the thread that held them back, in a forked child as well."""
    _opening.release()


def open_here(path: str | os.PathLike[str]) -> int | None:
    """Return a descriptor that this process has of a file, for as long as what opened it keeps it open.

    Raises:
        OSError: there is no such file.
    """
    wanted = os.stat(path)
    folder = next(filter(os.path.isdir, _FOLDERS))
    for name in os.listdir(folder):
        try:
            found = os.fstat(int(name))
        except OSError:
            continue  # the one with which the folder was listed
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return int(name)
    return None


@contextmanager
def lent(path: str | os.PathLike[str]) -> Iterator[int]:
    """Give a descriptor of a file for the block, in which no other thread opens a database; raises OSError.

    It is one that this process has anyway, or else one for reading.
    """
    with _opening:
        descriptor = open_here(path)
        if descriptor is not None:
            yield descriptor
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def chunks(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """Yield a regular file's bytes; no other thread opens a database meanwhile. Raises OSError."""
    with lent(path) as descriptor:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is no regular file")
        at = 0
        while chunk := os.pread(descriptor, _CHUNK, at):
            yield chunk
            at += len(chunk)


def beginning(path: str | os.PathLike[str], size: int) -> bytes:
    """Return the first bytes of a regular file, fewer if it is shorter; raises OSError."""
    with _opening:
        descriptor = open_here(path)
        if descriptor is not None:
            try:
                found = os.pread(descriptor, size, 0)
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return found
            except OSError:
                pass  # another thread has just closed it
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError("it is no regular file")
            return os.pread(descriptor, size, 0)
        finally:
            os.close(descriptor)
