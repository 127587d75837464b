"""Where a fold keeps its rows: in memory, or in memory before the SQL tables of an index.

A fold from the beginning has all rows there are. One that goes on from an index reads a row when it is first
asked for, and writes what changed in bulk at the end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable
from functools import cache
from operator import attrgetter, itemgetter
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from msgspec.structs import astuple

from msb_cache.projections.rows import ROW_TYPES, Row

R = TypeVar("R", bound=Row)
Values = tuple[Any, ...]
"""A row as a tuple, in column order; or its primary key's columns."""
Key = Any
"""A primary key as tables know rows by: the value of its column, or the tuple of several.

Not a tuple of one, because a fold of a million events looks most of them up by one.
"""


def columns(row_type: type[Row]) -> tuple[str, ...]:
    """Return a row type's column names, the primary key first."""
    return row_type.__struct_fields__


class _Statements(NamedTuple):
    """What a row type's table is asked and told."""

    select: str
    delete: str
    insert: str
    key_of: Callable[[Any], Key]
    key_of_values: Callable[[Values], Key]


@cache
def _statements(row_type: type[Row]) -> _Statements:
    # Made once: a fold of one event has every table, and most of them it never asks.
    names = columns(row_type)
    key = names[: row_type.key_length]
    where = " AND ".join(f"{name} = ?" for name in key)
    verb = "INSERT" if row_type.insert_only else "INSERT OR REPLACE"
    return _Statements(
        f"SELECT {', '.join(names)} FROM {row_type.table} WHERE {where}",  # noqa: S608
        f"DELETE FROM {row_type.table} WHERE {where}",  # noqa: S608
        f"{verb} INTO {row_type.table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
        attrgetter(*key),
        itemgetter(*range(len(key))),
    )


class _Index(Generic[R]):
    """The keys of rows by another column."""

    def __init__(self, column: str) -> None:
        self.value_of: Callable[[R], Any] = attrgetter(column)
        self._keys: dict[Any, set[Key]] = {}

    def add(self, key: Key, row: R) -> None:
        self._keys.setdefault(self.value_of(row), set()).add(key)

    def discard(self, key: Key, row: R) -> None:
        value = self.value_of(row)
        keys = self._keys.get(value)
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._keys[value]

    def __getitem__(self, value: str) -> Collection[Key]:
        return self._keys.get(value, ())


class Table(Generic[R]):
    """Rows of one type by primary key, all of them in memory.

    Args:
        row_type: their type.
        by: a column that the table can be asked by too. In it a row never changes in place: a new row is put.
    """

    def __init__(self, row_type: type[R], by: str | None = None) -> None:
        self.row_type = row_type
        self.statements = _statements(row_type)
        self.key_of = self.statements.key_of
        self.rows: dict[Key, R] = {}
        self._by = by or ""
        self._index: _Index[R] | None = None  # made when first asked: by their layers few logs' folds ask

    def get(self, key: Key) -> R | None:
        """Return the row with this key, or None. A caller that changes it must say so, or ``put`` it."""
        return self.rows.get(key)

    def put(self, row: R) -> None:
        """Add the row, or replace the one with its key."""
        key = self.key_of(row)
        if self._index is not None:
            before = self.rows.get(key)
            if before is not None:
                self._index.discard(key, before)
            self._index.add(key, row)
        self.rows[key] = row
        self.changed(key)

    def changed(self, key: Key) -> None:
        """Take note that the row with this key is another, or has changed in place, or is gone.

        A caller that changes a row got from here says so. These tables need no note of it.
        """

    def delete(self, key: Key) -> R | None:
        """Take the row with this key out; return it, None if there was none."""
        row = self.rows.pop(key, None)
        if row is not None:
            if self._index is not None:
                self._index.discard(key, row)
            self.changed(key)
        return row

    @property
    def empty(self) -> bool:
        """Whether there is no row. A table that was not empty may go on saying so when its rows have gone."""
        return not self.rows

    def has(self, value: str) -> bool:
        """Return whether some row has this value."""
        return bool(self._having(value))

    def having(self, value: str) -> list[R]:
        """Return the rows that have this value, in the order of their keys."""
        return [self.rows[key] for key in sorted(self._having(value))]

    def later(self, column: str, time_ns: int) -> list[R]:
        """Return the rows in which this column has a later time; no index serves it."""
        value_of = attrgetter(column)
        return [row for row in self.rows.values() if (value_of(row) or 0) > time_ns]

    def write(self, connection: sqlite3.Connection) -> None:
        """Write all rows into the SQL table, which is empty."""
        # In the order in which they are stored.
        connection.executemany(self.statements.insert, [astuple(self.rows[key]) for key in sorted(self.rows)])

    def _having(self, value: str) -> Collection[Key]:
        if self._index is None:
            self._index = _Index(self._by)
            for key, row in self.rows.items():
                self._index.add(key, row)
        return self._index[value]


