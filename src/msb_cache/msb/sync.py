"""Record what microsandbox did in a home that it writes: compare its index with ours, append the difference.

Our write lock comes first, then msb's state, so an older view can never follow a newer one, and two syncs
at once record nothing twice. What happened and was undone between two syncs is not known.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from msb_cache import diagnostics
from msb_cache.errors import InvalidConfigError, MicrosandboxError, MsbDatabaseError
from msb_cache.eventstore.ids import uuid7
from msb_cache.home.connect import is_there
from msb_cache.shapes import Result
from msb_cache.waiting import BUSY_SECONDS
from msb_cache.wording import plural

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from msb_cache.activity import Count
    from msb_cache.artifacts.layout import Layout
    from msb_cache.eventstore.store import Actor, NewEvent, StoredEvent
    from msb_cache.home.ledger import Ledger, Transaction
    from msb_cache.msb.boots import Fate
    from msb_cache.msb.database import MsbState, Reader
    from msb_cache.msb.diff import Differences, Measure
    from msb_cache.msb.liveness import Process
    from msb_cache.msb.runs import MsbRun, MsbRuns
    from msb_cache.msb.stored import Look, Stored
    from msb_cache.msb.witness import Changer, Witness
    from msb_cache.projections.deletions import Claim
    from msb_cache.projections.known import Known

    Attribution = Callable[[Sequence[NewEvent], Known, MsbState], list[tuple[NewEvent, bool]]]

_TICK = 100_000_000
"""Nanoseconds: a file written this short a time ago can change again and keep its modification time."""
_WAIT_FOR_FILES = 3600 * 10**9
"""Nanoseconds for which a file whose record is gone is waited for; then msb has forgotten it."""

_MANY = 200
_TOLD = 100  # images after which it is told how many were compared
"""Files of one kind that are measured one by one; for more, listing the folder costs less."""


class Stamp(NamedTuple):
    """Inode, size in bytes and modification time of msb.db and of its write-ahead log; 0: no such file."""

    db_inode: int
    db_size: int
    db_mtime_ns: int
    wal_inode: int
    wal_size: int
    wal_mtime_ns: int


@dataclass(frozen=True)
class SyncReport(Result):
    """What a sync found.

    Attributes:
        operation: the id that groups what was recorded; None when there was nothing to record.
        adopted: this was the first contact, so the events say what there was, not what changed.
        events: what was appended, in position order.
        notes: sentences about what of msb's database was left out, and about a schema that was not tried.
    """

    operation: str | None = None
    adopted: bool = False
    events: tuple[StoredEvent, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class OwnAction:
    """What this process has just had msb do.

    Attributes:
        operation: the id under which that is recorded, as done by us.
        explain: says of each difference, in our words and in order, whether it came of that; None: only what
            the operation has claimed did.
    """

    operation: str
    explain: Attribution | None = None


def stamp(layout: Layout) -> Stamp | None:
    """Return the present stamp of msb's database, None when there is none."""
    try:
        db = os.stat(layout.msb_database)
    except OSError:
        return None
    try:
        wal = os.stat(f"{layout.msb_database}-wal")
    except OSError:
        return Stamp(db.st_ino, db.st_size, db.st_mtime_ns, 0, 0, 0)
    return Stamp(db.st_ino, db.st_size, db.st_mtime_ns, wal.st_ino, wal.st_size, wal.st_mtime_ns)


def sync(
    ledger: Ledger,
    *,
    force: bool = False,
    wait: float = BUSY_SECONDS,
    acting: OwnAction | None = None,
    reader: Reader | None = None,
    witness: Witness | None = None,
) -> SyncReport:
    """Record what msb did since the last sync, as one operation.

    Args:
        ledger: the home.
        force: compare even if msb's database looks unchanged.
        wait: seconds to wait for another process that writes.
        acting: what this process had msb do just now.
        reader: what reads msb's database for the caller too; None: it is read for this alone.
        witness: says who changed the database.

    Raises:
        MsbDatabaseError: msb's database cannot be read; nothing was recorded.
        LogError, BusyError: our own cannot be written.
    """
    if not ledger.owned_by_msb or (not force and _unchanged(ledger)):
        return SyncReport()
    return _sync(ledger, force, wait, acting, reader, witness)[0]


