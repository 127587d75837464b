"""The hash chain: the canonical encoding of a stored row, and the check of a whole log, row by row.

Nothing here decodes an event. The hash covers the bytes that are stored, so a log stays verifiable
by programs that do not know its event types. docs/event-log.md describes the encoding for strangers.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

from msb_cache.errors import CorruptLogError
from msb_cache.eventstore.row import COLUMNS as COLUMNS
from msb_cache.eventstore.row import GENESIS as GENESIS
from msb_cache.eventstore.row import Value as Value
from msb_cache.eventstore.row import misfit
from msb_cache.shapes import Result, fields

_RECORDED_AT = COLUMNS.index("recorded_at")

_HEAD = struct.Struct(">cI")
_INT = struct.Struct(">cIq")

LAST = 2**63 - 1
"""No position is greater."""

Rows = Iterable[tuple[tuple[Value, ...], bytes]]
"""The hashed columns and the hash of each row."""

BEGINNING = "log.created"
"""The type of event 1 and of no other."""

_PAGE_ROWS = 1000
_PAGE_BYTES = 4 * 1024 * 1024


def encode(row: Sequence[Value]) -> bytes:
    """Return the canonical encoding of a row's hashed columns.

    Each value is a tag byte, the payload's length as an unsigned 32-bit big-endian number, and the
    payload: ``i`` a signed 64-bit big-endian integer, ``t`` UTF-8 text, ``b`` bytes, ``f`` an IEEE 754
    binary64 big-endian, ``n`` NULL (empty). Only ``i`` and ``t`` occur in a sound log; the others make
    a changed column type show as a changed hash instead of an error.
    """
    parts: list[bytes] = []
    for value in row:
        if isinstance(value, str):
            payload = value.encode("utf-8", "surrogatepass")
            parts += (_HEAD.pack(b"t", len(payload)), payload)
        elif isinstance(value, int):
            parts.append(_INT.pack(b"i", 8, value))
        elif value is None:
            parts.append(_HEAD.pack(b"n", 0))
        elif isinstance(value, bytes):
            parts += (_HEAD.pack(b"b", len(value)), value)
        else:
            parts.append(_HEAD.pack(b"f", 8) + struct.pack(">d", value))
    return b"".join(parts)


def link(previous: bytes, row: Sequence[Value]) -> bytes:
    """Return the SHA-256 (32 bytes) that ties ``row`` (its hashed columns) to the ``previous`` hash."""
    return sha256(previous + encode(row)).digest()


BreakKind = Literal["missing", "beginning", "changed", "hash", "moved", "time", "unreadable", "truncated"]
"""What can be told of a break; ``truncated`` is found by those who know how long the log was."""


@dataclass(frozen=True)
class Break(Result):
    """The first place where a log does not verify: the position, one sentence on what is wrong, the kind.

    ``missing``: no event stands there. ``beginning``: event 1 begins no log, or a later one does.
    ``changed``: a column of the event, or what stands before it, is not what was hashed. ``hash``: only its
    stored hash is wrong.
    ``moved``: the event that belongs there stands elsewhere. ``time``: it was recorded before the one
    before it. ``unreadable``: a column is no UTF-8 text. ``truncated``: the log's end is gone.
    """

    seq: int
    problem: str
    kind: BreakKind

    def _shape(self) -> dict[str, Any]:
        return {"valid": False, "broken_at": self.seq, "kind": self.kind, "problem": self.problem}


@dataclass(frozen=True)
class Verified(Result):
    """A log that verifies from its first event to its head. ``log_id`` is None for an empty log."""

    events: int
    head: bytes
    log_id: str | None

    def _shape(self) -> dict[str, Any]:
        return {"valid": True, **fields(self)}


class Checker:
    """Follows a log row by row, from wherever its rows come.

    Attributes:
        seq: the position of the last row that was in order; 0 before the first.
        head: that row's hash.
        log_id: what event 1 says; None before it.
        recorded_at: when that row was recorded, in ns since the epoch, UTC; 0 before the first.
    """

    def __init__(self) -> None:
        self.seq = 0
        self.head = GENESIS
        self.log_id: str | None = None
        self.recorded_at: Value = 0

    @classmethod
    def behind(cls, seq: int, head: bytes, log_id: str, recorded_at: int) -> Checker:
        """Return one that goes on behind a row that is known to be in order."""
        found = cls()
        found.seq, found.head, found.log_id, found.recorded_at = seq, head, log_id, recorded_at
        return found

    def check(self, row: Sequence[Value], stored: object) -> Break | None:
        """Check the next row (its hashed columns) and its hash; None when it is in order."""
        seq, expected = row[0], self.seq + 1
        if seq != expected:
            return Break(expected, f"event {expected} is missing; the next one is event {seq!r}", "missing")
        if expected == 1 and row[2] != BEGINNING:
            return Break(1, f"event 1 is {row[2]!r}, not {BEGINNING!r}", "beginning")
        if expected > 1 and row[2] == BEGINNING:
            return Break(expected, f"event {expected} is {BEGINNING!r}, and a log begins once", "beginning")
        if link(self.head, row) != stored:
            return Break(expected, f"the hash of event {expected} does not match its contents", "changed")
        recorded_at = row[_RECORDED_AT]
        if (
            isinstance(recorded_at, int)
            and isinstance(self.recorded_at, int)
            and recorded_at < self.recorded_at
        ):
            return Break(expected, f"event {expected} was recorded before event {self.seq}", "time")
        assert isinstance(stored, bytes)  # noqa: S101
        if expected == 1:
            self.log_id = row[4] if isinstance(row[4], str) else None
        self.seq, self.head, self.recorded_at = expected, stored, recorded_at
        return None


def verify(connection: sqlite3.Connection, counted: Callable[[Rows], Rows] = iter) -> Verified | Break:
    """Check every row of the log: positions without a gap, the chain, and that it begins as a log does.

    Reads raw columns only. A break names the first row from which the log can no longer be trusted, and
    says what the hashes around it tell. ``counted`` returns the rows that it gets, and counts them.
    """
    checker = Checker()
    try:
        for row, stored in counted(raw_rows(connection)):
            found = checker.check(row, stored)
            if found is not None:
                return explained(found, checker, row, stored, lambda: raw_rows(connection, checker.seq + 1))
    except sqlite3.OperationalError as error:
        if "decode" not in str(error):
            raise
        seq = checker.seq + 1
        return Break(seq, f"event {seq} holds text that is no UTF-8", "unreadable")
    return Verified(checker.seq, checker.head, checker.log_id)


def explained(
    found: Break,
    checker: Checker,
    row: tuple[Value, ...],
    stored: object,
    behind: Callable[[], Iterator[tuple[tuple[Value, ...], bytes]]],
) -> Break:
    """Return a break with what can be told of it: the rows after it know more.

    Args:
        found: what the checker said of a row.
        checker: that, as it stands since.
        row: the row's hashed columns.
        stored: its hash.
        behind: begins to read the rows behind that one.
    """
    if found.kind != "changed":
        return found
    previous = checker.head
    seq = row[0]
    assert isinstance(seq, int)  # noqa: S101
    odd = misfit(row)
    if odd is not None:
        return Break(seq, f"event {seq} was changed: {odd}", "changed")
    following = next(behind(), None)
    if following is not None and link(link(previous, row), following[0]) == following[1]:
        return Break(seq, f"the stored hash of event {seq} was changed; its contents were not", "hash")
    for other, other_hash in behind():
        if link(previous, (seq, *other[1:])) == other_hash:
            problem = f"the event that belongs at position {seq} stands at {other[0]!r}"
            return Break(seq, f"{problem}: events were put in or exchanged", "moved")
    told = f"event {seq} does not match its hash"
    if following is not None and isinstance(stored, bytes) and link(stored, following[0]) == following[1]:
        before = "" if seq == 1 else f", or event {seq - 1} was changed and its hash made anew"
        return Break(
            seq, f"{told}: a column of it was changed (which one, no hash can tell){before}", "changed"
        )
    if following is None:
        what = "it was changed (which column, no hash can tell), or events before it were taken out"
        return Break(seq, f"{told}: {what}", "changed")
    what = "the log was rewritten from there on, or events before it were taken out"
    return Break(seq, f"{told}, nor does the next one: {what}", "changed")


def raw_rows(
    connection: sqlite3.Connection, after: int = 0, until: int = LAST
) -> Iterator[tuple[tuple[Value, ...], bytes]]:
    """Yield each stored row after ``after`` up to ``until`` as its hashed columns and its hash, in order."""
    query = f"SELECT {', '.join(COLUMNS)}, hash FROM events WHERE seq > ? AND seq <= ? ORDER BY seq"  # noqa: S608
    for row in connection.execute(query, (after, until)):
        yield row[:-1], row[-1]


def paged_rows(
    read: Callable[[], AbstractContextManager[sqlite3.Connection | None]], after: int, until: int
) -> Iterator[tuple[tuple[Value, ...], bytes]]:
    """Yield stored rows as ``raw_rows`` does, in pages, each of a read of its own.

    A read that lasts keeps a write-ahead log from being begun anew, so that it grows without bound while
    somebody takes the rows slowly. A log only grows, so its pages are what one read would have been.

    Args:
        read: begins a read of the database that has the log.
        after: only rows behind this position.
        until: the log's end as it was at the beginning; ``LAST`` where that is not known.

    Raises:
        CorruptLogError: rows that were read are not there any more, or others.
        sqlite3.Error: on reaching a row that cannot be read.
    """
    last: bytes | None = None
    while after < until:
        with read() as connection:
            page = [] if connection is None else _page(connection, after, until, last)
        if not page:
            if until < LAST:
                raise CorruptLogError(f"what follows event {after} was taken out while the log was read")
            return
        yield from page
        (seq, *_), last = page[-1]
        assert isinstance(seq, int)  # noqa: S101
        after = seq


def _page(
    connection: sqlite3.Connection, after: int, until: int, last: bytes | None
) -> list[tuple[tuple[Value, ...], bytes]]:
    if last is not None:
        stored = connection.execute("SELECT hash FROM events WHERE seq = ?", (after,)).fetchone()
        if stored != (last,):
            raise CorruptLogError(f"event {after} was changed while the log was read")
    page: list[tuple[tuple[Value, ...], bytes]] = []
    size = 0
    try:
        for row in raw_rows(connection, after, until):
            page.append(row)
            size += sum(len(value) for value in row[0] if isinstance(value, str | bytes))
            if len(page) == _PAGE_ROWS or size > _PAGE_BYTES:
                break
    except sqlite3.Error:
        if not page:
            raise  # else it is met again by who asks for the next page, after these rows
    return page
