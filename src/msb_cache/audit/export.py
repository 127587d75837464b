"""Export the log as JSON Lines, one event after the other, however long it is."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from msb_cache.audit import log_files
from msb_cache.errors import CorruptLogError, LogError
from msb_cache.eventstore.chain import Value, paged_rows
from msb_cache.eventstore.export import Row, line_of
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
    with ExitStack() as stack:
        rows, problem = _opened(ledger, since_seq, stack)
        count = 0
        last: Value = since_seq
        with atomic.opened(target) as out:
            while True:
                try:
                    row, stored = next(rows)
                    line = line_of(row, stored)
                except StopIteration:
                    break
                except (sqlite3.Error, CorruptLogError) as error:
                    problem = problem or error
                    break
                out.write(line)
                count, last = count + 1, row[0]
    if problem is not None:
        raise CorruptLogError(f"only {count} events could be exported, up to event {last!r}: {problem}")
    return count


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
