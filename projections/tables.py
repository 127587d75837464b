"""Where a fold keeps its rows: in memory, and behind that, for a live fold, the SQL tables.

A table reads a row it does not have yet from the database (a live fold), or knows that it has all
there is (a fold from the beginning). What changed is written in bulk at the end.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache
from operator import attrgetter
from typing import Any, Generic, NamedTuple, TypeVar

from msgspec.structs import astuple

from msb_cache.projections.rows import (
    ROW_TYPES,
    DeletionOutcomeRow,
    DeletionRow,
    HoldRow,
    ImageRow,
    LayerRow,
    ManifestLayerRow,
    ManifestRow,
    PointedAtRow,
    Row,
)

R = TypeVar("R", bound=Row)
Key = tuple[Any, ...]


def columns(row_type: type[Row]) -> tuple[str, ...]:
    """Return a row type's column names, the primary key first."""
    return row_type.__struct_fields__


class _Statements(NamedTuple):
    """What a row type's table is asked and told; ``key_of`` returns a row's primary key."""

    select: str
    delete: str
    insert: str
    key_of: Callable[[Any], Key]


@cache
def _statements(row_type: type[Row]) -> _Statements:
    # Made once: a fold of one event has eight tables, and most of them it never asks.
    names = columns(row_type)
    first, *more = names[: row_type.key_length]
    field = attrgetter(first, *more)
    where = " AND ".join(f"{name} = ?" for name in (first, *more))
    verb = "INSERT" if row_type.insert_only else "INSERT OR REPLACE"
    return _Statements(
        f"SELECT {', '.join(names)} FROM {row_type.table} WHERE {where}",  # noqa: S608
        f"DELETE FROM {row_type.table} WHERE {where}",  # noqa: S608
        f"{verb} INTO {row_type.table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})",
        field if more else lambda row: (field(row),),
    )


