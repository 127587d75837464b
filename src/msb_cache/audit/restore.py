"""Put a home's log back to a backup. That rewinds a log, so it says what is lost, and keeps what was there.

The backup is data from elsewhere: its events are checked and folded into a database of our own making. Where
the present log can be read, one transaction exchanges its contents, so other processes may be at work and see
the one or the other. Where it cannot, the file is replaced (see ``replacing``).
"""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from msb_cache.artifacts import durable, files
from msb_cache.artifacts.layout import Layout, leaving_no_folders
from msb_cache.artifacts.locks import Lock
from msb_cache.audit import log_files
from msb_cache.audit.backup import copy
from msb_cache.audit.import_log import build
from msb_cache.engines.decision import one_at_a_time
from msb_cache.errors import BusyError, CorruptLogError, LogError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore import subtrees
from msb_cache.eventstore.chain import raw_rows
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import INSERT, EventStore, NewEvent
from msb_cache.failpoints import reached
from msb_cache.home import replacing
from msb_cache.home.connect import migrating
from msb_cache.home.ledger import Ledger
from msb_cache.home.operation import Operation
from msb_cache.projections import live, restored
from msb_cache.session import Session
from msb_cache.shapes import Result
from msb_cache.wording import plural


@dataclass(frozen=True)
class RestoreReport(Result):
    """What was put back: the log, how many events of the backup it begins with, and what became of the rest.

    ``events_lost``: how many events of the log before are in the backup no more; None: it could not be read.
    ``set_aside``: the folder with what was there; None: nothing was.
    """

    log_id: str
    events: int
    events_lost: int | None
    set_aside: Path | None


def restore_backup(session: Session, source: Path, discard: int | None) -> RestoreReport:
    """Put the log back; parameters, result and errors as for ``ImageCache.restore_backup``."""
    report = _restore(session, source, discard)
    session.ledger.renew_head_note()
    session.begin_writing()  # now that there is a log which says what others left half done
    return report


def _restore(session: Session, source: Path, discard: int | None) -> RestoreReport:
    ledger, layout = session.ledger, session.layout
    ledger.check_writable()
    with (
        log_files.opened(source) as rows,  # what cannot be opened makes nothing in a new home
        leaving_no_folders(layout),
        one_at_a_time(ledger) as operation,
    ):
        built = Layout(operation.building())
        report = build(built, layout, rows())
        event = ev.LogRestored(backup_seq=report.events, backup_head=report.head.hex())
        try:
            with ledger.read() as connection:
                present = connection is not None
            if present:
                with closing(sqlite3.connect(built.database, isolation_level=None)) as backup:
                    lost, folder = _exchange(ledger, operation, backup, event, discard, report.log_id)
                return RestoreReport(report.log_id, report.events, lost, folder)
        except CorruptLogError as error:
            ledger.close()
            session.note(f"{error}; it is set aside as it is")
        aside = _replace(ledger, operation, built, event, report.log_id)
    return RestoreReport(report.log_id, report.events, None if aside else 0, aside)


def confirm_restore(session: Session) -> bool:
    """Record that a person has looked at what a restore left; return whether there was one to confirm."""
    session.begin_writing()
    with session.ledger.write(uuid7(), owner="any") as transaction:
        row = restored.unconfirmed(transaction.connection)
        if row is None:
            return False
        transaction.append([NewEvent(ev.LogRestoreConfirmed(restored_seq=row.seq), transaction.log_id)])
    return True


def _exchange(
    ledger: Ledger,
    operation: Operation,
    backup: sqlite3.Connection,
    event: ev.LogRestored,
    discard: int | None,
    log_id: str,
) -> tuple[int, Path]:
    """Exchange the contents of a log that can be read; return how many events go, and the copy's folder."""
    layout = ledger.layout
    aside = operation.building() / "set-aside.db"
    # What has begun to write cannot be copied from, and may keep every other connection out.
    with ledger.read() as connection:
        assert connection is not None  # noqa: S101
        lost = _checked_loss(layout, connection, backup, discard, log_id)
        copied = EventStore(connection).head()
        files.create(aside).close()
        copy(connection, aside)
    files.sync(aside)
    with ledger.write(operation.id, owner="any") as transaction:
        connection = transaction.connection
        head = EventStore(connection).head()
        if head != copied:
            raise BusyError(f"another process wrote to {layout.database} while it was set aside; try again")
        _put(connection, backup)
        replaced_seq, replaced_head = (0, None) if head is None else (head.seq, head.hash.hex())
        event = replace(event, replaced_seq=replaced_seq, replaced_head=replaced_head, events_lost=lost)
        transaction.append([NewEvent(event, log_id)])
        reached("restore.exchanged")
        folder = replacing.new_folder(layout, operation.id)
        changes = durable.Changes()
        changes.replace(aside, folder / Path(layout.database).name)
        changes.sync()
        reached("restore.committing")
    return lost, folder


