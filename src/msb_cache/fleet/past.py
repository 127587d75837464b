"""A fleet as it was: its logs folded anew up to a moment, so that what is asked of now is asked of then.

Each log is folded from its first event, or from what its anchor keeps of those in an archive, by the fold
that made the read models, into the tables of a fleet in a private temporary database. So a question has one
form for now and for then. A machine of 2 cores folds some 80,000 events a second; one log at a time is in
memory, and of the others what was folded, as far as SQLite keeps it there.

Who asks reads the log without images' configurations, and can therefore not check its hash chain: the folder
has, and ``fleet verify`` does.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Generator, Iterable, Iterator, MutableMapping, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from typing import NamedTuple, TypeVar

from msgspec.structs import astuple, replace

from msb_cache.activity import Activities, Count
from msb_cache.errors import FleetError, InvalidConfigError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.ids import moment_of
from msb_cache.eventstore.row import COLUMNS
from msb_cache.eventstore.store import PlainFact
from msb_cache.eventstore.upcasting import CATALOGUE
from msb_cache.fleet import schema
from msb_cache.fleet.events import check_one, positions_before
from msb_cache.fleet.hosts import OF_LOG, WITH_LOG, KnownLog, split
from msb_cache.fleet.images import Word, asked_for
from msb_cache.fleet.place import SCHEMA, FileReading, Place, Reading, Values, marks
from msb_cache.fleet.present import Question
from msb_cache.fleet.stored import anchor_of
from msb_cache.projections.fold import Fold
from msb_cache.projections.past import KEPT
from msb_cache.projections.tables import R, Table, Tables
from msb_cache.queries.as_of import AsOf, in_future, position_in, time_meant
from msb_cache.wording import plural

T = TypeVar("T")

UNKNOWN = "no host's log begins before that, so what was there then is not known"
"""What is said where no log had begun at a moment."""

_KEPT_BYTES = 64 * 1024 * 1024
"""So much of the temporary database is in memory; the rest SQLite writes to a file that has no name."""
_CHUNK = 500
_FACT = "e.seq, e.type, e.version, e.subject, e.operation, e.occurred_at, e.data"
_EVENT = ", ".join(f"e.{name}" for name in ("log_id", *COLUMNS, "hash"))
_OF_EVENT = f"SELECT {_EVENT} FROM a JOIN msb_cache.event e ON e.log_id = a.log_id"
_USES = (ev.ImagePulled.type, ev.ImageUsed.type)


class Positions(NamedTuple):
    """How far logs had come at a moment.

    Attributes:
        time_ns: its time, in ns since the epoch, UTC; no hold or pin counts from its end on.
        places: where the logs are, and those there that are asked. Each has its last event by then as
            ``folded_seq``; 0: there is none.
    """

    time_ns: int
    places: Sequence[tuple[Place, Sequence[KnownLog]]]

    @property
    def logs(self) -> list[KnownLog]:
        """The logs of all places, by host."""
        found = chain.from_iterable(logs for _, logs in self.places)
        return sorted(found, key=lambda log: (log.host, log.log_id))

    @property
    def known(self) -> bool:
        """Whether any of the logs had begun by then."""
        return any(log.folded_seq or log.archived_seq for log in self.logs)


def positions_at(places: Sequence[Place], logs: Sequence[KnownLog], as_of: AsOf, now_ns: int) -> Positions:
    """Return what is meant by a moment of logs.

    Args:
        places: where they are.
        logs: the logs that are asked, as they are now.
        as_of: a time, as one host takes it; of one log also a position.
        now_ns: the time now, in ns since the epoch.

    Raises:
        InvalidConfigError: the text is no moment, the time is in the future, or a position is given of
            several logs, or of one that has not come so far.
        FleetError: a place cannot be asked.
    """
    position = position_in(as_of) if isinstance(as_of, str) else as_of
    if isinstance(position, int):
        check_one(logs)
        return _at_position(places, logs, position, now_ns)
    assert not isinstance(as_of, int)  # noqa: S101
    time_ns = time_meant(as_of, now_ns)
    ids = frozenset(log.log_id for log in logs)

    def then(time_ns: int) -> Positions:
        found = []
        for place in places:
            with place.read() as reading:
                found.append((place, _at(reading, ids, time_ns)))
        return Positions(max(time_ns, 0), found)

    # A time is in the future if no clock has said it yet: this machine's, or a host's at its last append.
    if time_ns > now_ns and sum(log.folded_seq for log in then(time_ns - 1).logs) >= sum(
        log.folded_seq for log in logs
    ):
        raise in_future(as_of)
    return then(time_ns)


def _at(reading: Reading, ids: Collection[str], time_ns: int) -> list[KnownLog]:
    """Return the logs of a place, each with its last event by a time, as in ``EventStore.position_at``."""
    rows = reading.rows(f"SELECT {OF_LOG}, coalesce(a.recorded_at, 0) FROM {WITH_LOG} ORDER BY 2, 1")
    logs = {log.log_id: (log, anchored) for log, (anchored,) in map(split, rows) if log.log_id in ids}
    last = positions_before(
        reading,
        {log_id: (log.archived_seq, log.folded_seq) for log_id, (log, _) in logs.items()},
        time_ns + 1,
    )
    behind: dict[str, int] = {}
    if time_ns >= 0:
        found = reading.rows(
            "SELECT b.log_id, max(b.seq) FROM msb_cache.behind b JOIN msb_cache.fold_state f "
            "ON f.log_id = b.log_id AND b.seq <= f.seq WHERE b.id < ? GROUP BY b.log_id",
            (moment_of(time_ns + 1_000_000),),
        )
        behind = dict(found)
    then = []
    for log_id, (log, anchored_ns) in logs.items():
        seq = max(last[log_id], behind.get(log_id, 0))
        if seq <= log.archived_seq and anchored_ns > time_ns:
            seq = 0
        then.append(replace(log, folded_seq=min(seq, log.folded_seq)))
    return then


def _at_position(places: Sequence[Place], logs: Sequence[KnownLog], position: int, now_ns: int) -> Positions:
    if not logs:
        raise InvalidConfigError("a position, such as @5, is one of a log, and the fleet has no logs yet")
    [log] = logs
    if not 0 <= position <= log.folded_seq:
        raise InvalidConfigError(
            f"the log of {log.host} has no event {position} here; the last that is folded is {log.folded_seq}"
        )
    then = replace(log, folded_seq=position, archived_seq=log.archived_seq if position else 0)
    for place in places:
        with place.read() as reading:
            if not reading.rows("SELECT 1 FROM msb_cache.head WHERE log_id = ?", (log.log_id,)):
                continue
            recorded = [now_ns] if position else [0]
            for table in ("event", "anchor"):
                sql = f"SELECT recorded_at FROM msb_cache.{table} WHERE log_id = ? AND seq = ?"
                recorded += (at for (at,) in reading.rows(sql, (log.log_id, position)))
            return Positions(min(recorded), [(place, [then])])
    raise _changed(log)


class Past:
    """Logs as they were, in the tables of a fleet; ``reading`` is asked as any place is.

    Attributes:
        reading: asks it.
        positions: by the ids of the logs, up to which event they are folded here.
    """

    def __init__(self) -> None:
        self.positions: dict[str, int] = {}
        with _kept():
            self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            # A name that is empty is a private temporary database.
            self._connection.execute(f"ATTACH '' AS {SCHEMA}")
            self._connection.execute(f"PRAGMA {SCHEMA}.cache_size = {-_KEPT_BYTES // 1024}")
            for statement in (*schema.tables(postgres=False), *schema.read_models(postgres=False)):
                self._connection.execute(statement)
        self.reading: Reading = FileReading(self._connection)

    def close(self) -> None:
        """Free the memory, and the file."""
        self._connection.close()

    def has(self, logs: Iterable[KnownLog]) -> bool:
        """Return whether it has these logs, up to the same events."""
        return all(self.positions.get(log.log_id) == log.folded_seq for log in logs)

    def fold(self, reading: Reading, log: KnownLog, count: Count) -> None:
        """Fold a log up to its ``folded_seq``.

        Args:
            reading: of the place that has it.
            log: which, and how far.
            count: told how many events are done, of all logs.

        Raises:
            FleetError: an event is not there, or what an archive has left of the first ones is not of this
                release, or there is no room.
        """
        tables, after = Tables(_table), 0
        if log.archived_seq:
            anchor = anchor_of(reading, log.log_id)
            if anchor is None or anchor.seq != log.archived_seq:
                raise _changed(log)
            anchor.fill(tables)
            after = anchor.seq
        with closing(_facts(reading, log, after)) as facts:
            Fold(tables).apply(count.each(facts))
        with _kept(), self._transaction():
            self._insert("head", [(log.log_id, log.role, log.size, b"", *(0,) * 4, *(None,) * 4)])
            self._insert(
                "fold_state",
                [(log.log_id, log.folded_seq, b"", 0, 0, log.host, None, None, None, None)],
            )
            for row_type in KEPT:
                rows = tables.of(row_type).rows
                self._insert(row_type.table, ((log.log_id, *astuple(rows[key])) for key in sorted(rows)))
        self.positions[log.log_id] = log.folded_seq

    def take_events(self, reading: Reading, words: Sequence[Word]) -> None:
        """Take the events that say when the images were last used that words mean; none: all images.

        Args:
            reading: of the place that has the logs.
            words: as ``images.last_used`` gets them.
        """
        condition, arguments = asked_for(self.reading, words, None)
        of_image = "i.log_id = d.log_id AND i.manifest_digest = d.manifest_digest"
        said = self.reading.rows(
            f"SELECT i.log_id, i.idle_seq FROM msb_cache.image i "
            f"WHERE i.idle_seq IS NOT NULL AND {condition} "
            f"UNION SELECT d.log_id, d.seq FROM msb_cache.hold d JOIN msb_cache.image i ON {of_image} "
            f"WHERE d.until IS NOT NULL AND {condition} "
            f"UNION SELECT d.log_id, d.seq FROM msb_cache.open_use d JOIN msb_cache.image i ON {of_image} "
            f"WHERE {condition}",
            (*arguments, *arguments, *arguments),
        )
        for given, values in _given(said, "log_id", "seq"):
            self._take(reading, f"{given} {_OF_EVENT} AND e.seq = a.seq", values)
        used = self.reading.rows(
            "SELECT i.log_id, i.reference, i.seq, i.last_used_at, f.seq FROM msb_cache.image i "
            f"JOIN msb_cache.fold_state f ON f.log_id = i.log_id WHERE {condition}",
            arguments,
        )
        for given, values in _given(used, "log_id", "subject", "since", "used", "folded"):
            self._take(
                reading,
                f"{given} {_OF_EVENT} AND e.subject = a.subject AND e.seq >= a.since AND e.seq <= a.folded "
                f"AND e.occurred_at >= a.used AND e.type IN ({marks(_USES)})",
                [*values, *_USES],
            )

    def _take(self, reading: Reading, sql: str, arguments: Sequence[str | int]) -> None:
        rows = reading.rows(sql, arguments)
        with _kept(), self._transaction():
            self._insert("events", rows, "INSERT OR IGNORE")

    def _insert(self, table: str, rows: Iterable[Values], verb: str = "INSERT") -> None:
        some = [*rows]
        if some:
            self._connection.executemany(
                f"{verb} INTO {SCHEMA}.{table} VALUES ({marks(some[0])})",
                some,
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:  # SQLite itself has not done it, as it does where it is full
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


class _Unasked(Table[R]):
    """A table that the fold never asks, and nobody here."""

    def put(self, row: R) -> None:
        """Forget the row."""


def _table(row_type: type[R], by: str | None = None) -> Table[R]:
    return (_Unasked if row_type.insert_only else Table)(row_type, by)


def _facts(reading: Reading, log: KnownLog, after: int) -> Generator[PlainFact, None, None]:
    """Yield a log's events behind ``after`` up to ``folded_seq``; raises FleetError where one is missing."""
    decode, last = CATALOGUE.decode, after
    sql = (
        f"SELECT {_FACT} FROM msb_cache.event e WHERE e.log_id = ? AND e.seq > ? AND e.seq <= ? "
        "ORDER BY e.seq"
    )
    with closing(reading.stream(sql, (log.log_id, after, log.folded_seq))) as rows:
        for seq, type_, version, subject, operation, occurred, data in rows:
            if seq != last + 1 or data is None:
                raise _changed(log)
            last = seq
            yield PlainFact(seq, subject, operation, occurred, decode(type_, version, data))
    if last != log.folded_seq:
        raise _changed(log)