def sync_and_read(
    ledger: Ledger, *, acting: OwnAction | None = None, reader: Reader | None = None
) -> MsbState | None:
    """Record what msb did, also if its database looks unchanged, and return what it says.

    Args:
        ledger: the home.
        acting: what this process had msb do just now.
        reader: as for ``sync``.

    Returns:
        None when msb does not keep this home any more.

    Raises:
        MsbDatabaseError, LogError, BusyError: as for ``sync``.
    """
    if not ledger.owned_by_msb:
        return None
    return _sync(ledger, True, BUSY_SECONDS, acting, reader, None)[1]


def sync_before_reading(ledger: Ledger, *, force: bool = False, witness: Witness | None = None) -> str | None:
    """Sync if it can be done at once; return a sentence for a person when it cannot.

    Args:
        ledger: the home.
        force: compare even if msb's database looks unchanged.
        witness: as for ``sync``.
    """
    if not ledger.owned_by_msb or (not force and _unchanged(ledger)):
        return None
    if not _writable(ledger.layout):
        return f"{ledger.layout.db} cannot be written to: what msb did since the last sync is missing here"
    try:
        report = sync(ledger, force=force, wait=2.0, witness=witness)
    except (MicrosandboxError, OSError) as error:
        return f"what msb did since the last sync is missing here: {error}"
    for note in report.notes:
        diagnostics.warning(note)
    return None


def _writable(layout: Layout) -> bool:
    database = layout.database
    return os.access(layout.db, os.W_OK) and (os.access(database, os.W_OK) or not is_there(database))


def _unchanged(ledger: Ledger) -> bool:
    with ledger.read() as connection:
        if connection is None or _waiting(connection):
            return False
        return _last(connection) == stamp(ledger.layout) and not _process_gone(connection)


def _last(connection: sqlite3.Connection) -> Stamp | None:
    row = connection.execute(f"SELECT {', '.join(Stamp._fields)} FROM sync_state").fetchone()  # noqa: S608
    return None if row is None else Stamp(*row)


def _waiting(connection: sqlite3.Connection) -> bool:
    found = connection.execute("SELECT 1 FROM sync_leftover LIMIT 1").fetchone()
    return found is not None


def _process_gone(connection: sqlite3.Connection) -> bool:
    """Return whether a boot's process has ended: msb writes nothing when one is killed."""
    found = connection.execute("SELECT pid, ticks, boot FROM sync_process").fetchall()
    if not found:
        return False
    from msb_cache.msb.liveness import Process, is_there

    return not all(is_there(Process(*row)) for row in found)


def _sync(
    ledger: Ledger,
    force: bool,
    wait: float,
    acting: OwnAction | None,
    reader: Reader | None,
    witness: Witness | None,
) -> tuple[SyncReport, MsbState | None]:
    """Compare and append; the state is None if that was not needed after all."""
    operation = uuid7()
    report, theirs = _sync_once(ledger, operation, force, wait, acting, reader, witness)
    while theirs is not None and theirs.runs is not None and not theirs.runs.is_complete:
        # Others that write get their turn in between.
        more, theirs = _sync_once(ledger, operation, True, wait, acting, reader, None)
        report = SyncReport(
            report.operation or more.operation,
            report.adopted,
            report.events + more.events,
            tuple(dict.fromkeys((*report.notes, *more.notes))),
        )
    return report, theirs


