"""Folding a fleet's logs into what is asked: each log by itself, by the same fold as its host's.

A worker takes a log that has more events than are folded, one transaction at a time: it checks their chain
again, admits and folds them, and keeps how far that has come with the rows. So a worker that is killed leaves
nothing half done, and any number of them share the work. A log that cannot be folded stops by itself, with a
sentence; that of a newer release's events is tried again by every run.

Of images' configurations nothing is kept: who may ask the read models may not see environments.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from msb_cache.audit.admit import admit
from msb_cache.errors import BusyError, FleetError, MicrosandboxError, UnsupportedError
from msb_cache.eventstore.chain import COLUMNS, GENESIS, Checker
from msb_cache.eventstore.events import ManifestAdded
from msb_cache.eventstore.store import StoredEvent
from msb_cache.fleet import checked, folded
from msb_cache.fleet.append_sql import SWEPT
from msb_cache.fleet.checked import Tree
from msb_cache.fleet.connect import Postgres
from msb_cache.fleet.folded import FoldedTables
from msb_cache.fleet.hosts import LONGEST_NAME
from msb_cache.fleet.place import SCHEMA, Place, Values
from msb_cache.fleet.writing import UnkeepableError, Writable, Writing, writable
from msb_cache.projections import FOLD_VERSION
from msb_cache.projections.fold import Fold
from msb_cache.shapes import Result
from msb_cache.waiting import end_if_asked, ended_by, pause

BATCH = 10_000
"""So many events are folded in one transaction at most."""

BATCH_BYTES = 32 * 1024 * 1024
"""So many bytes of text they have at most, unless one alone has more."""

POLL_SECONDS = 1.0

SWEEP_SECONDS = 60.0
"""Between two looks at how much room that takes which hosts have staged and left."""

_MANY = 200  # events, from which on a log's rows are asked for all at once
_LISTED = 1000  # logs that are behind, at a time
_LOOK_EVERY = 256  # events, between two looks whether to end
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
_LONGEST_SENTENCE = 500

_EVENTS = ", ".join((*COLUMNS, "hash"))

Said = Callable[[str], object]
"""Gets sentences for a person."""


@dataclass(frozen=True)
class StoppedLog(Result):
    """A log that cannot be folded on.

    Attributes:
        host: its name for people.
        log_id: its id.
        folded_seq: the last event that is folded; 0: none.
        problem: what is in the way, a sentence.
    """

    host: str
    log_id: str
    folded_seq: int
    problem: str


@dataclass(frozen=True)
class Folded(Result):
    """What was folded.

    Attributes:
        events: how many events.
        logs: of how many logs.
        stopped: the logs that cannot be folded on, by host.
    """

    events: int
    logs: int
    stopped: tuple[StoppedLog, ...]


class _UnfoldableError(Exception):
    """An event that cannot be folded; nothing of the transaction in which it came may be kept.

    Attributes:
        seq: which one; None: it is what an archive has left of the first ones.
    """

    def __init__(self, problem: str, seq: int | None) -> None:
        super().__init__(problem)
        self.seq = seq


class _State(NamedTuple):
    """How far a log is folded, as ``fold_state`` has it, and how far it was shipped."""

    seq: int
    hash: bytes
    recorded_at: int
    host: str
    checkpoint_size: int | None
    checkpoint_problem: str | None
    tree: bytes | None
    size: int
    fold_version: int
    log_key: str | None


_STATE = (
    "SELECT f.seq, f.hash, f.recorded_at, f.host, f.checkpoint_size, f.checkpoint_problem, f.tree, h.size, "
    f"g.fold_version, e.log_key FROM {SCHEMA}.fold_state f JOIN {SCHEMA}.head h ON h.log_id = f.log_id "
    f"JOIN {SCHEMA}.fleet g ON g.one = 1 LEFT JOIN {SCHEMA}.enrolment e ON e.role = h.role "
    "WHERE f.log_id = ?"
)


class Folding:
    """One log while it is folded: between two transactions its rows stay in memory.

    Args:
        log_id: which log.
        clock: ns since the epoch.

    Attributes:
        stored_seq: up to which event it was folded before the last step.
        span: the last event before those of that step, which an archive can have, and how many they are.
        is_behind: whether the log has more events than that.
    """

    def __init__(self, log_id: str, clock: Callable[[], int] = time.time_ns) -> None:
        self.log_id = log_id
        self.stored_seq = 0
        self.span = (0, 0)
        self.is_behind = True
        self._clock = clock
        self._fold: Fold | None = None
        self._at: tuple[int, bytes] = (0, GENESIS)
        """Up to which event, and its hash, that fold has come."""

    def step(self, writing: Writing, *, most: int = BATCH) -> int | None:
        """Fold the log's next events, in the caller's transaction.

        Args:
            writing: the transaction.
            most: so many events at most.

        Returns:
            How many events; 0: there are no more. None: another worker has the log.

        Raises:
            FleetError: the read models are of another release.
            UnkeepableError: the place cannot keep what was folded.
            _UnfoldableError: an event cannot be folded.
        """
        found = writing.locked(_STATE, (self.log_id,), "f")
        if not found:
            return None
        before = _State(*found[0])
        check_version(before.fold_version)
        self.stored_seq, self.span = before.seq, (before.seq, 0)
        state = before if before.seq else self._begin(writing, before)
        end = _end(writing, self.log_id, state, most)
        self.span = (state.seq, end - state.seq)
        self.is_behind = end < state.size
        tree = Tree.of(writing, self.log_id, state.seq, state.tree)
        notes = checked.waiting(writing, self.log_id, end) if state.checkpoint_problem is None else []
        if end == before.seq and not notes:
            return 0
        tables = self._tables(writing, state, end - state.seq)
        rows = self._rows(writing, state, end)
        host = self._apply(tables, writing, state, rows) or state.host
        tables.store()
        last = rows[-1] if rows else None
        tree.extend([each[-1] for each in rows], [note.size for note in notes])
        verdict = checked.check(notes, tree, state.log_key)
        seq, stored, recorded_at = (
            (state.seq, state.hash, state.recorded_at) if last is None else (end, last[-1], last[7])
        )
        writing.run(
            f"UPDATE {SCHEMA}.fold_state SET seq = ?, hash = ?, recorded_at = ?, folded_at = ?, host = ?, "
            "problem = NULL, checkpoint_size = ?, checkpoint_problem = ?, tree = ? WHERE log_id = ?",
            (
                *(seq, stored, recorded_at, self._clock(), host),
                verdict.size or state.checkpoint_size,
                verdict.problem or state.checkpoint_problem,
                *(tree.kept, self.log_id),
            ),
        )
        self._at = (seq, stored)
        return len(rows)

    def _begin(self, writing: Writing, state: _State) -> _State:
        """Begin the log; where its first events are in an archive, with what was folded from them."""
        self._fold = Fold(FoldedTables(self.log_id, writing, is_new=True, whole=True))
        self._at = (0, GENESIS)
        anchored = writing.rows(
            f"SELECT seq, hash, recorded_at, fold_version, rows FROM {SCHEMA}.anchor WHERE log_id = ?",
            (self.log_id,),
        )
        if not anchored:
            return state
        seq, stored, recorded_at, version, data = anchored[0]
        if version != FOLD_VERSION:
            raise _UnfoldableError(
                f"its events up to {seq} are in an archive, and what was folded from them is of another "
                f"release (fold {version}, this one is {FOLD_VERSION}): "
                "`msb-cache fleet archive --refold FOLDER` folds them anew",
                None,
            )
        try:
            prefix = folded.decoded(bytes(data))
        except msgspec.MsgspecError:
            raise _UnfoldableError(
                f"its events up to {seq} are in an archive, and what was folded from them is damaged: "
                "`msb-cache fleet archive --refold FOLDER` folds them anew",
                None,
            ) from None
        tables = self._fold.tables
        assert isinstance(tables, FoldedTables)  # noqa: S101
        tables.put(prefix.tables)
        self._at = (seq, bytes(stored))
        host = prefix.host or state.host
        return state._replace(
            seq=seq, hash=bytes(stored), recorded_at=recorded_at, host=host, tree=prefix.tree
        )

    def _tables(self, writing: Writing, state: _State, count: int) -> FoldedTables:
        if self._fold is None or self._at != (state.seq, state.hash):
            tables = FoldedTables(self.log_id, writing, is_new=False, whole=count >= _MANY)
            self._fold = Fold(tables)
        found = self._fold.tables
        assert isinstance(found, FoldedTables)  # noqa: S101
        found.log_rows.writing = writing
        return found

    def _rows(self, writing: Writing, state: _State, end: int) -> list[Values]:
        rows = writing.rows(
            f"SELECT {_EVENTS} FROM {SCHEMA}.events WHERE log_id = ? AND seq > ? AND seq <= ? ORDER BY seq",
            (self.log_id, state.seq, end),
        )
        if len(rows) != end - state.seq and (not rows or rows[-1][0] != end):
            last = rows[-1][0] if rows else state.seq
            raise _UnfoldableError(
                f"event {last + 1} is missing, and the log was shipped up to event {state.size}",
                last + 1,
            )
        return rows

    def _apply(self, tables: FoldedTables, writing: Writing, state: _State, rows: Sequence[Values]) -> str:
        """Check, admit and fold events; return the newest name of the host that is known then."""
        assert self._fold is not None  # noqa: S101
        host = state.host if state.seq else ""  # the name of a log of which nothing is folded is its role's
        seq = state.seq
        without: list[Values] = []

        def events() -> Iterator[StoredEvent]:
            nonlocal host, seq
            checker = Checker.behind(state.seq, state.hash, self.log_id, state.recorded_at)
            for number, row in enumerate(rows):
                seq = state.seq + number + 1
                if not number % _LOOK_EVERY:
                    end_if_asked()
                columns, stored = row[:-1], row[-1]
                found = checker.check(columns, stored)
                if found is not None:
                    raise _Problem(found.problem)
                event = admit((columns, stored))
                if seq == 1 and event.subject != self.log_id:
                    raise _Problem("event 1 begins another log")
                if isinstance(event.data, ManifestAdded):
                    without.append((self.log_id, seq, without_config(row, event.data)))
                    event = replace(event, data=replace(event.data, config=None))
                if event.actor.host and not (event.actor.observed and host):
                    host = event.actor.host[:LONGEST_NAME]
                yield event

        try:
            self._fold.apply(events())
        except UnkeepableError:
            raise
        except (_Problem, MicrosandboxError) as error:
            if isinstance(error, FleetError | BusyError | UnsupportedError):
                raise
            raise _UnfoldableError(str(error), seq) from None
        except (LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            # Nothing that is admitted comes to this; if it does, it is this log's matter alone.
            raise _UnfoldableError(f"event {seq} cannot be folded ({type(error).__name__})", seq) from None
        if without:
            writing.insert("told", ("log_id", "seq", "data"), without)
        return host


class _Problem(Exception):
    """An event that is not in order, as a sentence."""


def check_version(version: int) -> None:
    """Refuse read models of another release's fold; raises FleetError."""
    if version != FOLD_VERSION:
        newer = version > FOLD_VERSION
        raise FleetError(
            f"the fleet's read models are of fold {version}, and this msb-cache folds {FOLD_VERSION}; "
            + ("use the newer release" if newer else "`msb-cache fleet init` makes them anew")
        )


