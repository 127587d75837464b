"""One opened home: what every use case does first, and the index as it is or was.

Reading first records what msb did, in a home that msb keeps; writing first finishes or undoes what a killed
process left. What the use cases do then stands in modules of their own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from msb_cache.home.ledger import Ledger
from msb_cache.models import ImageHandle
from msb_cache.projections.images import HandleRow
from msb_cache.queries.resolve import familiar

if TYPE_CHECKING:
    from msb_cache.eventstore.store import EventStore
    from msb_cache.projections.past import Past
    from msb_cache.queries.as_of import AsOf, Contents


class Session:
    """A home in use.

    Args:
        ledger: its log.
        sync: record what msb did before reading. When that cannot be done, and when a question is about a
            time before the log, the ledger's note says so.
    """

    def __init__(self, ledger: Ledger, *, sync: bool) -> None:
        self.ledger = ledger
        self.layout = ledger.layout
        self.note = ledger.note
        self._sync = sync
        self._noted: str | None = None
        self._past: Past | None = None

    def close(self) -> None:
        """Close the databases, that of the past too."""
        self._forget_past()
        self.ledger.close()

    def recorded(self) -> str | None:
        """Record what msb did, if it keeps this home; return a sentence if that cannot be done."""
        if not self._sync or not self.ledger.owned_by_msb:
            return None
        from msb_cache.msb.sync import sync_before_reading

        return sync_before_reading(self.ledger)

    def observe(self) -> None:
        """Record what msb did, and say it once if that cannot be done."""
        sentence = self.recorded()
        if sentence is not None and sentence != self._noted:
            self.note(sentence)
        self._noted = sentence

    def begin_writing(self) -> None:
        """Refuse a home that cannot be written to; finish or undo what a killed process left."""
        from msb_cache.engines.recover import recover

        self.ledger.check_writable()
        recover(self.ledger)

    @contextmanager
    def index(self, as_of: AsOf | None = None) -> Iterator[sqlite3.Connection | None]:
        """Observe, and read the index now or as it was; None when the home has no log yet."""
        self.observe()
        with self.ledger.snapshot() as connection:
            yield (
                connection if as_of is None else self._index_at(connection, self._position(connection, as_of))
            )

    @contextmanager
    def log(self) -> Iterator[tuple[sqlite3.Connection, EventStore] | None]:
        """Observe, and read the index with the events behind it; None when the home has no log yet."""
        with self.index() as connection:
            yield None if connection is None else (connection, self.ledger.store(connection))

    def contents(self, as_of: AsOf | None) -> Contents:
        """Return what of the index is compared with another moment's; the caller has observed."""
        from msb_cache.queries.as_of import Contents, contents

        with self.ledger.snapshot() as connection:
            if as_of is not None:
                position = self._position(connection, as_of)
                index = self._index_at(connection, position)
            else:
                head = None if connection is None else self.ledger.store(connection).head()
                position, index = 0 if head is None else head.seq, connection
            return Contents(position, {}, {}, 0) if index is None else contents(index, position)

    def handle(self, row: HandleRow) -> ImageHandle:
        """Return an image of the index as callers get it."""
        return ImageHandle(
            familiar(row.reference),
            row.size_bytes,
            row.manifest_digest,
            row.architecture,
            row.os,
            row.layer_count or 0,
            row.created_at,
            row.last_used_at,
            self.layout.root,
        )

    def _position(self, connection: sqlite3.Connection | None, as_of: AsOf) -> int:
        from msb_cache.queries.as_of import position_of

        store = None if connection is None else self.ledger.store(connection)
        position = position_of(store, as_of, self.ledger.clock())
        if position == 0:
            self.note("the log begins later than that; there was nothing")
        return position

    def _index_at(self, connection: sqlite3.Connection | None, position: int) -> sqlite3.Connection | None:
        from msb_cache.home.index_cache import index_at

        if connection is None:
            return None
        if self._past is None or self._past.position != position:
            self._forget_past()
            self._past = index_at(self.ledger, connection, position)
        return self._past.connection

    def _forget_past(self) -> None:
        if self._past is not None:
            self._past.close()
            self._past = None
