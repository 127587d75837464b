"""Room that is kept for a deletion: on a full disk it could not be recorded, and so could not free anything.

``db/reserve`` is allocated and never read. A deletion that has too little room gives it up in small steps,
and takes each step at once for the write-ahead log, into which its transaction is written: another process
that takes all that comes free may get some steps, and not all of them. Afterwards it is made again, as far as
there is room. Nothing here decides whether a process may have the database to itself (``connect``).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from msb_cache.artifacts import files
from msb_cache.artifacts.files import is_full
from msb_cache.home.pairing import end_of_log

if TYPE_CHECKING:
    from msb_cache.artifacts.layout import Layout

SMALLEST = 1024 * 1024
"""Bytes of the reserve of a home with few images."""

_BASE = 256 * 1024
_PER_IMAGE = 6 * 1024
"""Bytes for each image of a home with many. Measured, in the write-ahead log: 3.5 KiB for the decision to
delete an image of two layers, 2 KiB for what became of it; and 1.5 KiB more of the database."""

_ACTOR = 128
"""Bytes of the actor in those events; where the caller says more of itself, that stands in each of them."""
_ACTORS_PER_IMAGE = 8
"""How often it stands there until all is recorded of an image of two layers. Measured: less than 4."""

_PER_EVENT = 2 * 1024
_PER_TRANSACTION = 96 * 1024

STEP = 32 * 1024
"""Bytes that are given up at a time."""

_SMALL_FILES = 64 * 1024
"""Bytes that a deletion may need beside the log: for lock files, and for the folders in which they lie."""


def wanted(images: int, actor: int = _ACTOR) -> int:
    """Return how many bytes are to be kept in a home with so many images, and actors of so many bytes."""
    return max(SMALLEST, _BASE + (_PER_IMAGE + _ACTORS_PER_IMAGE * max(actor - _ACTOR, 0)) * images)


def needed(events: int, actor: int = _ACTOR) -> int:
    """Return how many bytes of the write-ahead log a transaction of so many events takes at most."""
    return _PER_TRANSACTION + (_PER_EVENT + max(actor - _ACTOR, 0)) * events


def held(layout: Layout) -> int:
    """Return how many bytes are kept now; 0 where there is no reserve."""
    try:
        found = os.lstat(layout.reserve)
    except OSError:
        return 0
    return min(found.st_size, found.st_blocks * 512)  # what was copied with holes keeps nothing


def free(layout: Layout) -> int:
    """Return how many bytes any user can still take of the file system of ``db``; quotas are not known."""
    found = os.statvfs(layout.db)
    return found.f_bavail * found.f_frsize


def keep(layout: Layout, size: int) -> None:
    """Make the reserve as large as this, if there is room for twice that."""
    if (have := held(layout)) < size and free(layout) >= 2 * size - have:
        _allocate(layout, size)


def restore(layout: Layout, size: int) -> None:
    """Make the reserve again after a deletion has drawn on it: as large as this, or as there is room."""
    have = held(layout)
    if have > size:
        give_up(layout, have - size)
    while have < size and _allocate(layout, min(size, have + 8 * STEP)):
        have = min(size, have + 8 * STEP)


def _allocate(layout: Layout, size: int) -> bool:
    """Whether the file has this size now, and its blocks; the disk may refuse either."""
    try:
        descriptor = files.open_private(layout.reserve, os.O_RDWR)
    except OSError:
        return False  # something else lies there, or no file can be made
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def give_up(layout: Layout, size: int) -> bool:
    """Let so many bytes of the reserve come free; return whether any did."""
    try:
        descriptor = os.open(layout.reserve, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        have = os.fstat(descriptor).st_size
        os.ftruncate(descriptor, max(0, have - size))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return have > 0


def make_room(layout: Layout, size: int = _SMALL_FILES) -> bool:
    """Let so many bytes of the reserve come free if there is less room; return whether any did."""
    return free(layout) < size and give_up(layout, size)


def draw(layout: Layout, size: int) -> bool:
    """Give the write-ahead log room for a transaction, taken from the reserve where the disk has none.

    What cannot be had is not an error here: it may not be needed, and SQLite says so if it is.

    Args:
        layout: the home; the caller is in a write transaction, so that no other process writes to the log.
        size: bytes that the transaction takes of it at most.

    Returns:
        Whether the log may be longer now than what is in it (see ``trim``).
    """
    if free(layout) >= 2 * size:
        return False
    with _log(layout) as descriptor:
        end = end_of_log(descriptor) + size
        while (have := os.fstat(descriptor).st_size) < end:
            try:
                # Zeros behind the last page in the log mean nothing to SQLite, which writes over them.
                os.posix_fallocate(descriptor, have, min(STEP, end - have))
            except OSError as error:
                if not is_full(error) or not give_up(layout, STEP):
                    break
    return True


def trim(layout: Layout, connection: sqlite3.Connection) -> None:
    """Let come free what a transaction was given of the write-ahead log and did not take.

    To copy the log into the database may need it. ``connection`` is in no transaction.

    Raises:
        OSError, sqlite3.OperationalError: it cannot be done.
    """
    connection.execute("BEGIN IMMEDIATE")  # so that no other process writes to the log
    try:
        with _log(layout) as descriptor:
            os.ftruncate(descriptor, end_of_log(descriptor))
    finally:
        connection.execute("ROLLBACK")


@contextmanager
def _log(layout: Layout) -> Iterator[int]:
    # SQLite locks nothing in this file, so closing it gives no lock of this process up.
    descriptor = os.open(f"{layout.database}-wal", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
