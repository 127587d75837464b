"""Import an exported log into a home that has none: all of it, or nothing is left behind.

The log comes with its ids, times and hashes; nothing is appended. It is built beside its place, checked
line by line, and put there in one step. Files of images are no part of a log: those that its index names
may be here or not, and the report says how many are missing.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from msb_cache.artifacts import durable, files
from msb_cache.artifacts.layout import Layout, leaving_no_folders
from msb_cache.artifacts.locks import Lock
from msb_cache.audit.admit import admit
from msb_cache.audit.files import expected_files
from msb_cache.errors import CorruptLogError, HomeOwnedByMicrosandboxError, LogError
from msb_cache.eventstore.chain import Checker
from msb_cache.eventstore.export import Row, read
from msb_cache.eventstore.store import INSERT, StoredEvent
from msb_cache.failpoints import reached
from msb_cache.home import replacing
from msb_cache.home.connect import in_words, migrating, open_database, set_journal
from msb_cache.home.ledger import Ledger
from msb_cache.home.operation import Operation
from msb_cache.projections import live
from msb_cache.projections.moment import set_moment
from msb_cache.shapes import Result

_BATCH = 2000
"""Events folded together: enough to write tables in bulk, few enough to keep in memory."""

_BATCH_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class ImportReport(Result):
    """What was imported: the log, and how many files its index names and how many of them are missing."""

    log_id: str
    events: int
    head: bytes
    files: int
    files_missing: int


def import_log(ledger: Ledger, source: BinaryIO) -> ImportReport:
    """Import a whole export.

    Args:
        ledger: a home of ours without a log.
        source: the export, read once from beginning to end.

    Raises:
        LogError: the home has a log.
        CorruptLogError, UnknownEventError: the export is refused; says why and where.
        HomeOwnedByMicrosandboxError: msb owns the home.
    """
    layout = ledger.layout
    if ledger.owned_by_msb:
        raise HomeOwnedByMicrosandboxError(
            f"{layout.home} belongs to msb, whose images a log from elsewhere does not describe; "
            "import into another --home"
        )
    ledger.check_writable()
    with ledger.read() as connection:
        if connection is not None:
            raise _has_one(layout)
    with leaving_no_folders(layout), Operation(layout) as operation:
        built = Layout(operation.building())  # not in the cache, which may lie on another disk
        report = build(built, layout, read(source))
        durable.make_folder(layout.db)
        durable.sync_above(layout.db)
        changes = durable.Changes()
        ledger.check_ours()
        reached("import.built")
        with Lock(layout.migrate_lock) as lock:
            lock.acquire(wait=None, say=partial(ledger.note, migrating(layout.database)))
            aside = replacing.set_strays_aside(layout, operation.id)
        if aside is not None:
            ledger.note(f"what SQLite had left beside a database that is gone was moved to {aside}")
        try:
            changes.link(built.database, layout.database)  # unlike a rename, it replaces nothing
        except FileExistsError:
            raise _has_one(layout) from None
        reached("import.linked")
        changes.sync()
    return report


def _has_one(layout: Layout) -> LogError:
    return LogError(f"{layout.home} has a log already; import into another --home")


def build(built: Layout, layout: Layout, rows: Iterator[Row]) -> ImportReport:
    """Make the database of a log from elsewhere, each event checked and folded; synced, and closed.

    Args:
        built: where to make it.
        layout: the home that it is for, whose files are counted.
        rows: the log from its first event on.

    Raises:
        CorruptLogError, UnknownEventError: the log is refused; says why and where.
        LogError: it cannot be written.
    """
    connection = open_database(built, lambda sentence: None)  # no other process has it
    set_moment(connection, time.time_ns)
    try:
        # No reader sees this file before it is whole, so it needs no journal to go back with.
        for mode in ("delete", "off"):
            set_journal(connection, mode)
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        checker = Checker()
        try:
            for batch in batches(rows):
                _take(connection, batch, checker)
                reached("import.batch")
        except sqlite3.IntegrityError as error:
            raise CorruptLogError(
                f"the export is no log of msb-cache before event {checker.seq}: {error}"
            ) from None
        except OverflowError:
            raise CorruptLogError("the export is no log of msb-cache: its sizes are too large") from None
        connection.execute("COMMIT")
        if checker.log_id is None:
            raise CorruptLogError("there is no event in it, so there is no log to import")
        reached("import.committed")
        expected = expected_files(layout, connection)
        connection.execute("PRAGMA synchronous = FULL")
        set_journal(connection, "wal")
    except sqlite3.OperationalError as error:
        raise LogError(f"the log cannot be built in {built.home}: {in_words(error)}") from None
    finally:
        connection.close()
    files.sync(built.database)
    if files.measure(f"{built.database}-wal"):
        raise LogError(
            "the log cannot be built: its database could not be closed; make sure that the disk is sound"
        )
    missing = sum(not files.exists(path) for path in expected)
    return ImportReport(checker.log_id, checker.seq, checker.head, len(expected), missing)


def _take(connection: sqlite3.Connection, batch: list[Row], checker: Checker) -> None:
    events: list[StoredEvent] = []
    for row, stored in batch:
        found = checker.check(row, stored)
        if found is not None:
            raise CorruptLogError(f"the export does not verify: {found.problem}")
        events.append(admit((row, stored)))
    connection.executemany(INSERT, [(*row, stored) for row, stored in batch])
    live.apply(connection, events)


def batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Yield rows in lists that are folded together."""
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(str(row[0][-1]))
        if len(batch) == _BATCH or size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