def without_config(row: Sequence[object], data: ManifestAdded) -> str:
    """Return the data of an event as the log has it, but without the image's configuration.

    Args:
        row: the stored columns.
        data: what it says, lifted to the newest version.
    """
    if row[3] == ManifestAdded.version:
        return _encode(replace(data, config=None)).decode()
    fields = msgspec.json.decode(str(row[9]), type=dict[str, msgspec.Raw])
    fields.pop("config", None)
    return _encode(fields).decode()


_encode = msgspec.json.Encoder().encode


def fold_log(
    into: Writable,
    log_id: str,
    *,
    most: int = BATCH,
    clock: Callable[[], int] = time.time_ns,
) -> int | None:
    """Fold one log up to its end, some events in a transaction at a time.

    Returns:
        How many events; None: another worker has the log.

    Raises:
        FleetError: the place cannot be asked, or its read models are of another release.
    """
    folding, total, now = Folding(log_id, clock), None, most
    while True:
        end_if_asked()
        try:
            with into.transaction() as writing:
                done = folding.step(writing, most=now)
        except UnkeepableError as error:
            before, count = folding.span
            if count > 1 or (count and before > folding.stored_seq):
                # Which of them it is, the place does not say.
                folding, now = Folding(log_id, clock), count // 2
                continue
            problem = f"event {before + 1}: {error}"
        except _UnfoldableError as error:
            before, _ = folding.span
            if error.seq is not None and error.seq > folding.stored_seq + 1:
                # Those before it can be folded, or what an archive has left of them kept.
                folding, now = Folding(log_id, clock), error.seq - before - 1
                continue
            problem = str(error)
        else:
            if done is None:
                return total
            total = (total or 0) + done
            if not folding.is_behind:
                return total
            now = min(most, max(now * 2, 1))
            continue
        with into.transaction() as writing:
            _stop(writing, log_id, folding.stored_seq, problem)
        return total or 0