def _changed(log: KnownLog) -> FleetError:
    return FleetError(
        f"the log of {log.name} lacks events that were asked for: it was archived or is folded anew, just "
        "now; try again"
    )


def _given(rows: Sequence[Values], *columns: str) -> Iterator[tuple[str, list[str | int]]]:
    """Yield what begins a question about some of these rows as a table ``a``, in SQL, and the arguments."""
    for start in range(0, len(rows), _CHUNK):
        some = rows[start : start + _CHUNK]
        each = ", ".join([f"({marks(columns)})"] * len(some))
        yield (
            f"WITH a({', '.join(columns)}) AS (VALUES {each}) ",
            [value for row in some for value in row],
        )


def _in_archive(reading: Reading, logs: Sequence[KnownLog]) -> FleetError:
    """Return the error that what is asked for of logs is in an archive."""
    log = logs[0]
    anchor = reading.rows("SELECT recorded_at FROM msb_cache.anchor WHERE log_id = ?", (log.log_id,))
    until = "".join(
        time.strftime(", recorded until %Y-%m-%d %H:%M:%S %z,", time.localtime(at // 10**9))
        for (at,) in anchor
    )
    others = f" (and of {plural(len(logs) - 1, 'other log')})" if len(logs) > 1 else ""
    return FleetError(
        f"what was on {log.name} then is not told: its events up to @{log.archived_seq}{until} are in an "
        f"archive{others}; ask about a later time, or about other hosts with --host"
    )


@contextmanager
def _kept() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise FleetError(
            f"what was then cannot be kept in a temporary database: {error}; TMPDIR names a folder that "
            "has room"
        ) from error


class Then:
    """A moment of the past. Places are asked one after another: folding keeps this process busy anyway.

    Attributes:
        now_ns: its time, in ns since the epoch.
        unknown: a sentence if what was there then is not known; None: it is.

    Args:
        positions: which, and of which logs.
        kept: what was folded for other questions, by the names of the places; the newest is put there.
        activities: tells how far it is.
        words: the images that are asked about, so that logs that never had them are not folded; none: all.
        uses: whether the events are needed that say when images were last used.
        held: whether words may also be of manifests that were held and that no reference pointed at.
    """

    def __init__(
        self,
        positions: Positions,
        kept: MutableMapping[str, Past],
        activities: Activities,
        *,
        words: Sequence[Word] = (),
        uses: bool = False,
        held: bool = False,
    ) -> None:
        self.now_ns = positions.time_ns
        self.unknown = None if positions.known else UNKNOWN
        self._positions, self._kept, self._activities = positions, kept, activities
        self._words, self._uses, self._held = words, uses, held

    def ask(self, question: Question[T]) -> list[T]:
        """Return what the places have found.

        Raises:
            FleetError: what was there then is in an archive, or cannot be folded.
        """
        found: list[T] = []
        for place, logs in self._positions.places:
            with place.read() as reading:
                found += self._of_place(place, reading, logs, question)
        return found

    def known_references(self) -> list[str]:
        """Return the references that logs had had by then, for an error to offer."""
        found: set[str] = set()
        for place, logs in self._positions.places:
            with place.read() as reading:
                for given, values in _given([(log.log_id, log.folded_seq) for log in logs], "log_id", "seq"):
                    rows = reading.rows(
                        f"{given} SELECT DISTINCT p.reference FROM a JOIN msb_cache.pointed_at p "
                        "ON p.log_id = a.log_id AND p.seq <= a.seq",
                        values,
                    )
                    found.update(name for (name,) in rows)
        return sorted(found)

    def _of_place(
        self, place: Place, reading: Reading, logs: Sequence[KnownLog], question: Question[T]
    ) -> list[T]:
        wanted = self._wanted(reading, logs)
        if not wanted:
            return []
        past = self._kept.pop(place.name, None)
        if past is None or not past.has(wanted):
            if past is not None:
                past.close()
            past = self._folded(reading, wanted)
        try:
            if self._uses:
                past.take_events(reading, self._words)
            ids = None if len(past.positions) == len(wanted) else [log.log_id for log in wanted]
            found = [*question(past.reading, ids)]
        except BaseException:
            past.close()
            raise
        self._kept[place.name] = past
        return found

    def _wanted(self, reading: Reading, logs: Sequence[KnownLog]) -> list[KnownLog]:
        """Return those of a place's logs that have to be folded."""
        known = [word.known_to(reading, held=self._held) for word in self._words]
        sets = [each for each in known if each is not None]
        if known and len(sets) == len(known):
            logs = [log for log in logs if any(log.log_id in each for each in sets)]
        archived = [log for log in logs if log.folded_seq < log.archived_seq]
        if archived:
            raise _in_archive(reading, archived)
        return [log for log in logs if log.folded_seq]

    def _folded(self, reading: Reading, logs: Sequence[KnownLog]) -> Past:
        past = Past()
        total = sum(log.folded_seq - log.archived_seq for log in logs)
        try:
            with self._activities(f"folding {plural(len(logs), 'log')}", "events", total) as count:
                for log in logs:
                    past.fold(reading, log, count)
        except BaseException:
            past.close()
            raise
        return past
