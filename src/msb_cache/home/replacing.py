"""Put another database in the place of one that cannot be read, all of it or nothing, whenever it is killed.

What lay there is linked into a folder first. A marker then says that the new one is to come; the process that
finds it, when it opens the database, goes on from wherever the first one was. Only a database that no process
has open can be replaced: SQLite deletes the write-ahead log by its name when it closes, whatever lies there.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from msb_cache.artifacts import durable
from msb_cache.artifacts.layout import Layout
from msb_cache.artifacts.locks import Lock
from msb_cache.errors import BusyError
from msb_cache.failpoints import reached
from msb_cache.home.descriptors import hold_back, let_go, open_here

COMPANIONS = ("-wal", "-shm", "-journal")
"""What SQLite keeps beside a database, by the ends of the names."""

_FLOCK = struct.Struct("hhqqi4x")
_OPENED = 128
"""The byte of the -shm that every connection keeps locked (SQLite, wal.c: WAL_DMS_LOCK is 120 + 8)."""


def replace(layout: Layout, operation: str) -> None:
    """Put a database in place, durably; what lay there has been set aside.

    Args:
        layout: the home, whose lock of migrations the caller holds.
        operation: the operation that built the new one in its own folder, closed and synced.
    """
    changes = durable.Changes()
    changes.write(Path(layout.replacing), operation.encode())
    changes.sync()
    reached("replace.begun")
    _finish(layout)


def finish(layout: Layout, say: Callable[[], object]) -> None:
    """Finish a replacement whose process is gone; wait for one that runs.

    Args:
        layout: the home.
        say: called once, when that takes longer than a second.
    """
    with Lock(layout.migrate_lock) as lock:
        lock.acquire(wait=None, say=say)
        if os.path.lexists(layout.replacing):
            _finish(layout)


def _finish(layout: Layout) -> None:
    operation = Path(layout.replacing).read_text(errors="replace")
    built = Layout(layout.building(operation)).database
    changes = durable.Changes()
    if os.path.lexists(built):
        for suffix in COMPANIONS:
            changes.delete(f"{layout.database}{suffix}")
        changes.sync()
        reached("replace.cleared")
        changes.replace(Path(built), Path(layout.database))
        changes.sync()
        reached("replace.placed")
    changes.delete(layout.replacing)
    changes.sync()
    reached("replace.done")


def set_aside(layout: Layout, operation: str) -> Path | None:
    """Link what lies in the database's place into a folder of its own; None if nothing does.

    The caller holds the lock of migrations.
    """
    found = [suffix for suffix in ("", *COMPANIONS) if os.path.lexists(f"{layout.database}{suffix}")]
    if not found:
        return None
    folder = new_folder(layout, operation)
    changes = durable.Changes()
    for suffix in found:
        path = Path(f"{layout.database}{suffix}")
        changes.link(path, folder / path.name)
    changes.sync()
    return folder


def set_strays_aside(layout: Layout, operation: str) -> Path | None:
    """Move what SQLite left beside a database that is gone into a folder; the caller holds the lock.

    SQLite would take it for that of the database which is about to be made.
    """
    strays = [Path(f"{layout.database}{suffix}") for suffix in COMPANIONS]
    strays = [path for path in strays if os.path.lexists(path)]
    if not strays or os.path.lexists(layout.database):
        return None
    folder = new_folder(layout, operation)
    changes = durable.Changes()
    for path in strays:
        changes.link(path, folder / path.name)
    changes.sync()
    for path in strays:
        changes.delete(path)
    changes.sync()
    return folder


def new_folder(layout: Layout, operation: str) -> Path:
    """Make a folder for what is set aside, named by the time (UTC) and the operation."""
    folder = layout.set_aside / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{operation[-12:]}"
    durable.make_folder(folder)
    return folder


def check_unopened(layout: Layout) -> None:
    """Refuse a database that another process has open, or another part of this one.

    Raises:
        BusyError: it has.
    """
    hold_back()  # no other thread of this process opens it now: it would lose its locks
    try:
        kind = _lock_of_others(f"{layout.database}-shm")
    except FileNotFoundError:
        return
    finally:
        let_go()
    if kind != fcntl.F_UNLCK:
        raise _opened(layout)


def _lock_of_others(path: str) -> int | None:
    """Return what lock keeps a connection from having a -shm alone; None: this process has it open."""
    if open_here(path) is not None:
        return None
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _OPENED, 1, 0)
        kind: int = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))[0]
        return kind
    finally:
        os.close(descriptor)


def _opened(layout: Layout) -> BusyError:
    return BusyError(
        f"another process has {layout.database} open, such as `msb-cache watch`; end it and try again"
    )