def _sync_once(
    ledger: Ledger,
    operation: str,
    force: bool,
    wait: float,
    acting: OwnAction | None,
    reader: Reader | None,
    witness: Witness | None,
) -> tuple[SyncReport, MsbState | None]:
    from msgspec.structs import replace

    from msb_cache.failpoints import reached
    from msb_cache.msb import database as msb_database
    from msb_cache.msb.diff import differences
    from msb_cache.projections import deletions, known

    layout = ledger.layout
    if not msb_database.exists(layout.msb_database):
        raise MsbDatabaseError(f"{layout.msb_database} is no database, or msb has not filled it yet")
    actor = replace(ledger.actor, observed=True)
    labels = labels_recorded()
    measure = _measure(layout)
    with (
        ledger.doing("recording what msb did"),
        ledger.write(operation, owner="msb", actor=actor, wait=wait) as transaction,
    ):
        connection = transaction.connection
        last, now = _last(connection), stamp(layout)
        began = time.time_ns()
        if not force and last == now and not _process_gone(connection):
            # Another process was first, or only files are waited for.
            gone = tuple(_settle(transaction, measure, began))
            return SyncReport(operation if gone else None, events=gone), None
        reached("sync.locked")
        ours = known.load(connection)
        looked = _Boots(connection, ours.uses)
        asked = msb_database.Asked(looked.cursor, labels)
        with ledger.doing("reading msb's database"):
            if reader is not None:
                theirs = reader.read(asked)
            else:
                settled = None if witness is None else witness.settled
                theirs = msb_database.read(layout.msb_database, asked, settled)
        changer = None if witness is None else witness.changer()
        events = _settle(transaction, measure, began)
        recorded = looked.recorded(theirs.runs)
        with ledger.doing("comparing msb's index with the log", "images", len(theirs.images)) as count:
            found = differences(
                *(ours, theirs, measure, _look(layout, count), ledger.clock()),
                fate=looked.fate,
                recorded=recorded,
                labels=labels,
            )
        claims = deletions.claims(connection, ledger.store(connection))
        if claims:
            found = _append_claimed(transaction, found, claims, ours, acting, ledger.actor)
        if acting is None or acting.explain is None:
            events += _append_observed(transaction, found.events, changer)
        else:
            for done, run in groupby(acting.explain(found.events, ours, theirs), key=itemgetter(1)):
                batch = [event for event, _ in run]
                by = (acting.operation, ledger.actor) if done else (None, None)
                events += transaction.append(batch, operation=by[0], actor=by[1])
        _keep(connection, found.leftovers, operation, began)
        notes = theirs.said + looked.keep(theirs.runs, recorded)
        if now is not None:
            _remember(connection, now, began)
        reached("sync.committing")
    adopted = last is None and not ours.observed
    diagnostics.info("synced", operation=operation, events=len(events), adopted=adopted)
    said = tuple(event for event in events if event.type not in ("log.created", "clock.jumped"))
    return SyncReport(operation if said else None, adopted, said, notes), theirs


def _append_observed(
    transaction: Transaction, events: Sequence[NewEvent], changer: Changer | None
) -> list[StoredEvent]:
    """Append what was observed, as done by the process that changed the database, where that is known."""
    if changer is None or not _synced_since(transaction.connection, changer.looked_ns):
        return transaction.append(events)
    came_ns = changer.came_ns
    stored = []
    for by_changer, run in groupby(events, key=lambda event: _is_change(event, came_ns)):
        stored += transaction.append([*run], actor=changer.actor if by_changer else None)
    return stored


def _synced_since(connection: sqlite3.Connection, time_ns: int) -> bool:
    """Return whether the log is the one that knows of that look; not one that was put back since."""
    row = connection.execute("SELECT synced_at FROM sync_state").fetchone()
    return row is not None and row[0] >= time_ns


def _is_change(event: NewEvent, came_ns: int) -> bool:
    """Return whether an event is what a process did that came then, and no sooner."""
    # A run of which there is no process any more was ended by none that writes.
    ended_by_itself = getattr(event.event, "how", None) in ("vanished", "restarted")
    return not ended_by_itself and (event.occurred_at_ns is None or event.occurred_at_ns >= came_ns)