def _stop(writing: Writing, log_id: str, seq: int, problem: str) -> None:
    sentence = " ".join(problem.replace("\x00", "\ufffd").split())[:_LONGEST_SENTENCE]
    writing.run(
        f"UPDATE {SCHEMA}.fold_state SET problem = ? WHERE log_id = ? AND seq = ?",
        (sentence, log_id, seq),
    )


def _end(writing: Writing, log_id: str, state: _State, most: int) -> int:
    """Return the last event of those that are folded together."""
    last = min(state.size, state.seq + most)
    if last <= state.seq:
        return state.seq
    bytes_of = writing.bytes_of
    found = writing.rows(
        f"SELECT max(seq) FROM (SELECT seq, sum({bytes_of}(data) + {bytes_of}(actor)) OVER (ORDER BY seq) "
        f"AS bytes FROM {SCHEMA}.events WHERE log_id = ? AND seq > ? AND seq <= ?) AS sized WHERE bytes <= ?",
        (log_id, state.seq, last, BATCH_BYTES),
    )
    return max(found[0][0] or 0, state.seq + 1)


def fold(
    place: Place,
    *,
    follow: bool = False,
    stopped: Callable[[], bool] = lambda: False,
    said: Said = lambda sentence: None,
    clock: Callable[[], int] = time.time_ns,
    interval: float = POLL_SECONDS,
    batch: int = BATCH,
) -> Folded:
    """Fold what was shipped to a place and is not folded yet; any number of workers may do that at once.

    Args:
        place: a server, or a file.
        follow: go on with what comes, until ``stopped`` says so; a server that is away is waited for.
        stopped: ends it, also between two events.
        said: told once when the server is away, and once when it is there again.
        clock: ns since the epoch.
        interval: seconds between two looks at the logs' heads.
        batch: so many events in one transaction at most.

    Raises:
        FleetError: the place cannot be asked, or its read models are of another release.
    """
    run = _Run(clock, batch)
    away, wait = False, _FIRST_WAIT
    with ended_by(stopped):
        while True:
            try:
                with writable(place) as into:
                    while run.look(into) or follow:
                        if isinstance(place, Postgres):
                            run.sweep(into)
                        if away:
                            said(f"{_named(place)} can be asked again")
                        away, wait = False, _FIRST_WAIT
                        if run.is_idle:
                            pause(interval)
                            end_if_asked()
                    return run.result(into)
            except KeyboardInterrupt:
                if not stopped():
                    raise
                return run.result(None)
            except (FleetError, BusyError) as error:
                if not follow or (isinstance(error, FleetError) and not error.temporary):
                    raise
                if not away:
                    said(f"{error}; it is tried again until that passes")
                away = True
                pause(wait * random.uniform(0.5, 1))  # noqa: S311
                wait = min(wait * 2, _LONGEST_WAIT)


