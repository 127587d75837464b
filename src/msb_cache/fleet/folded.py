"""Where a fold keeps the rows of one log of a fleet: in memory, before the tables of all logs.

A fold from nothing has all rows that there are, and asks for none. One that goes on asks for a row when it is
first wanted; where many events are folded at a time, for all rows of the log that a table has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec
from msgspec.structs import astuple

from msb_cache.fleet.place import SCHEMA
from msb_cache.fleet.writing import Writing
from msb_cache.projections.rows import ROW_TYPES, Row
from msb_cache.projections.tables import KeptTable, Key, Table, Tables, Values, columns, values

R = TypeVar("R", bound=Row)


class LogRows:
    """The rows of one log in a place.

    Attributes:
        log_id: which log's.
        writing: the transaction in which they are asked for and written; each has another.
    """

    def __init__(self, log_id: str, writing: Writing) -> None:
        self.log_id = log_id
        self.writing = writing

    def select(self, row_type: type[Row], condition: str, arguments: Iterable[object] = ()) -> list[Values]:
        """Return the stored rows of a type that fit a condition."""
        query = f"SELECT {', '.join(columns(row_type))} FROM {SCHEMA}.{row_type.table} "
        return self.writing.rows(f"{query}WHERE log_id = ? AND {condition}", (self.log_id, *arguments))


class FoldedTable(KeptTable[R]):
    """Rows of one type of one log.

    Args:
        row_type: their type.
        by: as for ``Table``.
        stored: the log's rows.
        is_new: the log has none yet.
        whole: at the first question all of them are asked for.
    """

    def __init__(
        self, row_type: type[R], by: str | None, stored: LogRows, *, is_new: bool, whole: bool
    ) -> None:
        super().__init__(row_type, by)
        self._of_log = stored
        self._whole = whole
        self._complete = True if is_new else None
        self._keys: set[Key] | None = set() if is_new else None
        """Those of all stored rows; None: not known."""

    def get(self, key: Key) -> R | None:
        """Return the row with this key, or None. A caller that changes it must say so, or ``put`` it."""
        if self._complete is None and self._whole:
            self._ask_whether_complete()
        return super().get(key)

    def _fetch(self, key: Key) -> Values | None:
        where = " AND ".join(f"{name} = ?" for name in self._key)
        return next(iter(self._of_log.select(self.row_type, where, values(key))), None)

    def _stores_any(self) -> bool:
        return bool(self._of_log.select(self.row_type, "1 = 1 LIMIT 1"))

    def _ask_whether_complete(self) -> None:
        if self._complete is not None:
            return
        if self._whole:
            found = self._of_log.select(self.row_type, "1 = 1")
            self._keys = {self.statements.key_of_values(each) for each in found}
            self._take(found)
        elif self._stores_any():
            self._complete = False
            return
        else:
            self._keys = set()
        self._complete = True

    def _select(self, condition: str, value: str | int) -> list[Values]:
        return [] if self._complete else self._of_log.select(self.row_type, condition, (value,))

    def later(self, column: str, time_ns: int) -> list[R]:
        """Return the rows in which this column has a later time; no index serves it."""
        self._ask_whether_complete()
        return super().later(column, time_ns)

    def store(self) -> None:
        """Write what changed; then the fold may go on, in another transaction."""
        if not self._changed:
            return
        keys = sorted(self._changed)  # in the order in which they are stored
        present = [key for key in keys if key in self.rows]
        writing, log_id = self._of_log.writing, self._of_log.log_id
        if not self.row_type.insert_only:
            before = keys if self._keys is None else [key for key in keys if key in self._keys]
            writing.delete(self.row_type.table, self._key, log_id, [values(key) for key in before])
        rows = [(log_id, *astuple(self.rows[key])) for key in present]
        writing.insert(self.row_type.table, ("log_id", *columns(self.row_type)), rows)
        if self._keys is not None:
            self._keys.difference_update(keys)
            self._keys.update(present)
        self._changed.clear()
        if self.row_type.insert_only:  # nobody asks for them
            self.rows.clear()

    @property
    def _key(self) -> tuple[str, ...]:
        return columns(self.row_type)[: self.row_type.key_length]


class FoldedTables(Tables):
    """All tables of the fold of one log.

    Args:
        log_id: which log's.
        writing: a transaction.
        is_new: nothing of the log is stored yet.
        whole: of a table that is asked, all rows of the log are asked for at once.
    """

    def __init__(self, log_id: str, writing: Writing, *, is_new: bool, whole: bool) -> None:
        self.log_rows = LogRows(log_id, writing)

        def make(row_type: type[R], by: str | None = None) -> Table[R]:
            return FoldedTable(row_type, by, self.log_rows, is_new=is_new, whole=whole)

        super().__init__(make)

    def store(self) -> None:
        """Write what changed of all tables, in the transaction of ``log_rows``."""
        for table in self.all():
            assert isinstance(table, FoldedTable)  # noqa: S101
            table.store()

    def put(self, found: dict[str, list[Values]]) -> None:
        """Put rows, by the names of their tables, as if they had been folded."""
        for table in self.all():
            for row in found.get(table.row_type.table, ()):
                table.put(table.row_type(*row))


def clear(writing: Writing, log_id: str) -> None:
    """Take out all rows of a log."""
    for row_type in ROW_TYPES:
        writing.run(f"DELETE FROM {SCHEMA}.{row_type.table} WHERE log_id = ?", (log_id,))
    writing.run(f"DELETE FROM {SCHEMA}.told WHERE log_id = ?", (log_id,))


class Prefix(msgspec.Struct, frozen=True):
    """What was folded from the beginning of a log: all that a fold of what follows takes.

    Attributes:
        tables: the rows, in column order, by the names of their tables; each table's by their keys.
        host: whose name its events say; None: that of none that is known.
        tree: as ``fold_state`` has it.
    """

    tables: dict[str, list[tuple[int | str | None, ...]]]
    host: str | None = None
    tree: bytes | None = None


_decoder = msgspec.msgpack.Decoder(Prefix)
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def encoded(prefix: Prefix) -> bytes:
    """Return the beginning of a log as ``anchor.rows`` has it; the same for the same rows."""
    ordered = {
        row_type.table: sorted(prefix.tables.get(row_type.table, ()), key=lambda row: row[:length])
        for row_type, length in ((each, each.key_length) for each in ROW_TYPES)
    }
    return _encode(msgspec.structs.replace(prefix, tables=ordered))


def decoded(data: bytes) -> Prefix:
    """Return the beginning of a log from ``anchor.rows``.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    return _decoder.decode(data)


def prefix_of(
    rows: Callable[[type[Row]], Iterable[Values]], host: str | None = None, tree: bytes | None = None
) -> Prefix:
    """Return the beginning of a log from the rows of each type, in any order."""
    return Prefix({each.table: [tuple(row) for row in rows(each)] for each in ROW_TYPES}, host, tree)
