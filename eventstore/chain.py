"""The hash chain: the canonical encoding of a stored row, and the check of a whole log.

Nothing here decodes an event. The hash covers the bytes that are stored, so a log stays verifiable
by programs that do not know its event types. docs/event-log.md describes the encoding for strangers.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

COLUMNS = (
    "seq",
    "id",
    "type",
    "version",
    "subject",
    "operation",
    "occurred_at",
    "recorded_at",
    "actor",
    "data",
)
"""The hashed columns, in the order in which they are hashed."""

GENESIS = bytes(32)
"""What stands for the previous hash in event 1."""

Value = int | str | bytes | float | None

_HEAD = struct.Struct(">cI")
_INT = struct.Struct(">cIq")


def encode(row: Sequence[Value]) -> bytes:
    """Return the canonical encoding of a row's hashed columns.

    Each value is a tag byte, the payload's length as an unsigned 32-bit big-endian number, and the
    payload: ``i`` a signed 64-bit big-endian integer, ``t`` UTF-8 text, ``b`` bytes, ``f`` an IEEE 754
    binary64 big-endian, ``n`` NULL (empty). Only ``i`` and ``t`` occur in a sound log; the others make
    a changed column type show as a changed hash instead of an error.
    """
    parts = []
    for value in row:
        if isinstance(value, str):
            payload = value.encode("utf-8", "surrogatepass")
            parts.append(_HEAD.pack(b"t", len(payload)) + payload)
        elif isinstance(value, int):
            parts.append(_INT.pack(b"i", 8, value))
        elif value is None:
            parts.append(_HEAD.pack(b"n", 0))
        elif isinstance(value, bytes):
            parts.append(_HEAD.pack(b"b", len(value)) + value)
        else:
            parts.append(_HEAD.pack(b"f", 8) + struct.pack(">d", value))
    return b"".join(parts)


def link(previous: bytes, row: Sequence[Value]) -> bytes:
    """Return the SHA-256 (32 bytes) that ties ``row`` (its hashed columns) to the ``previous`` hash."""
    return sha256(previous + encode(row)).digest()


@dataclass(frozen=True)
class Break:
    """The first place where a log does not verify: the position, and one sentence on what is wrong."""

    seq: int
    problem: str


@dataclass(frozen=True)
class Verified:
    """A log that verifies from its first event to its head. ``log_id`` is None for an empty log."""

    events: int
    head: bytes
    log_id: str | None


def verify(connection: sqlite3.Connection) -> Verified | Break:
    """Check every row of the log: positions without a gap, the chain, and that it begins as a log does.

    Reads raw columns only. A break names the first row from which the log can no longer be trusted.
    """
    previous = GENESIS
    expected = 1
    log_id: str | None = None
    for row, stored in raw_rows(connection):
        seq = row[0]
        if seq != expected:
            return Break(expected, f"event {expected} is missing; the next one is event {seq!r}")
        if expected == 1:
            if row[2] != "log.created":
                return Break(1, f"event 1 is {row[2]!r}, not 'log.created'")
            log_id = row[4] if isinstance(row[4], str) else None
        if link(previous, row) != stored:
            return Break(expected, f"the hash of event {expected} does not match its contents")
        previous = stored
        expected += 1
    return Verified(expected - 1, previous, log_id)


def raw_rows(connection: sqlite3.Connection, after: int = 0) -> Iterator[tuple[tuple[Value, ...], bytes]]:
    """Yield each stored row after position ``after`` as its hashed columns and its hash, in order."""
    query = f"SELECT {', '.join(COLUMNS)}, hash FROM events WHERE seq > ? ORDER BY seq"  # noqa: S608
    for row in connection.execute(query, (after,)):
        yield row[:-1], row[-1]
