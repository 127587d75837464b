"""Keep the projection tables beside the log: apply what was appended, or fold everything anew."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import astuple

from msb_cache.eventstore.store import EventStore, StoredEvent
from msb_cache.projections import FOLD_VERSION, schema
from msb_cache.projections.fold import Fold
from msb_cache.projections.tables import Table, Tables, Values, stored_rows
from msb_cache.shapes import Result


def apply(connection: sqlite3.Connection, events: Sequence[StoredEvent]) -> None:
    """Apply just-appended events to the tables, within the transaction that appended them."""
    if not events:
        return
    fold = Fold(Tables.stored(connection))
    seq = fold.apply(events)
    fold.tables.write(connection)
    _set_position(connection, seq)


def fold_until(store: EventStore, until: int | None = None) -> Fold:
    """Return the fold of the log up to a position (None: its end), in memory, touching no table."""
    fold = Fold(Tables())
    fold.apply(store.facts(until=until))
    return fold


@dataclass(frozen=True)
class Difference(Result):
    """A row on which the live tables and a fold of the log differ; ``live`` or ``folded`` None: absent."""

    table: str
    key: Values
    live: Values | None
    folded: Values | None


def compare(connection: sqlite3.Connection, fold: Fold) -> list[Difference]:
    """Return every row on which the live tables and ``fold`` differ. There must never be one."""
    return [
        difference
        for table in fold.tables.all()
        for difference in differences(table, stored_rows(connection, table.row_type))
    ]


def differences(table: Table[Any], stored: Iterable[Values]) -> list[Difference]:
    """Return where the rows of a live table (in column order) differ from those of a fold's."""
    name, length, key_of = table.row_type.table, table.row_type.key_length, table.statements.key_of_values
    found: list[Difference] = []
    seen = set()
    for live in stored:
        key = key_of(live)
        seen.add(key)
        row = table.rows.get(key)
        folded = None if row is None else astuple(row)
        if folded != live:
            found.append(Difference(name, live[:length], live, folded))
    if found or len(seen) != len(table.rows):
        missing = [astuple(row) for key, row in table.rows.items() if key not in seen]
        found += [Difference(name, folded[:length], None, folded) for folded in missing]
    return sorted(found, key=_order)


def _order(difference: Difference) -> list[tuple[str, object]]:
    # A damaged database can hold values of several types in one column.
    return [(type(part).__name__, part) for part in difference.key]


def rebuild(
    connection: sqlite3.Connection, store: EventStore, fold: Fold | None = None, after: int = 0
) -> list[Difference]:
    """Fold the whole log again and replace the tables if they differ, within the caller's transaction.

    Args:
        connection: in a write transaction.
        store: the log.
        fold: a fold of the log's beginning, made before the transaction; None: there is none.
        after: the last position that ``fold`` has.

    Returns:
        How the tables differed from the fold before.
    """
    fold = fold or Fold(Tables())
    fold.apply(store.facts(after=after))
    found = compare(connection, fold)
    if found:
        schema.create(connection)
        fold.tables.write(connection)
    head = store.head()
    _set_position(connection, head.seq if head else 0)
    return found


def fill(connection: sqlite3.Connection, store: EventStore) -> None:
    """Make the tables anew and fold the whole log into them, within the caller's transaction."""
    schema.create(connection)
    fold = fold_until(store)
    fold.tables.write(connection)
    head = store.head()
    _set_position(connection, head.seq if head else 0)


def position(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return the fold's version and the last position that the tables were folded to; 0, 0 for neither."""
    row = connection.execute("SELECT fold_version, seq FROM projection_state").fetchone()
    return row or (0, 0)


def _set_position(connection: sqlite3.Connection, seq: int) -> None:
    connection.execute(
        "INSERT INTO projection_state (id, fold_version, seq) VALUES (1, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET fold_version = excluded.fold_version, seq = excluded.seq",
        (FOLD_VERSION, seq),
    )