def _named(place: Place) -> str:
    return place.what if isinstance(place, Postgres) else place.name


def together(places: Sequence[Place], run: Callable[[Place], Folded]) -> Folded:
    """Fold at several places at the same time; raises what the first of them that fails does."""
    if len(places) == 1:
        return run(places[0])
    with ThreadPoolExecutor(len(places)) as pool:
        found = [*pool.map(run, places)]
    stopped = sorted(chain.from_iterable(each.stopped for each in found), key=lambda each: each.host)
    return Folded(sum(each.events for each in found), sum(each.logs for each in found), tuple(stopped))


class _Run:
    """One run of a worker."""

    def __init__(self, clock: Callable[[], int], batch: int) -> None:
        self._clock = clock
        self._batch = batch
        self._events = 0
        self._logs: set[str] = set()
        self._tried = False
        self._stopped: tuple[StoppedLog, ...] = ()
        self.is_idle = False
        self._swept = -SWEEP_SECONDS

    def sweep(self, into: Writable) -> None:
        """Give back the room of what hosts have staged and left, if that is much and it is time for it."""
        now = time.monotonic()
        if now - self._swept >= SWEEP_SECONDS:
            self._swept = now
            with into.transaction() as writing:
                writing.rows(f"SELECT {SCHEMA}.sweep(?)", (SWEPT,))

    def look(self, into: Writable) -> bool:
        """Fold the logs that are behind; return whether there was anything to fold."""
        with into.transaction() as writing:
            begin(writing, self._clock())
            logs = _behind(writing)
            if not self._tried:
                logs += [each.log_id for each in stopped_logs(writing)]
        self._tried = True
        random.shuffle(logs)  # so that workers meet seldom
        any_done = False
        for log_id in logs:
            done = fold_log(into, log_id, most=self._batch, clock=self._clock)
            if done:
                any_done = True
                self._events += done
                self._logs.add(log_id)
        self.is_idle = not any_done
        return any_done

    def result(self, into: Writable | None) -> Folded:
        """Return what it has done."""
        if into is not None:
            with into.transaction() as writing:
                self._stopped = tuple(stopped_logs(writing))
        return Folded(self._events, len(self._logs), self._stopped)


