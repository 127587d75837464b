"""The ``-shm`` beside a database in WAL mode: whether there is room to make it, and all of it on the disk.

It is a file that processes share as memory. SQLite writes one byte to each 4 KiB of it, so that the disk
gives it room; where blocks are smaller, that leaves holes, and a process that comes to write into one when
the disk is full dies of SIGBUS, which nothing in Python can catch.
"""

from __future__ import annotations

import os
import sqlite3

from msb_cache.artifacts.files import is_full
from msb_cache.home.descriptors import open_here

_BLOCK = 4096
"""Bytes of each of which SQLite writes one."""

_FRAME_HEADER = 24
"""Bytes before each page in a write-ahead log."""

_REGION = 32 * 1024
_FRAMES = 4096
"""It has a region of 32 KiB for each 4,096 pages in the write-ahead log, and one at first."""

_ROOM = 4 * _REGION
_ROOM_WITH_HOLES = 32 * _REGION
"""So much that no other process can fill it while SQLite makes the file."""

_ERRORS = frozenset({sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMOPEN, sqlite3.SQLITE_IOERR_SHMMAP})


def fits(database: str | os.PathLike[str]) -> bool:
    """Return whether there is room to make one beside a database; raises OSError."""
    folder = os.path.dirname(database)
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if found.f_frsize >= _BLOCK:
        return free >= _ROOM  # and if not, SQLite says so
    return free >= _ROOM_WITH_HOLES and _is_granted(folder, 2 * _REGION)


def _is_granted(folder: str, size: int) -> bool:
    """Whether so much can be allocated now; a quota, for one, is known only by trying."""
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return True  # files without a name are not to be had there, or this user makes none
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        return not is_full(error)
    finally:
        os.close(descriptor)
    return True


def is_lacking(error: sqlite3.Error) -> bool:
    """Return whether SQLite failed because it could not make one, or make it larger."""
    return getattr(error, "sqlite_errorcode", 0) in _ERRORS


def is_left_with_holes(database: str | os.PathLike[str]) -> bool:
    """Return whether SQLite does not have all of it allocated by itself; raises OSError."""
    return os.statvfs(os.path.dirname(database)).f_frsize < _BLOCK


def allocate(database: str, connection: sqlite3.Connection) -> bool:
    """Allocate it as far as the transaction that has begun can come to use it; False: there is no room.

    Args:
        database: the database.
        connection: in its write transaction; other processes may have the database open as well.

    Raises:
        OSError: the disk refuses it for another reason.
    """
    pages, page = connection.execute(
        "SELECT page_count, page_size FROM pragma_page_count, pragma_page_size"
    ).fetchone()
    in_log = os.stat(f"{database}-wal").st_size // (page + _FRAME_HEADER)
    # A page of the database stands in a transaction once; one region more is for pages that it adds.
    size = ((in_log + pages) // _FRAMES + 2) * _REGION
    try:
        # Through SQLite's own descriptor: to close one of ours would give up the locks that it has.
        descriptor = open_here(f"{database}-shm")
        if descriptor is None:
            raise FileNotFoundError(f"{database}-shm was taken away while SQLite uses it")
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if not is_full(error):
            raise
        return False
    return True
