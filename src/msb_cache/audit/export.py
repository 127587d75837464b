"""Export the log as JSON Lines, one event after the other, however long it is."""

from __future__ import annotations

import os
import sqlite3
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from msb_cache.audit import log_files
from msb_cache.errors import CorruptLogError, LogError
from msb_cache.eventstore.chain import Value, raw_rows
from msb_cache.eventstore.export import line_of
from msb_cache.home import atomic
from msb_cache.home.ledger import Ledger


def export_log(ledger: Ledger, target: str | os.PathLike[str] | BinaryIO, *, since_seq: int = 0) -> int:
    """Write the events behind a position, as they are stored; return how many there were.

    Nothing is checked but that a line can carry each row: a log that does not verify can be shown to others
    too, and ``import`` refuses it.

    Of a damaged database that is exported which can be read.

    Raises:
        LogError: there is no log, or it ends before ``since_seq``.
        CorruptLogError: the database is damaged; what was written before that is kept.
    """
    with ExitStack() as stack:
        connection, problem = _opened(ledger, stack)
        if connection is None:
            raise LogError(f"{ledger.layout.home} has no log yet, so there is nothing to export")
        if problem is None:
            head = ledger.store(connection).head()
            if head is None or head.seq < since_seq:
                raise LogError(f"the log ends at event {head.seq if head else 0}, before {since_seq}")
        count = 0
        last: Value = since_seq
        with atomic.opened(target) as out:
            rows = raw_rows(connection, since_seq)
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


def _opened(ledger: Ledger, stack: ExitStack) -> tuple[sqlite3.Connection | None, Exception | None]:
    try:
        return stack.enter_context(ledger.read()), None
    except CorruptLogError as error:
        try:
            connection, _ = stack.enter_context(log_files.readable(Path(ledger.layout.database)))
        except CorruptLogError:
            raise error from None
        return connection, error