def begin(writing: Writing, now_ns: int) -> None:
    """Make ready to be folded what was not; raises FleetError for read models of another release."""
    found = writing.rows(f"SELECT fold_version FROM {SCHEMA}.fleet")
    if not found:
        raise FleetError("the fleet has no tables yet; `msb-cache fleet init` makes them")
    check_version(found[0][0])
    writing.run(
        f"INSERT INTO {SCHEMA}.fold_state (log_id, seq, hash, recorded_at, folded_at, host) "
        f"SELECT h.log_id, 0, ?, 0, ?, h.role FROM {SCHEMA}.head h "
        f"WHERE NOT EXISTS (SELECT 1 FROM {SCHEMA}.fold_state f WHERE f.log_id = h.log_id) "
        "ON CONFLICT DO NOTHING",
        (GENESIS, now_ns),
    )


def _behind(writing: Writing) -> list[str]:
    """Return logs that have events, or signed checkpoints, that were not looked at yet."""
    found = writing.rows(
        f"SELECT f.log_id FROM {SCHEMA}.fold_state f JOIN {SCHEMA}.head h ON h.log_id = f.log_id "
        f"WHERE f.problem IS NULL AND (h.size > f.seq OR EXISTS (SELECT 1 {checked.WAITING} "
        "AND c.log_id = f.log_id AND c.size <= f.seq)) "
        f"ORDER BY f.folded_at LIMIT {_LISTED}"
    )
    return [log_id for (log_id,) in found]


def stopped_logs(writing: Writing) -> list[StoppedLog]:
    """Return the logs that cannot be folded on, by host."""
    found = writing.rows(
        f"SELECT host, log_id, seq, problem FROM {SCHEMA}.fold_state WHERE problem IS NOT NULL ORDER BY 1, 2"
    )
    return [StoppedLog(*row) for row in found]


def rebuild(
    place: Place, log_ids: Iterable[str] | None = None, *, clock: Callable[[], int] = time.time_ns
) -> int:
    """Forget what was folded of logs, so that the next ``fold`` folds it anew; until then answers lack it.

    Args:
        place: a server, or a file.
        log_ids: which logs; None: all.
        clock: ns since the epoch.

    Returns:
        How many logs.

    Raises:
        FleetError: the place cannot be asked, or its read models are of another release.
    """
    with writable(place) as into:
        with into.transaction() as writing:
            begin(writing, clock())
            known = [row[0] for row in writing.rows(f"SELECT log_id FROM {SCHEMA}.fold_state")]
        wanted = None if log_ids is None else {*log_ids}
        chosen = [each for each in known if wanted is None or each in wanted]
        for log_id in chosen:
            end_if_asked()
            with into.transaction() as writing:
                forget(writing, log_id)
    return len(chosen)


def forget(writing: Writing, log_id: str) -> None:
    """Forget what was folded of a log, but not its host's name."""
    writing.locked(
        f"SELECT f.log_id FROM {SCHEMA}.fold_state f WHERE f.log_id = ?",
        *((log_id,), "f"),
        wait=True,
    )
    folded.clear(writing, log_id)
    writing.run(
        f"UPDATE {SCHEMA}.fold_state SET seq = 0, hash = ?, recorded_at = 0, problem = NULL, "
        "checkpoint_size = NULL, checkpoint_problem = NULL, tree = NULL WHERE log_id = ?",
        (GENESIS, log_id),
    )