class KeptTable(Table[R]):
    """Rows before those that are stored elsewhere: what was asked for or changed, until it is written.

    Where that is, its subclasses know.

    Args:
        row_type: their type.
        by: as for ``Table``.
    """

    def __init__(self, row_type: type[R], by: str | None) -> None:
        super().__init__(row_type, by)
        self._gone: set[Key] = set()
        """Keys of which no stored row counts, only what is in ``rows``."""
        self._changed: set[Key] = set()
        self._complete: bool | None = None
        """Whether ``rows`` are all there are, as where none is stored; None: not asked yet."""
        self._asked: set[str] = set()

    def get(self, key: Key) -> R | None:
        """Return the row with this key, or None. A caller that changes it must say so, or ``put`` it."""
        row = self.rows.get(key)
        if row is not None or self._complete or key in self._gone:
            return row
        found = self._fetch(key)
        if found is None:
            self._ask_whether_complete()
            self._gone.add(key)
            return None
        return self._read(key, found)

    @property
    def empty(self) -> bool:
        """Whether there is no row. A table that was not empty may go on saying so when its rows have gone."""
        self._ask_whether_complete()
        return bool(self._complete) and not self.rows

    def _fetch(self, key: Key) -> Values | None:
        """Return the stored row with this key."""
        raise NotImplementedError

    def _stores_any(self) -> bool:
        """Return whether any row is stored."""
        raise NotImplementedError

    def _select(self, condition: str, value: str | int) -> list[Values]:
        """Return the stored rows that fit a condition on one column."""
        raise NotImplementedError

    def _ask_whether_complete(self) -> None:
        # The first events of a log can be many, and none of them finds a row from before.
        if self._complete is None:
            self._complete = not self._stores_any()

    def _read(self, key: Key, found: Values) -> R:
        row = self.rows[key] = self.row_type(*found)
        if self._index is not None:
            self._index.add(key, row)
        return row

    def changed(self, key: Key) -> None:
        """Take note of what is to be written."""
        self._changed.add(key)

    def delete(self, key: Key) -> R | None:
        """Take the row with this key out; return it, None if there was none."""
        row = self.get(key)
        if row is not None:
            super().delete(key)
            self._gone.add(key)
        return row

    def later(self, column: str, time_ns: int) -> list[R]:
        """Return the rows in which this column has a later time; no index serves it."""
        self._read_all(f"{column} > ?", time_ns)
        return super().later(column, time_ns)

    def _having(self, value: str) -> Collection[Key]:
        self._ask_whether_complete()
        if not self._complete and value not in self._asked:
            self._asked.add(value)
            self._read_all(f"{self._by} = ?", value)
        return super()._having(value)

    def _read_all(self, condition: str, value: str | int) -> None:
        self._take(self._select(condition, value))

    def _take(self, stored: Iterable[Values]) -> None:
        # All of them at once: there can be many, and they go one by one.
        for found in stored:
            key = self.statements.key_of_values(found)
            # Rows changed here and not written yet stand before the stored ones.
            if key not in self.rows and key not in self._gone:
                self._read(key, found)


