"""Export the log as JSON Lines, or its events as others write them, one after the other, however many."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, TypeVar

from msb_cache.audit import log_files
from msb_cache.errors import CorruptLogError, LogError
from msb_cache.eventstore.chain import Value, paged_rows
from msb_cache.eventstore.export import Row, line_of
from msb_cache.eventstore.row import COLUMNS
from msb_cache.eventstore.store import StoredEvent, decode_row
from msb_cache.eventstore.upcasting import CATALOGUE
from msb_cache.home import atomic
from msb_cache.home.ledger import Ledger


def export_log(ledger: Ledger, target: str | os.PathLike[str] | BinaryIO, *, since_seq: int = 0) -> int:
    """Write the events behind a position, as they are stored; return how many there were.

    Nothing is checked but that a line can carry each row: a log that does not verify can be shown to others
    too, and ``import`` refuses it.

    Of a damaged database that is exported which can be read. However slowly it is taken, no other process is
    kept from anything: it is read in pages, up to the log's end as it was at the beginning.

    Raises:
        LogError: there is no log, or it ends before ``since_seq``.
        CorruptLogError: the database is damaged; what was written before that is kept.
    """

    def write(lines: Iterator[bytes], out: BinaryIO) -> None:
        out.writelines(lines)

    return _export(ledger, target, since_seq, line_of, write)


def export_events(
    ledger: Ledger,
    target: str | os.PathLike[str] | BinaryIO,
    write: Callable[[Iterator[StoredEvent], BinaryIO], None],
    *,
    since_seq: int = 0,
) -> int:
    """Write the events behind a position in another format; return how many there were.

    What is damaged is left out as ``export_log`` does. A file that is made for it is its owner's only.

    Args:
        ledger: the home.
        target: a file, or an open stream.
        write: writes events as they come.
        since_seq: the position.

    Raises:
        LogError: there is no log, or it ends before ``since_seq``.
        UnknownEventError: an event is none that this release knows; nothing is kept of a file.
        CorruptLogError: the log is damaged; what was written before that is kept.
    """

    def event_of(row: tuple[Value, ...], stored: object) -> StoredEvent:
        return decode_row((*row, stored), CATALOGUE.decode)

    return _export(ledger, target, since_seq, event_of, write, private=True)


def log_id(ledger: Ledger) -> str:
    """Return the id of the log; raises LogError if there is none, CorruptLogError if it cannot be read."""
    with ExitStack() as stack:
        rows, problem = _opened(ledger, 0, stack)
        try:
            row, _ = next(rows)
        except (sqlite3.Error, StopIteration) as error:
            raise CorruptLogError(f"the log's first event cannot be read: {problem or error}") from None
        return str(row[COLUMNS.index("subject")])


T = TypeVar("T")


class _Readable(Iterator[T]):
    """What can be read of a log, and what ended that."""

    def __init__(self, rows: Iterator[Row], made: Callable[[tuple[Value, ...], bytes], T]) -> None:
        self._rows = rows
        self._made = made
        self.problem: Exception | None = None
        self.count = 0
        self.last: Value = None

    def __next__(self) -> T:
        try:
            row, stored = next(self._rows)
            made = self._made(row, stored)
        except (sqlite3.Error, CorruptLogError) as error:
            self.problem = error
            raise StopIteration from None
        self.count, self.last = self.count + 1, row[0]
        return made


def _export(
    ledger: Ledger,
    target: str | os.PathLike[str] | BinaryIO,
    since_seq: int,
    made: Callable[[tuple[Value, ...], bytes], T],
    write: Callable[[Iterator[T], BinaryIO], None],
    *,
    private: bool = False,
) -> int:
    with ExitStack() as stack:
        rows, problem = _opened(ledger, since_seq, stack)
        readable = _Readable(rows, made)
        with atomic.opened(target, private=private) as out:
            write(readable, out)
    problem = problem or readable.problem
    if problem is not None:
        last = since_seq if readable.last is None else readable.last
        raise CorruptLogError(
            f"only {readable.count} events could be exported, up to event {last!r}: {problem}"
        )
    return readable.count


def _opened(ledger: Ledger, after: int, stack: ExitStack) -> tuple[Iterator[Row], Exception | None]:
    """Return what reads the events behind a position, and what is wrong with the database."""
    try:
        with ledger.read() as connection:
            if connection is None:
                raise LogError(f"{ledger.layout.home} has no log yet, so there is nothing to export")
            head = ledger.store(connection).head()
    except CorruptLogError as error:
        try:
            read, _ = stack.enter_context(log_files.readable(Path(ledger.layout.database)))
        except CorruptLogError:
            raise error from None
        return read(after), error
    if head is None or head.seq < after:
        raise LogError(f"the log ends at event {head.seq if head else 0}, before {after}")
    return paged_rows(ledger.read, after, head.seq), None