class Table(Generic[R]):
    """Rows of one type by primary key."""

    def __init__(self, row_type: type[R], connection: sqlite3.Connection | None) -> None:
        self._row_type = row_type
        self._connection = connection
        self._complete: bool | None = True if connection is None else None
        self._rows: dict[Key, R | None] = {}
        self._changed: set[Key] = set()
        self._stored: dict[Key, Key] = {}
        self._key_length = row_type.key_length
        self._select, self._delete, self._insert, self._key_of = _statements(row_type)

    def get(self, *key: Any) -> R | None:
        """Return the row with this key, or None. Whoever changes it must say so, or ``put`` it."""
        row = self._rows.get(key)
        if row is not None or self._connection is None or self._complete or key in self._rows:
            return row
        found = self._connection.execute(self._select, key).fetchone()
        if found is None:
            self._complete = self._complete is None and self._is_empty(self._connection)
            self._rows[key] = None
            return None
        self._stored[key] = found
        row = self._rows[key] = self._row_type(*found)
        return row

    def _is_empty(self, connection: sqlite3.Connection) -> bool:
        # The first events of a log can be many, and none of them finds a row from before.
        first = connection.execute(f"SELECT 1 FROM {self._row_type.table} LIMIT 1")  # noqa: S608
        return first.fetchone() is None

    def put(self, row: R) -> None:
        """Add the row, or replace the one with its key."""
        key = self._key_of(row)
        self._rows[key] = row
        self._changed.add(key)

    def changed(self, *key: Any) -> None:
        """Note that the row with this key, which was got from here, has changed in place."""
        self._changed.add(key)

    def delete(self, *key: Any) -> bool:
        """Take the row with this key out; return whether there was one."""
        present = self.get(*key) is not None
        if present:
            self._rows[key] = None
            self._changed.add(key)
        return present

    def rows(self) -> Iterator[R]:
        """Yield the rows held in memory: for a fold from the beginning, all there are."""
        return (row for row in self._rows.values() if row is not None)

    def take_changes(self) -> list[tuple[Key, R | None]]:
        """Return the rows put or deleted since the last time, None for a deleted one; forgets them."""
        changes = [(key, self._rows[key]) for key in self._changed]
        self._changed.clear()
        return changes

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write what changed since the last flush."""
        if not self._changed:
            return
        present: list[Key] = []
        absent: list[Key] = []
        for key in sorted(self._changed):  # written in the order in which they are stored
            row, stored = self._rows[key], self._stored.pop(key, None)
            if row is None:
                absent.append(key)
            elif stored is None:
                present.append(astuple(row))
            else:
                self._update(connection, key, stored, astuple(row))
        if absent:
            connection.executemany(self._delete, absent)
        if present:
            connection.executemany(self._insert, present)
        self._changed.clear()

    def _update(self, connection: sqlite3.Connection, key: Key, stored: Key, row: Key) -> None:
        """Write the columns that changed: a use of an image touches none of its indexes."""
        names = columns(self._row_type)
        changed = {name: new for name, old, new in zip(names, stored, row, strict=True) if old != new}
        if changed:
            assignments = ", ".join(f"{name} = ?" for name in changed)
            where = " AND ".join(f"{name} = ?" for name in names[: self._key_length])
            query = f"UPDATE {self._row_type.table} SET {assignments} WHERE {where}"  # noqa: S608
            connection.execute(query, (*changed.values(), *key))


class IndexedTable(Table[R]):
    """A table that can also be asked by one column outside its key.

    In that column a row never changes in place: a new row is put.
    """

    def __init__(self, row_type: type[R], connection: sqlite3.Connection | None, column: str) -> None:
        super().__init__(row_type, connection)
        self._by = f"SELECT {', '.join(columns(row_type))} FROM {row_type.table} WHERE {column} = ?"  # noqa: S608
        self._value_of = attrgetter(column)
        self._keys: dict[str, set[Key]] = {}
        self._asked: set[str] = set()

    def put(self, row: R) -> None:
        """Add the row, or replace the one with its key."""
        key = self._key_of(row)
        self._forget(key)
        self._keys.setdefault(self._value_of(row), set()).add(key)
        super().put(row)

    def delete(self, *key: Any) -> bool:
        """Take the row with this key out; return whether there was one."""
        self._forget(key)
        return super().delete(*key)

    def has(self, value: str) -> bool:
        """Return whether some row has this value."""
        return bool(self._keys.get(value) or self._having(value))

    def having(self, value: str) -> list[R]:
        """Return the rows that have this value, in the order of their keys."""
        found = (self._rows[key] for key in sorted(self._having(value)))
        return [row for row in found if row is not None]

    def _having(self, value: str) -> Collection[Key]:
        """Return their keys; takes every stored row in at once: there can be many, and they go one by one."""
        if self._connection is None or self._complete or value in self._asked:
            return self._keys.get(value, ())
        self._asked.add(value)
        known = self._keys.setdefault(value, set())
        for stored in self._connection.execute(self._by, (value,)).fetchall():
            key = stored[: self._key_length]
            if key not in self._rows:
                self._stored[key] = stored
                self._rows[key] = self._row_type(*stored)
            # Rows changed here and not written yet stand before the stored ones.
            row = self._rows[key]
            if row is not None and self._value_of(row) == value:
                known.add(key)
        return known

    def _forget(self, key: Key) -> None:
        row = self._rows.get(key)
        if row is not None and (keys := self._keys.get(self._value_of(row))):
            keys.discard(key)


class Tables:
    """All projection tables of one fold; without a connection it starts from nothing, in memory."""

    def __init__(self, connection: sqlite3.Connection | None = None) -> None:
        self.image = IndexedTable(ImageRow, connection, "manifest_digest")
        self.manifest = Table(ManifestRow, connection)
        self.manifest_layer = IndexedTable(ManifestLayerRow, connection, "diff_id")
        self.layer = Table(LayerRow, connection)
        self.hold = Table(HoldRow, connection)
        self.pointed_at = Table(PointedAtRow, connection)
        self.deletion = Table(DeletionRow, connection)
        self.deletion_outcome = Table(DeletionOutcomeRow, connection)

    def all(self) -> tuple[Table[Any], ...]:
        """Return every table, in the order of ``ROW_TYPES``."""
        return (
            self.image,
            self.manifest,
            self.manifest_layer,
            self.layer,
            self.hold,
            self.pointed_at,
            self.deletion,
            self.deletion_outcome,
        )

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write what changed, within the caller's transaction."""
        for table in self.all():
            table.flush(connection)


def stored_rows(connection: sqlite3.Connection, row_type: type[Row]) -> Iterable[Key]:
    """Yield a projection table's rows as they are stored, as tuples in column order."""
    return connection.execute(
        f"SELECT {', '.join(columns(row_type))} FROM {row_type.table}"  # noqa: S608
    )


def clear(connection: sqlite3.Connection) -> None:
    """Empty every projection table, within the caller's transaction."""
    for row_type in ROW_TYPES:
        connection.execute(f"DELETE FROM {row_type.table}")  # noqa: S608
