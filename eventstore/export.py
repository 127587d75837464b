"""A log as JSON Lines: one event a line, with all columns, so that a stranger can check it.

The two JSON columns are carried as the text that is stored, for the hash covers that text. There is one way
to write a line. Reading checks that and nothing else: the chain is checked by ``chain``, the events are
decoded by ``store``. docs/event-log.md describes the format for strangers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, BinaryIO

import msgspec
from msgspec.structs import astuple

from msb_cache.errors import CorruptLogError
from msb_cache.eventstore.row import COLUMNS, Value, misfit

MAX_LINE = 16 * 1024 * 1024
"""Bytes of a line: the 4 MiB that an event's data may have, and room for how JSON writes text within text."""

Row = tuple[tuple[Value, ...], bytes]
"""An event's hashed columns and its hash, as they are stored."""

_Position = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
_Time = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Text = Annotated[str, msgspec.Meta(max_length=4 * 1024 * 1024)]
_HASH = re.compile(r"[0-9a-f]{64}")


class ExportedEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line: the columns under their names, times in ns since the epoch (UTC), the hash in hexadecimal."""

    seq: _Position
    id: _Name
    type: _Name
    version: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    subject: Annotated[str, msgspec.Meta(max_length=4096)]
    operation: _Name
    occurred_at: _Time
    recorded_at: _Time
    actor: Annotated[str, msgspec.Meta(max_length=65536)]
    data: _Text
    hash: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ExportedEvent).decode


def line_of(row: tuple[Value, ...], stored: object) -> bytes:
    """Return a stored row as one line, its line feed included.

    Raises:
        CorruptLogError: a column has not the type it must have, so no line can carry it.
    """
    odd = misfit(row)
    if odd is not None or not isinstance(stored, bytes):
        raise CorruptLogError(f"event {row[0]!r} cannot be exported: {odd or 'its hash is no blob'}")
    fields = dict(zip(COLUMNS, row, strict=True))
    return _encode({**fields, "hash": stored.hex()}) + b"\n"


def read(file: BinaryIO) -> Iterator[Row]:
    """Yield the rows of an export, one for each line, whatever order the lines are in.

    Raises:
        CorruptLogError: on reaching a line that is no exported event; names the line.
    """
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise CorruptLogError(f"line {number} has more than {MAX_LINE:,} bytes, so it is no event")
        if not line.endswith(b"\n"):
            raise CorruptLogError(f"line {number}, the last, is cut off: it has no line feed")
        try:
            event = _decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CorruptLogError(f"line {number} is no exported event: {error}") from None
        if not _HASH.fullmatch(event.hash):
            raise CorruptLogError(
                f"line {number} is no exported event: its hash is not 64 hexadecimal digits"
            )
        row, stored = astuple(event)[:-1], bytes.fromhex(event.hash)
        if line_of(row, stored) != line:
            # So that one log is one export, and no two readers take different events from a line.
            raise CorruptLogError(
                f"line {number} is no exported event: it was written anew by other means; an export has each "
                "key once and in its order, no spaces, and a line feed alone at the end of a line"
            )
        yield row, stored