class StoredTable(KeptTable[R]):
    """Rows before an index's SQL table.

    Args:
        row_type: their type.
        by: as for ``Table``.
        connection: the index's.
    """

    def __init__(self, row_type: type[R], by: str | None, connection: sqlite3.Connection) -> None:
        super().__init__(row_type, by)
        self._connection = connection
        self._stored: dict[Key, Values] = {}
        """The rows that were read, as they are stored."""

    def _fetch(self, key: Key) -> Values | None:
        found: Values | None = self._connection.execute(self.statements.select, values(key)).fetchone()
        return found

    def _stores_any(self) -> bool:
        first = self._connection.execute(f"SELECT 1 FROM {self.row_type.table} LIMIT 1")  # noqa: S608
        return first.fetchone() is not None

    def _select(self, condition: str, value: str | int) -> list[Values]:
        names, table = columns(self.row_type), self.row_type.table
        query = f"SELECT {', '.join(names)} FROM {table} WHERE {condition}"  # noqa: S608
        return self._connection.execute(query, (value,)).fetchall()

    def _read(self, key: Key, found: Values) -> R:
        self._stored[key] = found
        return super()._read(key, found)

    def write(self, connection: sqlite3.Connection) -> None:
        """Write what changed; that is the last thing to do with it."""
        present: list[Values] = []
        absent: list[Values] = []
        for key in sorted(self._changed):  # in the order in which they are stored
            row, stored = self.rows.get(key), self._stored.get(key)
            if row is None:
                absent.append(values(key))
            elif stored is None:
                present.append(astuple(row))
            else:
                self._update(connection, stored, astuple(row))
        if absent:
            connection.executemany(self.statements.delete, absent)
        if present:
            connection.executemany(self.statements.insert, present)

    def _update(self, connection: sqlite3.Connection, stored: Values, row: Values) -> None:
        """Write the columns that changed: a use of an image touches none of its indexes."""
        names, length = columns(self.row_type), self.row_type.key_length
        changed = {name: new for name, old, new in zip(names, stored, row, strict=True) if old != new}
        if changed:
            assignments = ", ".join(f"{name} = ?" for name in changed)
            where = " AND ".join(f"{name} = ?" for name in names[:length])
            query = f"UPDATE {self.row_type.table} SET {assignments} WHERE {where}"  # noqa: S608
            connection.execute(query, (*changed.values(), *row[:length]))


def values(key: Key) -> Values:
    """Return a primary key as the tuple of its columns."""
    return key if type(key) is tuple else (key,)


class Maker(Protocol):
    """Makes the tables of a fold."""

    def __call__(self, row_type: type[R], by: str | None = None) -> Table[R]:
        """Return the table for rows of this type."""
        ...


class Tables:
    """All projection tables of one fold; as a rule it starts from nothing, in memory."""

    def __init__(self, make: Maker = Table) -> None:
        self._of: dict[type[Row], Table[Any]] = {
            row_type: make(row_type, row_type.asked_by) for row_type in ROW_TYPES
        }

    @classmethod
    def stored(cls, connection: sqlite3.Connection) -> Tables:
        """Return the tables of a fold that goes on from the index in this database."""

        def make(row_type: type[R], by: str | None = None) -> Table[R]:
            return StoredTable(row_type, by, connection)

        return cls(make)

    def of(self, row_type: type[R]) -> Table[R]:
        """Return the table that has rows of this type."""
        return self._of[row_type]

    def all(self) -> Collection[Table[Any]]:
        """Return every table, in the order of ``ROW_TYPES``."""
        return self._of.values()

    def write(self, connection: sqlite3.Connection) -> None:
        """Write the rows, or what of them changed, within the caller's transaction."""
        for table in self.all():
            table.write(connection)


def stored_rows(connection: sqlite3.Connection, row_type: type[Row]) -> Iterable[Values]:
    """Yield a projection table's rows as they are stored, as tuples in column order."""
    return connection.execute(
        f"SELECT {', '.join(columns(row_type))} FROM {row_type.table}"  # noqa: S608
    )