def _checked_loss(
    layout: Layout, present: sqlite3.Connection, backup: sqlite3.Connection, discard: int | None, log_id: str
) -> int:
    """Return how many events of the present log the backup lacks, if that is what is to be discarded.

    Raises:
        LogError: it is not, or the backup is of another log.
    """
    found, events = present.execute(
        "SELECT (SELECT subject FROM events WHERE seq = 1), (SELECT coalesce(max(seq), 0) FROM events)"
    ).fetchone()
    if found not in (None, log_id):
        raise LogError(
            f"the backup is of another log (its id is {log_id}, that of {layout.home} is {found}); "
            "restore it into another --home"
        )
    lost: int = events - _common(present, backup)
    if (discard or 0) != lost:
        raise LogError(_refusal(lost, discard))
    return lost


def _refusal(lost: int, discard: int | None) -> str:
    if not lost:
        return "no events are lost by this restore, so --discard-events is not needed; try again without it"
    return (
        f"this restore takes {plural(lost, 'event')} out of the log that the backup lacks; back the log "
        f"up first if they matter, or say --discard-events {lost}"
    )


def _common(present: sqlite3.Connection, backup: sqlite3.Connection) -> int:
    """Return how many events two logs begin with together."""
    query = "SELECT seq, hash FROM events ORDER BY seq"
    count = 0
    for one, other in zip(present.execute(query), backup.execute(query), strict=False):
        if one != other:
            break
        count += 1
    return count


def _put(connection: sqlite3.Connection, backup: sqlite3.Connection) -> None:
    """Put a backup's events in the place of all there are, within the caller's transaction, and fold them."""
    triggers = backup.execute("SELECT sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    drop_triggers(connection)
    connection.execute("DELETE FROM events")
    connection.executemany(INSERT, ((*row, stored) for row, stored in raw_rows(backup)))
    for (sql,) in triggers:
        connection.execute(sql)
    for table in ("sync_state", "sync_leftover"):
        connection.execute(f"DELETE FROM {table}")  # noqa: S608
    subtrees.forget(connection)
    # What was signed before stays: it says that those keys have signed what the log is not any more.
    live.fill(connection, EventStore(connection))


def drop_triggers(connection: sqlite3.Connection) -> list[str]:
    """Drop what keeps events from being changed, in the caller's transaction; return what makes it again."""
    found = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in found:
        connection.execute('DROP TRIGGER "{}"'.format(name.replace('"', '""')))
    return [sql for _, sql in found]


def _replace(
    ledger: Ledger, operation: Operation, built: Layout, event: ev.LogRestored, log_id: str
) -> Path | None:
    """Put the backup in the place of what cannot be read, or of nothing; return the folder of that."""
    layout = ledger.layout
    with ExitStack() as stack:
        lock = stack.enter_context(Lock(layout.migrate_lock))
        lock.acquire(wait=None, say=partial(ledger.note, migrating(layout.database)))
        replacing.check_unopened(layout)
        folder = replacing.set_aside(layout, operation.id)
        lost = None if folder else 0
        rebuilt = Ledger(built, actor=lambda: ledger.actor, clock=ledger.clock, noted=False)
        with closing(rebuilt), rebuilt.write(operation.id, owner="any") as transaction:
            transaction.append([NewEvent(replace(event, events_lost=lost), log_id)])
        files.sync(built.database)
        reached("restore.built")
        operation.leave_to_recovery()  # until it is in place
        replacing.replace(layout, operation.id)
        operation.undone()
    return folder
