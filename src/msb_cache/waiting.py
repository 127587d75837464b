"""How a wait for another process goes: it is told of within a second, and Ctrl-C ends it at once.

SQLite's own waits look at no signals, and those of the kernel are resumed after one. So neither is asked to
wait for longer than a moment: everything that waits tries, pauses here, and tries again.
"""

from __future__ import annotations

import sqlite3
import time
from _thread import _local as local  # threading is not imported by commands that read
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

SAY_AFTER = 1.0
"""Seconds after which a person who waits is told."""

BUSY_SECONDS = 30.0
"""How long a statement waits for another process's transaction; ours are short."""

TURN_SECONDS = 0.1
"""The busy timeout of every connection: for so long SQLite itself tries again, at growing intervals."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05

Note = Callable[[str], None]
"""Gets sentences for a person about something unusual that is no error."""

T = TypeVar("T")


class Said:
    """Which sentences were said; of several threads that come to say one, one does."""

    def __init__(self) -> None:
        self._said: dict[str, object] = {}

    def is_new(self, sentence: str) -> bool:
        """Return whether it was not said yet; then it counts as said."""
        mine = object()
        return self._said.setdefault(sentence, mine) is mine

    def forget(self) -> None:
        """Let all be new again."""
        self._said.clear()


def _never() -> bool:
    return False


class _Mark(local):
    """What ends the waits of a thread; each has its own."""

    stopped: Callable[[], bool] = staticmethod(_never)


_mark = _Mark()


@contextmanager
def ended_by(stopped: Callable[[], bool]) -> Iterator[None]:
    """End what this thread waits for or deletes in the block with KeyboardInterrupt once ``stopped`` says so.

    Signals set that, or another thread; what ends a block around this one ends it, too. A deletion ends
    between two files, or between two runs of msb.
    """
    before = _mark.stopped
    _mark.stopped = stopped if before is _never else lambda: stopped() or before()
    try:
        yield
    finally:
        _mark.stopped = before


def end_if_asked() -> None:
    """Raise KeyboardInterrupt once ``stopped`` of ``ended_by`` says so: between two steps of long work."""
    if _mark.stopped():
        raise KeyboardInterrupt


def over(stopped: Callable[[], bool]) -> bool:
    """Return whether ``stopped`` says so; raises KeyboardInterrupt if only that of ``ended_by`` does."""
    asked = _mark.stopped()  # first: it may be the same one, which says so from one moment to the next
    if stopped():
        return True
    if asked:
        raise KeyboardInterrupt
    return False


@contextmanager
def told_to_end(end: Callable[[], object]) -> Iterator[None]:
    """Call ``end``, in another thread, if this one is asked to end within the block.

    For a wait that cannot look by itself, such as that for another program.
    """
    stopped = _mark.stopped
    if stopped is _never:
        yield
        return
    from threading import Event, Thread  # only what has a mark needs them

    over = Event()

    def look() -> None:
        while not over.wait(TURN_SECONDS):
            if stopped():
                end()
                return

    thread = Thread(target=look, name="msb-cache-mark", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def beside(turn: Callable[[], object], name: str, seconds: float) -> Iterator[None]:
    """Call ``turn`` again and again in another thread for as long as the block lasts.

    The block's end ends what that waits for, and waits for it.

    Args:
        turn: does what there is to do.
        name: the thread's.
        seconds: between two calls.
    """
    from threading import Event, Thread

    over = Event()

    def take_turns() -> None:
        with ended_by(over.is_set), suppress(KeyboardInterrupt):
            while not over.is_set():
                turn()
                over.wait(seconds)

    thread = Thread(target=take_turns, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def pause(seconds: float, wait: Callable[[float], object] | None = None) -> None:
    """Sleep, but not on after ``stopped`` of ``ended_by`` says that it is over.

    Args:
        seconds: how long.
        wait: waits so many seconds, or returns something true before; then the pause ends, too.
    """
    until = time.monotonic() + seconds
    while not _mark.stopped() and (left := until - time.monotonic()) > 0:
        if (wait or time.sleep)(min(left, TURN_SECONDS)):
            return


class Wait:
    """One wait that begins now.

    Args:
        say: called once, when it has taken a second.
        seconds: after so many it is over; None: never.
    """

    def __init__(self, say: Callable[[], object] | None = None, seconds: float | None = None) -> None:
        self._say = say
        self._seconds = seconds
        self._began = time.monotonic()
        self._pause = _FIRST_PAUSE

    def over(self) -> bool:
        """Return whether to give up; if not, that is after a pause, and it is time to try again."""
        waited = time.monotonic() - self._began
        if self._seconds is not None and waited >= self._seconds:
            return True
        if self._say is not None and waited >= SAY_AFTER:
            say, self._say = self._say, None
            say()
        end_if_asked()
        time.sleep(self._pause)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        return False


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether it failed only because another process has the database locked."""
    # A connection that met a lock where SQLite asks no busy handler says SQLITE_PROTOCOL at last.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)


def patiently(
    attempt: Callable[[], T], say: Callable[[], object] | None = None, seconds: float = BUSY_SECONDS
) -> T:
    """Return what ``attempt`` returns, trying again while another process has the database locked.

    Args:
        attempt: uses connections whose busy timeout is ``TURN_SECONDS``, and leaves nothing half done.
        say: called once, when that takes longer than a second.
        seconds: how long to wait.

    Raises:
        sqlite3.OperationalError: after so many seconds it is locked still, or it fails for another reason.
    """
    wait = Wait(say, seconds)
    while True:
        try:
            return attempt()
        except sqlite3.OperationalError as error:
            if not is_busy(error) or wait.over():
                raise