def _append_claimed(
    transaction: Transaction,
    found: Differences,
    claims: Mapping[tuple[str, str], Claim],
    known: Known,
    acting: OwnAction | None,
    actor: Actor,
) -> Differences:
    """Append what running deletions had msb take out of its index, as theirs; return the rest.

    What became of the files is not said here: that is theirs to find out when msb is done.
    """
    from msgspec.structs import replace

    from msb_cache.eventstore import events as ev
    from msb_cache.eventstore.store import NewEvent

    held = {digest for digest, _ in known.holds}
    mine: dict[str, list[NewEvent]] = {}
    rest: list[NewEvent] = []
    for event in found.events:
        data = event.event
        if isinstance(data, ev.ImageRemoved):
            claim = claims.get(("metadata", event.subject))
            if claim is not None and claim.spellings and data.spelling not in claim.spellings:
                claim = None  # another spelling's removal
            if claim is not None:
                forced = claim.forced and data.manifest_digest in held
                data = replace(data, cause=claim.kind, forced=forced)
        else:
            claim = claims.get((data.kind, event.subject)) if isinstance(data, ev.ArtifactDeleted) else None
        if claim is None:
            rest.append(event)
        elif isinstance(data, ev.ImageRemoved | ev.ManifestDeleted):
            mine.setdefault(claim.operation, []).append(NewEvent(data, event.subject))
    for operation, events in mine.items():
        ours = acting is not None and acting.operation == operation
        transaction.append(events, operation=operation, actor=actor if ours else None)
    leftovers = [event for event in found.leftovers if (_kind(event), event.subject) not in claims]
    return found._replace(events=rest, leftovers=leftovers)


def _kind(deleted: NewEvent) -> str:
    return deleted.event.kind  # type: ignore[attr-defined, no-any-return]


def _measure(layout: Layout) -> Measure:
    """Return a function that says what a file measures; asked for many, it lists the folder once."""
    from msb_cache.artifacts import files

    asked: Counter[str] = Counter()
    listed: dict[str, dict[str, int]] = {}

    def measure(kind: str, subject: str) -> int | None:
        asked[kind] += 1
        if asked[kind] <= _MANY:
            return files.measure(layout.artifact(kind, subject))
        if kind not in listed:
            listed[kind] = layout.sizes(kind)  # type: ignore[arg-type]
        return listed[kind].get(subject)

    return measure


def _look(layout: Layout, count: Count) -> Look:
    """Return a function that looks into a reference's metadata file, and counts them."""
    from msb_cache.msb import stored

    looked = 0

    def look(reference: str) -> Stored | None:
        nonlocal looked
        looked += 1
        if looked % _TOLD == 0:
            count(looked)
        return stored.look(layout.metadata(reference))

    return look


def _remember(connection: sqlite3.Connection, seen: Stamp, now: int) -> None:
    if now - max(seen.db_mtime_ns, seen.wal_mtime_ns) < _TICK:
        seen = seen._replace(db_mtime_ns=-1)  # it may change again without looking different
    marks = ", ".join("?" * (len(seen) + 2))
    connection.execute(
        f"INSERT OR REPLACE INTO sync_state (id, synced_at, {', '.join(Stamp._fields)}) VALUES ({marks})",  # noqa: S608
        (1, now, *seen),
    )


# -- boots ------------------------------------------------------------------------------------------------


def labels_recorded() -> tuple[str, ...]:
    """Return the keys of the labels of sandboxes that are recorded: those in ``MSB_CACHE_LABELS``, by commas.

    Raises:
        InvalidConfigError: those are too many.
    """
    from msb_cache.msb.database import MAX_LABELS

    keys = {key.strip() for key in os.environ.get("MSB_CACHE_LABELS", "").split(",")}
    found = tuple(sorted(key for key in keys if key and "=" not in key))
    if len(found) > MAX_LABELS:
        raise InvalidConfigError(
            f"MSB_CACHE_LABELS names {len(found)} labels; name at most {MAX_LABELS}, a log cannot be erased"
        )
    return found


