"""Export the log as JSON Lines, one event after the other, however long it is."""

from __future__ import annotations

import os
from typing import BinaryIO

from msb_cache import outputs
from msb_cache.errors import LogError
from msb_cache.eventstore.chain import raw_rows
from msb_cache.eventstore.export import line_of
from msb_cache.ledger import Ledger


def export_log(ledger: Ledger, target: str | os.PathLike[str] | BinaryIO, *, since_seq: int = 0) -> int:
    """Write the events behind a position, as they are stored; return how many there were.

    Nothing is checked but that a line can carry each row: a log that does not verify can be shown to others
    too, and ``import`` refuses it.

    Raises:
        LogError: there is no log, or it ends before ``since_seq``.
        CorruptLogError: a column has another type than a log's.
    """
    with ledger.snapshot() as connection:
        if connection is None:
            raise LogError(f"{ledger.layout.home} has no log yet, so there is nothing to export")
        head = ledger.store(connection).head()
        if head is None or head.seq < since_seq:
            raise LogError(f"the log ends at event {head.seq if head else 0}, before {since_seq}")
        count = 0
        with outputs.opened(target) as out:
            for row, stored in raw_rows(connection, since_seq):
                out.write(line_of(row, stored))
                count += 1
    return count
