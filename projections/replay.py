"""A fold that is watched: the rows each event changes, the whole state, and where a given state left it.

For people who ask at which event an index went wrong. It knows events and rows, not where they lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from msb_cache.eventstore.store import StoredEvent
from msb_cache.projections.fold import Fold
from msb_cache.projections.rows import ROW_TYPES, Row
from msb_cache.projections.tables import Key, R, Table, Tables, Values, columns, values
from msb_cache.shapes import Result, fields

ROW_TYPE: Mapping[str, type[Row]] = {row_type.table: row_type for row_type in ROW_TYPES}
"""Each projection table's row type by the table's name."""


def named(table: str, row: Values | None) -> dict[str, Any] | None:
    """Return a row of a table by the names of its columns."""
    return None if row is None else dict(zip(columns(ROW_TYPE[table]), row, strict=True))


Place = tuple[str, Values]
"""A row's table and primary key."""


class Change(Result, Struct, frozen=True):
    """A row before and after an event, in column order; None: absent then."""

    table: str
    key: Values
    before: Values | None
    after: Values | None

    def _shape(self) -> dict[str, Any]:
        before, after = named(self.table, self.before), named(self.table, self.after)
        return {"table": self.table, "key": self.key, "before": before, "after": after}


class Step(Result, Struct, frozen=True):
    """An event and the rows it changed."""

    event: StoredEvent
    changes: list[Change]

    def _shape(self) -> dict[str, Any]:
        return {**fields(self.event), "changes": self.changes}


class State(Result, msgspec.Struct, frozen=True, kw_only=True):
    """The projections at a position of a log: each table's rows in column order.

    ``hash`` is that of the event at ``seq``, in hexadecimal; None where it is not known.
    """

    log_id: str
    seq: int
    hash: str | None
    fold_version: int
    tables: dict[str, list[tuple[Any, ...]]]

    def rows(self) -> dict[Place, Values]:
        """Return all rows by table and key."""
        return {
            (table, tuple(row[: ROW_TYPE[table].key_length])): tuple(row)
            for table, rows in self.tables.items()
            for row in rows
        }


class Divergence(Result, Struct, frozen=True):
    """A row on which the fold and a state differ, and the event from which on they do.

    ``seq`` is 0 when no event of the log ever wrote such a row. ``folded`` is the log's row and ``state`` the
    other one, in column order; None: absent.
    """

    seq: int
    table: str
    key: Values
    folded: Values | None
    state: Values | None

    def _shape(self) -> dict[str, Any]:
        log, state = named(self.table, self.folded), named(self.table, self.state)
        return {"since": self.seq or None, "table": self.table, "key": self.key, "log": log, "state": state}


class _Watched(Table[R]):
    """A table that knows which keys an event touched."""

    def __init__(self, row_type: type[R], by: str | None = None) -> None:
        super().__init__(row_type, by)
        self._touched: set[Key] = set()

    def changed(self, key: Key) -> None:
        self._touched.add(key)

    def take_touched(self) -> list[Key]:
        """Return their keys in order; forgets them."""
        touched = sorted(self._touched)
        self._touched.clear()
        return touched


class Replay:
    """Folds events one by one and keeps what the rows were before."""

    def __init__(self) -> None:
        self._watched: list[_Watched[Any]] = []
        self._fold = Fold(Tables(self._make))
        self._rows: dict[Place, Values] = {}

    def _make(self, row_type: type[R], by: str | None = None) -> Table[R]:
        table = _Watched(row_type, by)
        self._watched.append(table)
        return table

    @property
    def rows(self) -> Mapping[Place, Values]:
        """All rows by table and key, as they are now."""
        return self._rows

    def step(self, event: StoredEvent) -> Step:
        """Apply an event; a row that was written again as it was is no change."""
        self._fold.apply([event])
        changes = []
        for table in self._watched:
            for key in table.take_touched():
                row = table.get(key)
                place = (table.row_type.table, values(key))
                before = self._rows.get(place)
                after = None if row is None else astuple(row)
                if before == after:
                    continue
                if after is None:
                    del self._rows[place]
                else:
                    self._rows[place] = after
                changes.append(Change(*place, before, after))
        return Step(event, changes)

    def tables(self) -> dict[str, list[Values]]:
        """Return each table's rows, sorted by key."""
        found: dict[str, list[Values]] = {table: [] for table in ROW_TYPE}
        for (table, _), row in sorted(self._rows.items(), key=_key):
            found[table].append(row)
        return found


def _key(item: tuple[Any, Any]) -> Any:
    return item[0]


def steps(events: Iterable[StoredEvent]) -> Iterator[Step]:
    """Yield each event with the rows it changes."""
    replay = Replay()
    return map(replay.step, events)


def divergences(events: Callable[[], Iterable[StoredEvent]], state: State) -> list[Divergence]:
    """Return the rows on which a state differs from the fold at its position, by the event it began with.

    While a log is folded, rows differ from a later state all the time. What counts is what still differs
    at the state's own position. For each column that does, the event is the first after the fold's value
    was last the state's. Where it never was the state's, it is the event that gave it the value it has.

    Args:
        events: gives the log's events from the first to the state's position; called twice.
        state: what to compare with.
    """
    given = state.rows()
    folded = Replay()
    for event in events():
        folded.step(event)
    wrong = {
        place for place in given.keys() | folded.rows.keys() if given.get(place) != folded.rows.get(place)
    }
    if not wrong:
        return []
    blame = _Blame(given)
    again = Replay()
    for event in events():
        for change in again.step(event).changes:
            if (change.table, change.key) in wrong:
                blame.follow(change, event.seq)
    found = []
    for place in wrong:
        ours, theirs = folded.rows.get(place), given.get(place)
        seqs = [blame.of(place, column) for column in _differing(place[0], ours, theirs)]
        found.append(Divergence(min(seqs), *place, ours, theirs))
    return sorted(found, key=_order)


class _Blame:
    """Follows single columns: which event ended the last agreement with what is wanted, or wrote last."""

    def __init__(self, wanted: Mapping[Place, Values]) -> None:
        self._wanted = wanted
        self._ended: dict[tuple[Place, int], int] = {}
        self._written: dict[tuple[Place, int], int] = {}

    def follow(self, change: Change, seq: int) -> None:
        place = (change.table, change.key)
        wanted = self._wanted.get(place)
        for column in _differing(change.table, change.before, change.after):
            self._written[place, column] = seq
            if _cell(change.before, column) == _cell(wanted, column):
                self._ended[place, column] = seq

    def of(self, place: Place, column: int) -> int:
        return self._ended.get((place, column)) or self._written.get((place, column), 0)


def _order(found: Divergence) -> tuple[int, str, str]:
    return found.seq, found.table, repr(found.key)


_ABSENT = object()


def _cell(row: Values | None, column: int) -> Any:
    return _ABSENT if row is None else row[column]


def _differing(table: str, one: Values | None, other: Values | None) -> list[int]:
    """Return the columns in which two rows differ: all of them if one is absent."""
    count = len(columns(ROW_TYPE[table]))
    return [column for column in range(count) if _cell(one, column) != _cell(other, column)]
