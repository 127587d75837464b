"""The index as it was at an earlier position: rows from a copy, or none, and the events since folded in.

It lives in an SQLite database in memory with the tables that the live index has, so the questions of
``images`` are asked of either in the same words. Where copies are kept is decided elsewhere.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import astuple

from msb_cache.eventstore.store import EventStore
from msb_cache.projections.fold import Fold
from msb_cache.projections.moment import set_moment
from msb_cache.projections.rows import ROW_TYPES, DeletionRow, Row
from msb_cache.projections.schema import statements
from msb_cache.projections.tables import Key, R, StoredTable, Table, Tables, Values, columns, stored_rows

KEPT = tuple(row_type for row_type in ROW_TYPES if not row_type.only_grows)
"""What the past is asked for. The other tables only grow, so the live ones tell what they had."""

Rows = tuple[list[Values], ...]
"""The rows of each of those tables, in their order, as tuples in column order."""


def _tuple_of(row_type: type[Row]) -> Any:
    return list[tuple.__class_getitem__(tuple(field.type for field in msgspec.structs.fields(row_type)))]  # type: ignore[misc]


_SEQ = columns(DeletionRow).index("seq")

_decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(
    tuple.__class_getitem__(tuple(_tuple_of(row_type) for row_type in KEPT))
).decode


def encode_rows(connection: sqlite3.Connection) -> bytes:
    """Return a whole index, live or past, as MessagePack; within the caller's transaction."""
    return msgspec.msgpack.encode([[*stored_rows(connection, row_type)] for row_type in KEPT])


def rows_of(tables: Tables) -> Rows:
    """Return a whole index from the tables of a fold from the beginning."""
    return tuple([astuple(table.rows[key]) for key in sorted(table.rows)] for table in map(tables.of, KEPT))


def same_rows(one: Rows, other: Rows) -> bool:
    """Return whether two indexes have the same rows, in whatever order."""
    return all(len(a) == len(b) and {*a} == {*b} for a, b in zip(one, other, strict=True))


def decode_rows(data: bytes) -> Rows:
    """Return what ``encode_rows`` made, checked for its types.

    Raises:
        msgspec.MsgspecError: the data is something else.
    """
    rows: Rows = _decode(data)
    return rows


class Past:
    """The index at a position; ``connection`` is asked like the live one.

    Args:
        position: where the rows were taken.
        rows: of each kept table; none for the beginning of the log.

    Raises:
        sqlite3.IntegrityError: the rows contradict each other.
    """

    def __init__(self, position: int = 0, rows: Rows | None = None) -> None:
        self.position = position
        self.connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        set_moment(self.connection, time.time_ns)  # until a moment is asked about
        try:
            self._fill(rows or tuple([] for _ in KEPT))
        except BaseException:
            self.close()
            raise

    def advance(self, live: sqlite3.Connection, store: EventStore, until: int) -> None:
        """Fold the events up to a later position; ``live`` and ``store`` are of the log's database."""

        def make(row_type: type[R], by: str | None = None) -> Table[R]:
            if not row_type.only_grows:
                return StoredTable(row_type, by, self.connection)
            if row_type is DeletionRow:
                return _Decided(row_type, live, self.position)
            return Table(row_type, by)

        tables = Tables(make)
        Fold(tables).apply(store.facts(after=self.position, until=until))
        self.connection.execute("BEGIN")
        for row_type in KEPT:
            tables.of(row_type).write(self.connection)
        self.connection.execute("COMMIT")
        self.position = until

    def asked_about(self, time_ns: int) -> None:
        """Say which moment at this position is asked about, in ns since the epoch: holds and pins end."""
        set_moment(self.connection, lambda: time_ns)

    def close(self) -> None:
        """Free the memory."""
        self.connection.close()

    def _fill(self, rows: Rows) -> None:
        self.connection.execute("BEGIN")
        for row_type, found in zip(KEPT, rows, strict=True):
            for statement in statements(row_type):
                self.connection.execute(statement)
            names = columns(row_type)
            self.connection.executemany(
                f"INSERT INTO {row_type.table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",  # noqa: S608
                found,
            )
        self.connection.execute("COMMIT")


class _Decided(StoredTable[R]):
    """Which deletions had been decided by a position. The live table has them all: none is ever taken out.

    The counters are those of today. The fold of the past asks only whether there is a row, and for its
    engine, which stays what it was when the deletion began.
    """

    def __init__(self, row_type: type[R], live: sqlite3.Connection, position: int) -> None:
        super().__init__(row_type, None, live)
        self._position = position

    def _fetch(self, key: Key) -> Values | None:
        found = super()._fetch(key)
        return None if found is None or found[_SEQ] > self._position else found
