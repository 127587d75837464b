"""Whether the computer's clock can be believed: jumps are seen at an append, and noted in the log once.

A clock that is behind what the log has recorded has gone back, or was ahead before. One that went further
than the machine's own time since it was started has jumped forward; a suspended machine has not, for that
time counts suspension. What lies between two events says nothing: most caches are quiet at weekends.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from functools import cache
from typing import Protocol

from msb_cache.eventstore.events import ClockJumped

HOUR = 3600 * 10**9
"""Nanoseconds: what moves a clock by less is no jump, but people, time zones and clocks set right."""

_SECOND = 10**9

Uptime = Callable[[], tuple[str, int] | None]
"""Says which start of the machine this is, and the ns since then, suspension included; None: not known."""


class Readings(Protocol):
    """What the clock said at the appends of a log."""

    def reading(self, seq: int) -> int:
        """Return what it said when this event was appended."""
        ...

    def position_at(self, time_ns: int) -> int:
        """Return the last position appended when it said so much or less."""
        ...


def since_start() -> tuple[str, int] | None:
    """Return the ``Uptime`` of this machine; on Linux only, as elsewhere no clock counts suspension."""
    start = _start()
    return None if start is None else (start, time.clock_gettime_ns(time.CLOCK_BOOTTIME))


@cache
def _start() -> str | None:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            # Each time namespace has its own.
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/time')}"
    except OSError:
        return None


def jump(
    connection: sqlite3.Connection, log: Readings, end: tuple[int, int], now_ns: int, uptime: Uptime
) -> ClockJumped | None:
    """Return the jump that the clock has made since the last append and that is not in the log yet.

    Args:
        connection: the log's, in the transaction of an append.
        log: the log.
        end: its last position and when that was recorded; 0 and now for an empty one.
        now_ns: what the clock says, in ns since the epoch.
        uptime: the machine's own time.
    """
    seq, recorded_at = end
    forward = _forward(connection, recorded_at, now_ns, uptime())
    if recorded_at - now_ns <= HOUR:
        return forward
    return _back(connection, log, seq, recorded_at, now_ns) or forward


def ahead(connection: sqlite3.Connection, now_ns: int, uptime: Uptime) -> int:
    """Return by how many ns the clock ran ahead since the machine was started; 0 for up to an hour."""
    measured = uptime()
    if measured is None:
        return 0
    start, elapsed = measured
    row = connection.execute("SELECT first_ns FROM clock_seen WHERE start = ?", (start,)).fetchone()
    by = 0 if row is None else now_ns - elapsed - row[0]
    return int(by) if by > HOUR else 0


def _back(
    connection: sqlite3.Connection, log: Readings, seq: int, recorded_at: int, now_ns: int
) -> ClockJumped | None:
    last = log.reading(seq)
    if last - now_ns <= HOUR:
        noted = connection.execute(
            "SELECT 1 FROM events WHERE type = ? AND recorded_at = ? "
            "AND json_extract(data, '$.direction') = 'back' LIMIT 1",
            (ClockJumped.type, recorded_at),
        ).fetchone()
        if noted is not None:
            return None
        last = recorded_at  # an older release appended the events since, and noted nothing
    # Either the clock was ahead or it is behind now. It can have been ahead only if there was time enough
    # for what it measured then, since the last event that is older than now.
    before = log.position_at(now_ns)
    was_ahead = before == seq or (
        before > 0 and last - log.reading(before + 1) <= now_ns - log.reading(before)
    )
    return ClockJumped(direction="back", by_ns=last - now_ns, from_ns=last, to_ns=now_ns, was_ahead=was_ahead)


def _forward(
    connection: sqlite3.Connection, recorded_at: int, now_ns: int, measured: tuple[str, int] | None
) -> ClockJumped | None:
    if measured is None:
        return None
    start, elapsed = measured
    began = now_ns - elapsed
    seen = connection.execute("SELECT start, first_ns, last_ns FROM clock_seen").fetchone()
    if seen is None or seen[0] != start:
        seen = (start, began, None)
    _, first, last = seen
    if last is not None and abs(began - last) <= _SECOND:
        return None
    found = None
    if last is not None and began - last > HOUR:
        expected = last + elapsed
        found = ClockJumped(direction="forward", by_ns=now_ns - expected, from_ns=expected, to_ns=now_ns)
        if recorded_at - expected > HOUR:
            first = began  # it was behind, and is right again
    connection.execute(
        "INSERT OR REPLACE INTO clock_seen (id, start, first_ns, last_ns) VALUES (1, ?, ?, ?)",
        (start, first, began),
    )
    return found