class _Boots:
    """How far msb's record of boots was looked at, and the processes of those that the log has as open."""

    def __init__(self, connection: sqlite3.Connection, uses: Collection[str]) -> None:
        from msb_cache.msb.liveness import Process
        from msb_cache.msb.runs import Cursor

        self._connection = connection
        row = connection.execute("SELECT database, through, recorded_through FROM sync_runs").fetchone()
        self.cursor = Cursor(open=frozenset(uses))
        if row is not None:
            self.cursor = self.cursor._replace(database=row[0], through=row[1], recorded_through=row[2])
        self._before = {
            run: Process(*rest)
            for run, *rest in connection.execute("SELECT run, pid, ticks, boot FROM sync_process")
        }
        self._now: dict[str, Process] = {}

    def recorded(self, runs: MsbRuns | None) -> frozenset[str]:
        """Return the runs that the log has, where those that were found can be among them."""
        if runs is None or not (runs.is_new_database or self.cursor.through < self.cursor.recorded_through):
            return frozenset()
        rows = self._connection.execute(
            "SELECT json_extract(data, '$.run') FROM events WHERE type = 'image.used'"
        )
        return frozenset(run for (run,) in rows if run is not None)

    def fate(self, run: MsbRun, holder: str, later: MsbRun | None) -> tuple[Fate, int | None]:
        """Return what became of a run that msb says is open, and by when."""
        from msb_cache.msb import liveness

        process = liveness.find(run.pid, holder.partition(":")[2], run.started_at_ns)
        if isinstance(process, liveness.Process):
            self._now[run.key] = process
            return "lasts", None
        before = self._before.get(run.key)
        restarted = before is not None and before.boot != liveness.boot()
        if restarted or liveness.began_before_start(run.started_at_ns):
            return "restarted", liveness.computer_started_ns()
        if later is not None:
            return "vanished", later.started_at_ns
        return ("vanished" if process == "gone" else "lasts"), None

    def keep(self, runs: MsbRuns | None, recorded: Collection[str]) -> tuple[str, ...]:
        """Keep how far was looked, with the processes; return what is to be said of boots without a row."""
        from msb_cache.msb.runs import number_of

        connection, cursor = self._connection, self.cursor
        if runs is None:
            return ()
        known = max(cursor.recorded_through, *map(number_of, recorded), 0)
        if cursor[:2] != (runs.database, runs.through):
            connection.execute(
                "INSERT OR REPLACE INTO sync_runs (id, database, through, recorded_through) "
                "VALUES (1, ?, ?, ?)",
                (runs.database, runs.through, known),
            )
        if self._now != self._before:
            connection.execute("DELETE FROM sync_process")
            connection.executemany(
                "INSERT INTO sync_process (run, pid, ticks, boot) VALUES (?, ?, ?, ?)",
                [(run, *process) for run, process in sorted(self._now.items())],
            )
        # Of a database that took another's place, what is missing was told when it was.
        missing = 0 if runs.is_new_database and cursor.database is not None else runs.without_row
        if not missing:
            return ()
        return (
            f"{plural(missing, 'boot')} left no row in msb.db: their sandboxes were removed before a sync",
        )


# -- files that msb deletes after their records ----------------------------------------------------------


def _keep(connection: sqlite3.Connection, leftovers: Sequence[NewEvent], operation: str, now: int) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO sync_leftover (kind, subject, bytes, manifests, operation, since) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        [
            (
                _kind(event),
                event.subject,
                event.event.bytes,  # type: ignore[attr-defined]
                getattr(event.event, "manifests", 1),
                operation,
                now,
            )
            for event in leftovers
        ],
    )


def _settle(transaction: Transaction, measure: Measure, now: int) -> list[StoredEvent]:
    """Record which of the files that were still there are gone now, with the operation they belong to."""
    from msb_cache.artifacts.kinds import needed_by
    from msb_cache.eventstore import events as ev
    from msb_cache.eventstore.store import NewEvent
    from msb_cache.projections import images

    connection = transaction.connection
    stored: list[StoredEvent] = []
    for kind, subject, size, manifests, operation, since in connection.execute(
        "SELECT kind, subject, bytes, manifests, operation, since FROM sync_leftover "
        "ORDER BY operation, kind, subject"
    ).fetchall():
        needed = images.needs(connection, needed_by(kind), subject)
        gone = measure(kind, subject) is None
        if gone and not needed:
            event: ev.Event
            if kind == "layer":
                event = ev.LayerDeleted(bytes=size, manifests=manifests)
            else:
                event = ev.OUTCOMES[kind](bytes=size)
            stored += transaction.append([NewEvent(event, subject)], operation=operation)
        if gone or needed or now - since > _WAIT_FOR_FILES:
            connection.execute("DELETE FROM sync_leftover WHERE kind = ? AND subject = ?", (kind, subject))
    return stored
