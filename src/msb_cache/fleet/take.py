"""Take exports of many hosts into a fleet's file, by the door that ``import`` has: each whole or not at all.

An export has a log from its first event on. Of one that is there already the beginning is compared, event by
event, and what follows is taken. Nothing in a file of elsewhere is believed: its lines are bounded, its chain
is followed, and every event is admitted before it is folded.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

import msgspec

from msb_cache.audit import log_files
from msb_cache.audit.import_log import batches
from msb_cache.errors import BusyError, CorruptLogError, FleetError, InvalidConfigError, MicrosandboxError
from msb_cache.eventstore.chain import Checker
from msb_cache.eventstore.export import Row
from msb_cache.failpoints import reached
from msb_cache.fleet import fold
from msb_cache.fleet.file import APPLICATION_ID_AT, FleetFile, Within
from msb_cache.fleet.place import SCHEMA, marks
from msb_cache.fleet.schema import EVENT_COLUMNS
from msb_cache.fleet.writing import FileWriting
from msb_cache.home import descriptors
from msb_cache.migrations import APPLICATION_ID
from msb_cache.shapes import Result

_INSERT = f"INSERT INTO {SCHEMA}.events ({', '.join(EVENT_COLUMNS)}) VALUES ({marks(EVENT_COLUMNS)})"
_LOG_ID = re.compile(r"[0-9a-f]{32}")


class Taken(Result, msgspec.Struct, frozen=True):
    """What became of one export.

    Attributes:
        path: the file.
        log_id: whose log it has; None: that cannot be told.
        host: the machine's name, as its events say; None where the export was refused.
        events: how many it has; None where it was refused.
        new: how many of them the fleet did not have; these were taken.
        size: how many events of the log the fleet has now; None where the export was refused.
        problem: why nothing of it was taken, in one sentence; None: it was not refused.
    """

    path: str
    log_id: str | None
    host: str | None = None
    events: int | None = None
    new: int = 0
    size: int | None = None
    problem: str | None = None


def take(
    file: FleetFile, paths: Iterable[str | os.PathLike[str]], *, clock: Callable[[], int]
) -> Iterator[Taken]:
    """Take exports into a fleet's file, each in a transaction of its own.

    Args:
        file: the fleet's; it is made where there is none.
        paths: exports, databases of msb-cache, and folders: of a folder, and of those in it, what ends in
            ``.jsonl`` and what is a database of msb-cache. Links in it are not followed.
        clock: ns since the epoch.

    Yields:
        What became of each export, in order.

    Raises:
        InvalidConfigError: a path is not there, a folder has no export, or the file is no fleet.
        BusyError, FleetError: the file cannot be written.
    """
    for path in [*chain.from_iterable(map(_exports, paths))]:
        checker = Checker()
        try:
            with log_files.opened(path) as rows, file.write(make=True) as connection:
                reached("take.begun")
                taken = _taken(connection, path, _checked(rows(), checker), checker, clock())
                reached("take.committing")
            reached("take.committed")
        except (BusyError, FleetError, InvalidConfigError):
            raise
        except MicrosandboxError as error:
            said = str(error) if os.fspath(path) in str(error) else f"{path} was not taken: {error}"
            taken = Taken(os.fspath(path), checker.log_id, problem=said)
        yield taken


def _taken(
    connection: sqlite3.Connection, path: Path, rows: Iterator[Row], checker: Checker, now_ns: int
) -> Taken:
    """Take an export within the caller's transaction.

    Raises:
        CorruptLogError, UnknownEventError: it is refused; says why and where.
    """
    first = next(rows, None)
    log_id = checker.log_id
    if first is None:
        raise CorruptLogError("there is no event in it, so there is no log to take")
    if log_id is None or _LOG_ID.fullmatch(log_id) is None:
        raise CorruptLogError("event 1 is none that msb-cache writes: its subject is no log id")
    rows = chain([first], rows)
    found = connection.execute(f"SELECT size FROM {SCHEMA}.head WHERE log_id = ?", (log_id,)).fetchone()
    known = 0 if found is None else int(found[0])
    if known:
        _compare(connection, log_id, islice(rows, known))
    for batch in batches(rows):
        try:
            connection.executemany(_INSERT, [(log_id, *row, stored) for row, stored in batch])
            reached("take.stored")
        except (sqlite3.IntegrityError, OverflowError) as error:
            raise CorruptLogError(f"it is no log of msb-cache before event {checker.seq}: {error}") from None
    size = max(known, checker.seq)
    if size > known:
        _set_head(connection, checker, path, now_ns)
        reached("take.folding")
        fold.begin(FileWriting(connection), now_ns)
        fold.fold_log(Within(connection), log_id, clock=lambda: now_ns)
    host, problem = connection.execute(
        f"SELECT host, problem FROM {SCHEMA}.fold_state WHERE log_id = ?", (log_id,)
    ).fetchone()
    if size > known and problem is not None:
        raise CorruptLogError(problem)
    return Taken(os.fspath(path), log_id, host, checker.seq, size - known, size)


def _checked(rows: Iterator[Row], checker: Checker) -> Iterator[Row]:
    for row, stored in rows:
        found = checker.check(row, stored)
        if found is not None:
            raise CorruptLogError(f"it does not verify: {found.problem}")
        yield row, stored


def _compare(connection: sqlite3.Connection, log_id: str, rows: Iterator[Row]) -> None:
    """Read rows of an export, and compare them with the events that were taken before.

    Raises:
        CorruptLogError: one is another; an export that ends before the fleet's log does is only older.
    """
    # Of what is in an archive the last event is known, and its hash covers those before it.
    ours = connection.execute(
        f"SELECT seq, hash FROM {SCHEMA}.anchor WHERE log_id = ? UNION "
        f"SELECT seq, hash FROM {SCHEMA}.events WHERE log_id = ? ORDER BY 1",
        (log_id, log_id),
    )
    seq, digest = ours.fetchone()
    for row, stored in rows:
        if row[0] != seq:
            continue
        if stored != digest:
            raise CorruptLogError(
                f"event {seq} is another than the fleet has of this log, so two machines or backups went on "
                "from one log; `msb-cache log anew` on one of them begins a log of its own"
            )
        seq, digest = ours.fetchone() or (None, None)


def _set_head(connection: sqlite3.Connection, checker: Checker, path: Path, now_ns: int) -> None:
    try:
        seen_ns = min(now_ns, path.stat().st_mtime_ns)  # when it was written, its host was there
    except OSError:
        seen_ns = now_ns
    connection.execute(
        f"INSERT INTO {SCHEMA}.head (log_id, role, size, hash, recorded_at, claimed_at, seen_at, host_size) "
        "VALUES (?, '', ?, ?, ?, ?, ?, ?) ON CONFLICT (log_id) DO UPDATE SET size = excluded.size, "
        "hash = excluded.hash, recorded_at = excluded.recorded_at, host_size = excluded.host_size, "
        "seen_at = max(seen_at, excluded.seen_at)",
        (checker.log_id, checker.seq, checker.head, checker.recorded_at, now_ns, seen_ns, checker.seq),
    )


def _exports(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the file, or the exports and databases of msb-cache in a folder, by name."""
    if not os.path.isdir(path):
        if not os.path.lexists(path):
            raise InvalidConfigError(f"there is no {os.fspath(path)}; name exports, or folders of them")
        yield Path(path)
        return
    found = []
    for folder, folders, names in os.walk(path):
        folders.sort()
        found += [Path(folder, name) for name in sorted(names) if _is_export(Path(folder, name))]
    if not found:
        raise InvalidConfigError(
            f"there is no export in {os.fspath(path)}; of a folder are taken files that end in .jsonl, "
            "and databases of msb-cache"
        )
    yield from found


def _is_export(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    if path.suffix == ".jsonl":
        return True
    try:
        begins = descriptors.beginning(path, APPLICATION_ID_AT + 4)
    except OSError:
        return False
    return begins[APPLICATION_ID_AT:] == APPLICATION_ID.to_bytes(4, "big") and begins.startswith(b"SQLite")
