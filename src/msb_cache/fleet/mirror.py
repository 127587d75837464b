"""One host's log as that host has it, in memory: so one host's questions are asked of it as they are.

The tables of its index are copied from the place where the fleet is; of its events those come that a question
looks at. What is on the host alone, files, a policy, or msb's own database, is not known here.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

from msb_cache.eventstore.row import COLUMNS
from msb_cache.eventstore.store import INSERT, EventStore, Head, StoredEvent
from msb_cache.eventstore.where import ANYTHING, Where
from msb_cache.fleet.hosts import KnownLog
from msb_cache.fleet.place import Reading, Values, marks
from msb_cache.fleet.schema import WITHHELD
from msb_cache.projections import state
from msb_cache.projections.images import AFTER_HEX
from msb_cache.projections.moment import set_moment
from msb_cache.projections.rows import ROW_TYPES, DeletionOutcomeRow, Row
from msb_cache.projections.schema import statements
from msb_cache.projections.state import IndexState
from msb_cache.projections.tables import columns

_EVENTS = (
    "CREATE TABLE events (seq INTEGER PRIMARY KEY, id TEXT, type TEXT, version INTEGER, subject TEXT, "
    "operation TEXT, occurred_at INTEGER, recorded_at INTEGER, actor TEXT, data TEXT, hash BLOB)",
    "CREATE INDEX events_by_subject ON events (subject)",
    "CREATE INDEX events_by_operation ON events (operation, subject)",
)
_SELECT = f"SELECT {', '.join((*COLUMNS, 'hash'))} FROM msb_cache.event WHERE log_id = ? AND seq <= ?"
_TAKE = INSERT.replace("INSERT", "INSERT OR IGNORE", 1)
_TOGETHER = 20
"""The indexes of so many logs are copied by the same statements."""
_CHUNK = 500


class Mirror:
    """The index of one log, and its events as far as they were asked for, at the last one that is folded.

    Attributes:
        log: which.
        connection: is asked as the host's own index is.
        store: is asked as the host's own log is.
    """

    def __init__(self, reading: Reading, log: KnownLog, clock: Callable[[], int]) -> None:
        self.log = log
        self._reading = reading
        self._have: set[tuple[str, object]] = set()
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        set_moment(self.connection, clock)
        for row_type in ROW_TYPES:
            for statement in statements(row_type):
                self.connection.execute(statement)
        for statement in _EVENTS:
            self.connection.execute(statement)
        self.store: EventStore = _Store(self)

    def close(self) -> None:
        """Free the memory."""
        self.connection.close()

    def put(self, row_type: type[Row], rows: Iterable[Values]) -> None:
        """Take rows of a table of the index, in column order."""
        self.connection.executemany(
            f"INSERT INTO {row_type.table} VALUES ({marks(columns(row_type))})",
            rows,
        )

    def index(self, connection: sqlite3.Connection) -> IndexState:
        """Return the index as a deletion sees it; what only msb's database says is not in it."""
        found = state.load_to_judge(connection)
        seen = connection.execute(
            "SELECT EXISTS (SELECT 1 FROM manifest WHERE msb_row IS NOT NULL) "
            "OR EXISTS (SELECT 1 FROM image WHERE msb_row IS NOT NULL)"
        ).fetchone()[0]
        return state.load_observed(connection, found) if seen else found

    # -- events --------------------------------------------------------------------------------------

    def load(self, column: str, values: Iterable[str | int]) -> None:
        """Take the events that have one of these in a column, and were not taken yet."""
        new = [value for value in dict.fromkeys(values) if (column, value) not in self._have]
        self._have.update((column, value) for value in new)
        for start in range(0, len(new), _CHUNK):
            some = new[start : start + _CHUNK]
            self._take(f" AND {column} IN ({marks(some)})", some)

    def load_beginning(self, prefix: str) -> None:
        """Take the events about digests that begin so."""
        if ("beginning", prefix) not in self._have:
            self._have.add(("beginning", prefix))
            self._take(" AND subject >= ? AND subject < ?", (prefix, prefix + AFTER_HEX))

    def load_all(self) -> None:
        """Take every event."""
        if ("all", None) not in self._have:
            self._have.add(("all", None))
            self._take("", ())

    def _take(self, condition: str, arguments: Sequence[str | int]) -> None:
        if ("all", None) in self._have and condition:
            return
        rows = self._reading.rows(_SELECT + condition, (self.log.log_id, self.log.folded_seq, *arguments))
        self.connection.executemany(_TAKE, rows)

    def head(self) -> Head | None:
        """Return the last event that is folded."""
        rows = self._reading.rows(
            "SELECT seq, hash, recorded_at FROM msb_cache.fold_state WHERE log_id = ?", (self.log.log_id,)
        )
        return Head(*rows[0]) if rows else None


class _Store(EventStore):
    """The events of a mirror: what is asked for is taken before."""

    def __init__(self, mirror: Mirror) -> None:
        super().__init__(mirror.connection)
        self._mirror = mirror

    def head(self) -> Head | None:
        return self._mirror.head()

    def read(
        self,
        *,
        after: int = 0,
        until: int | None = None,
        types: Iterable[str] | None = None,
        subjects: Iterable[str] | None = None,
        operation: str | None = None,
        where: Where = ANYTHING,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[StoredEvent]:
        mirror = self._mirror
        chosen = None if types is None else [*types]
        about = None if subjects is None else [*subjects]
        if operation is not None:
            mirror.load("operation", [operation])
        elif about is not None:
            mirror.load("subject", about)
        elif until is not None and until - after <= 1:
            mirror.load("seq", [until])
        elif chosen is not None:
            mirror.load("type", chosen)
        else:
            mirror.load_all()
        return super().read(
            after=after,
            until=until,
            types=chosen,
            subjects=about,
            operation=operation,
            where=where,
            reverse=reverse,
            limit=limit,
        )


def mirrors(reading: Reading, logs: Sequence[KnownLog], clock: Callable[[], int]) -> Iterator[Mirror]:
    """Yield a mirror of each log, in order; each is closed when the next one is asked for.

    Args:
        reading: where they are.
        logs: which.
        clock: what time it is, in ns since the epoch: holds and pins end.
    """
    for start in range(0, len(logs), _TOGETHER):
        some = logs[start : start + _TOGETHER]
        copied = {row_type: _copied(reading, row_type, some) for row_type in ROW_TYPES}
        for log in some:
            with closing(Mirror(reading, log, clock)) as mirror:
                for row_type, of_log in copied.items():
                    mirror.put(row_type, of_log.pop(log.log_id, ()))
                pins = mirror.connection.execute("SELECT seq FROM pin").fetchall()
                mirror.load("seq", (seq for (seq,) in pins))  # who has pinned is asked of them in SQL
                yield mirror


def _copied(reading: Reading, row_type: type[Row], logs: Sequence[KnownLog]) -> dict[str, list[Values]]:
    found: defaultdict[str, list[Values]] = defaultdict(list)
    if row_type is DeletionOutcomeRow:
        return found  # of which nothing is asked but how it was folded
    table = row_type.table
    names = ["NULL" if (table, name) in WITHHELD else name for name in columns(row_type)]
    ids: list[Any] = [log.log_id for log in logs]
    rows = reading.rows(
        f"SELECT log_id, {', '.join(names)} FROM msb_cache.{table} WHERE log_id IN ({marks(ids)})",
        ids,
    )
    for log_id, *row in rows:
        found[log_id].append(tuple(row))
    return found
