"""Signed checkpoints that a home keeps: of each origin and size one note, with all that came since.

They are no part of the log and of no fold. A note proves itself: the process that reads it with the key finds
that it was altered; here it is only found to be none.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from msgspec import Struct

from msb_cache.errors import InvalidProofError
from msb_cache.proof.note import MAX_NOTE, Note, Signature, parse
from msb_cache.proof.tree_head import TreeHead, head_of
from msb_cache.wording import plural

_COLUMNS = (  # whatever stands in them: of text that is no UTF-8, sqlite3 would raise an error of its own
    "SELECT CAST(origin AS BLOB), CAST(size AS INTEGER), "  # noqa: S608
    f"coalesce(substr(CAST(note AS BLOB), 1, {MAX_NOTE + 1}), x''), "
    "CASE typeof(signed_at) WHEN 'integer' THEN signed_at END FROM signed_checkpoint"
)


class KeptCheckpoint(Struct, frozen=True):
    """A signed checkpoint, and when this home signed it, in ns since the epoch, UTC."""

    head: TreeHead
    note: Note
    signed_at_ns: int


class DamagedCheckpoint(Struct, frozen=True):
    """One that is none any more, by what stands beside it, and why in one sentence."""

    origin: str
    size: int
    problem: str


def keep(connection: sqlite3.Connection, note: Note, signed_at_ns: int) -> None:
    """Keep a signed checkpoint, in a write transaction; of one that is kept already only new signatures.

    Raises:
        InvalidProofError: one of that name and size is kept that says something else. It stays: the two
            prove that the log was rewritten.
    """
    head = head_of(note)
    before = at(connection, head.origin, head.size)
    if before is not None and before.note.text != note.text:
        raise InvalidProofError(
            f"this home keeps another signed checkpoint of {head.size} events of {head.origin}, so the log "
            "was rewritten since; look at `msb-cache verify`"
        )
    if before is not None:
        add_signatures(connection, before, note.signatures)
        return
    connection.execute(
        "INSERT INTO signed_checkpoint (origin, size, note, signed_at) VALUES (?, ?, ?, ?)",
        (head.origin, head.size, str(note), signed_at_ns),
    )


def add_signatures(
    connection: sqlite3.Connection, kept: KeptCheckpoint, signatures: tuple[Signature, ...]
) -> Note:
    """Add signatures to a kept checkpoint, in a write transaction; return the note as it is now.

    Raises:
        InvalidProofError: it would have more than any note that can be read has; it stays as it was.
    """
    head = kept.head
    now = at(connection, head.origin, head.size) or kept
    note = now.note.with_signatures(signatures)
    parse(str(note).encode(), f"the signed checkpoint of {plural(head.size, 'event')} with what came for it")
    connection.execute(
        "UPDATE signed_checkpoint SET note = ? WHERE origin = ? AND size = ?",
        (str(note), head.origin, head.size),
    )
    return note


def forget(connection: sqlite3.Connection, origin: str | None, size: int) -> int:
    """Forget the checkpoints of a size, damaged ones, too, in a write transaction; return how many.

    Args:
        connection: the home's database.
        origin: only that of this name; None: of any.
        size: the number of events.
    """
    return connection.execute(
        "DELETE FROM signed_checkpoint WHERE size = ? AND (? IS NULL OR origin = ?)", (size, origin, origin)
    ).rowcount


def at(connection: sqlite3.Connection, origin: str, size: int) -> KeptCheckpoint | None:
    """Return the checkpoint of a log's name and size; None: there is none."""
    row = connection.execute(f"{_COLUMNS} WHERE origin = ? AND size = ?", (origin, size)).fetchone()
    return None if row is None else _sound(row)


def last(connection: sqlite3.Connection, origin: str | None = None) -> KeptCheckpoint | None:
    """Return the largest checkpoint of a log's name; None: of any. None: there is none."""
    return next(of(connection, origin, reverse=True), None)


def of(
    connection: sqlite3.Connection, origin: str | None = None, *, least: int = 0, reverse: bool = False
) -> Iterator[KeptCheckpoint]:
    """Yield the checkpoints of a log's name (None: of any) of at least a size, the smallest first.

    Raises:
        InvalidProofError: one is damaged.
    """
    direction = "DESC" if reverse else "ASC"
    rows = connection.execute(
        f"{_COLUMNS} WHERE size >= ? AND (? IS NULL OR origin = ?) "
        f"ORDER BY size {direction}, signed_at {direction}",
        (least, origin, origin),
    )
    for row in rows:
        yield _sound(row)


def each(connection: sqlite3.Connection) -> Iterator[KeptCheckpoint | DamagedCheckpoint]:
    """Yield every checkpoint, damaged ones, too, the smallest first."""
    for row in connection.execute(f"{_COLUMNS} ORDER BY size, signed_at"):
        try:
            yield _checkpoint(row)
        except InvalidProofError as error:
            yield DamagedCheckpoint(row[0].decode("utf-8", "replace"), row[1], str(error))


def sizes(connection: sqlite3.Connection) -> list[int]:
    """Return of how many events the checkpoints are."""
    rows = connection.execute("SELECT DISTINCT CAST(size AS INTEGER) FROM signed_checkpoint")
    return [size for (size,) in rows]


def _sound(row: tuple[bytes, int, bytes, int | None]) -> KeptCheckpoint:
    try:
        return _checkpoint(row)
    except InvalidProofError as error:
        raise InvalidProofError(f"{error}; `msb-cache checkpoints forget {row[1]}` takes it out") from None


def _checkpoint(row: tuple[bytes, int, bytes, int | None]) -> KeptCheckpoint:
    origin, size, text, signed_at = row
    what = f"the signed checkpoint of {plural(size, 'event')} that this home keeps"
    note = parse(text, what)
    head = head_of(note, what)
    if (head.origin.encode(), head.size) != (origin, size):
        of = f"{plural(head.size, 'event')} of {head.origin}"
        raise InvalidProofError(f"{what} is damaged: it is of {of}")
    if signed_at is None:
        raise InvalidProofError(f"{what} is damaged: it does not say when it was signed")
    if not note.signatures:
        raise InvalidProofError(f"{what} is damaged: it has no signature")
    return KeptCheckpoint(head, note, signed_at)
