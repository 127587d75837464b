"""What one thread has open of a home's database: a connection of its own, and what goes with it.

A transaction is its connection's, so threads that shared one would be in each other's. Each thread has its
own, from its first use until it ends or until some thread closes all of them. What a thread is in the middle
of is closed by that thread, when it is done: Python must not lose a connection that it works with.

A forked child must not use SQLite's connections, and not even the file through new ones: SQLite would take
its parent's locks for its own. So what is idle is closed before a fork.
"""

from __future__ import annotations

import os
import sqlite3
from _thread import allocate_lock  # threading is not imported by commands that read
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from weakref import ref

from msb_cache.errors import LogError
from msb_cache.home import descriptors

if TYPE_CHECKING:
    from msb_cache.home.readonly import Content
    from msb_cache.projections.past import Past

_all: set[ref[Opened]] = set()
"""Of every home and thread; changed and copied by single steps of the interpreter, so without a lock."""

_inherited: dict[tuple[int, int], sqlite3.Connection | None] = {}
"""What was in use when this process was forked, by device and inode: kept, so that it is not closed here.

None: another thread was about to open it, or had just closed it."""


class Opened:
    """What one thread has open; made for each by what keeps one per thread.

    Args:
        path: the database.

    Attributes:
        connection: None: it is not open.
        content: what the database is, where the connection sees no changes and cannot write.
        alone: the connection keeps all others out, and is closed after each transaction.
        drawing: bytes for which a transaction may draw on the reserve; 0: it may not.
        past: the index as it was, for questions about then.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.connection: sqlite3.Connection | None = None
        self.content: Content | None = None
        self.alone = False
        self.drawing = 0
        self.past: Past | None = None
        self._lock = allocate_lock()
        self._uses = 0
        self._unwanted = False
        self._process = os.getpid()
        _all.add(ref(self, _all.discard))

    @property
    def is_open(self) -> bool:
        """Whether there is anything to close."""
        return self.connection is not None or self.past is not None

    @contextmanager
    def used(self) -> Iterator[None]:
        """Keep other threads from closing it in the block, after which it is closed if one has asked."""
        if self._uses == 0:
            self._lock.acquire()
        self._uses += 1
        try:
            yield
        finally:
            self._uses -= 1
            if self._uses == 0:
                self._lock.release()
                if self._unwanted:
                    self.close()

    def close(self) -> None:
        """Close all of it, from any thread: now, or when what is in the middle of using it is done."""
        # First the mark, then the attempt; ``used`` looks in the opposite order, so one of the two closes it.
        self._unwanted = True
        if self._lock.acquire(blocking=False):
            try:
                self._unwanted = False
                self._close()
            finally:
                self._lock.release()

    def disconnect(self) -> None:
        """Close the connection, in its own thread."""
        connection, self.connection = self.connection, None
        self.content, self.alone = None, False
        if connection is not None:
            descriptors.close(connection)

    def forget_past(self) -> None:
        """Close the index as it was, in its own thread."""
        past, self.past = self.past, None
        if past is not None:
            past.close()

    def _close(self) -> None:
        try:
            self.forget_past()
        finally:
            self.disconnect()

    def leave(self) -> None:
        """Leave in a child what was in use when it was forked, also if it was just being opened."""
        connection, self.connection = self.connection, None
        if connection is not None or self._uses:
            try:
                found = os.stat(self._path)
            except OSError:  # it is gone, so that this process cannot open it either
                _inherited[0, id(self)] = connection
            else:
                _inherited[found.st_dev, found.st_ino] = connection

    # Its thread has ended, or the cache was dropped. Bound here, because the modules may be gone by then.
    def __del__(self, process: Callable[[], int] = os.getpid) -> None:
        if not self.is_open:
            return
        if process() == self._process:
            self._close()
        else:
            self.leave()


def check_not_inherited(path: str) -> None:
    """Refuse a database that was in use when this process was forked.

    Raises:
        LogError: it was.
    """
    if not _inherited:
        return
    with suppress(FileNotFoundError):
        found = os.stat(path)
        if (found.st_dev, found.st_ino) in _inherited:
            raise LogError(
                f"{path} was in use when this process was forked, and cannot be used in it; fork between two "
                "calls, or start a process anew (multiprocessing does with `spawn`)"
            )


def _before_fork() -> None:
    descriptors.hold_back()  # none is opened until the fork is over
    for each in _all.copy():
        opened = each()
        if opened is not None and opened.is_open:
            opened.close()


def _in_child() -> None:
    descriptors.let_go()
    for each in _all.copy():
        opened = each()
        if opened is not None:
            opened.leave()


os.register_at_fork(before=_before_fork, after_in_parent=descriptors.let_go, after_in_child=_in_child)
