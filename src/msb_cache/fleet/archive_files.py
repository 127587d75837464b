"""The files of an archive: Parquet, one for each stretch of a log, with every column just as it was stored.

A file is named by its log and its first and last event, such as
``0123…cdef-000000000001-000000012000.parquet``. It gets that name when it is whole, read back and durable.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec

from msb_cache.artifacts import files
from msb_cache.artifacts.durable import Changes, delete_folder_unsynced, make_folder, sync_folder
from msb_cache.errors import CorruptLogError, LogError
from msb_cache.eventstore.chain import Checker, Value
from msb_cache.eventstore.row import COLUMNS, INTEGERS
from msb_cache.failpoints import reached
from msb_cache.fleet.schema import EVENT_COLUMNS
from msb_cache.interchange import parquet

Row = tuple[tuple[Value, ...], bytes]
"""An event's hashed columns and its hash, as they are stored."""

_NAME = re.compile(r"([0-9a-f]{32})-([0-9]{12,19})-([0-9]{12,19})\.parquet")
_TYPES = {column: "BIGINT" if column in INTEGERS else "VARCHAR" for column in EVENT_COLUMNS}
_READ = ", ".join(f"'{column}': '{kind}'" for column, kind in _TYPES.items())
_TOGETHER = 1000
_OWN = ".msb-cache-archive-"

_encode = msgspec.json.Encoder().encode


class TornFileError(CorruptLogError):
    """A file that cannot be read as Parquet with the columns of events."""


class Stretch(NamedTuple):
    """A file with the events of a log from ``first`` to ``last``."""

    path: Path
    log_id: str
    first: int
    last: int


def place_of(folder: Path, log_id: str, first: int, last: int) -> Path:
    """Return where the file of a stretch of a log lies."""
    return folder / f"{log_id}-{first:012}-{last:012}.parquet"


def listed(folder: Path) -> dict[str, list[Stretch]]:
    """Return the files of a folder by log.

    Raises:
        LogError: it cannot be read.
    """
    found: dict[str, list[Stretch]] = {}
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise LogError(f"cannot read the archive {folder}: {error.strerror or error}") from None
    for name in names:
        if match := _NAME.fullmatch(name):
            stretch = Stretch(folder / name, match[1], int(match[2]), int(match[3]))
            found.setdefault(stretch.log_id, []).append(stretch)
    return found


def leading_to(stretches: Iterable[Stretch], last: int) -> list[Stretch]:
    """Return the files that have a log's events from the first to ``last``, each once, in their order.

    A run that was stopped may have left a file beside those that count; it is passed over.

    Raises:
        CorruptLogError: some are missing.
    """
    ending: dict[int, list[Stretch]] = {}
    for each in stretches:
        if 1 <= each.first <= each.last:
            ending.setdefault(each.last, []).append(each)
    reaching: dict[int, list[Stretch]] = {0: []}
    for end in sorted(ending):
        for each in ending[end]:
            if each.first - 1 in reaching and end not in reaching:
                reaching[end] = [*reaching[each.first - 1], each]
    if last in reaching:
        return reaching[last]
    there = max(end for end in reaching if end < last)
    raise CorruptLogError(
        f"the archive has no file that goes on from event {there + 1} up to event {last}"
        if there
        else f"the archive has no files that have the events up to {last}"
    )


def rows_of(stretch: Stretch) -> Iterator[Row]:
    """Yield the events of a file, as it has them.

    Raises:
        TornFileError: it cannot be read.
        CorruptLogError: it has events of another log.
        UnsupportedError: DuckDB is not installed.
    """
    import duckdb

    columns = ", ".join(f'"{column}"' for column in EVENT_COLUMNS)
    with parquet.database(str(stretch.path.parent)) as duck:
        try:
            asked = duck.execute(f"SELECT {columns} FROM read_parquet({parquet.quoted(str(stretch.path))})")
            while page := asked.fetchmany(_TOGETHER):
                for log_id, *row, stored in page:
                    if log_id != stretch.log_id:
                        raise CorruptLogError(f"{stretch.path} has an event of another log")
                    yield tuple(row), stored
        except duckdb.Error as error:
            said = str(error).splitlines()[0]
            raise TornFileError(f"{stretch.path} is no file of an archive, or damaged: {said}") from None


def checked(stretch: Stretch, checker: Checker) -> Iterator[Row]:
    """Yield the events of a file, each behind the one before it, and all that its name says.

    Args:
        stretch: the file.
        checker: stands before its first event, and behind its last when all were taken.

    Raises:
        CorruptLogError: it is not so.
    """
    for row, stored in rows_of(stretch):
        found = checker.check(row, stored)
        if found is not None:
            raise CorruptLogError(f"{stretch.path} is not what was archived: {found.problem}")
        yield row, stored
    if checker.seq != stretch.last:
        raise CorruptLogError(f"{stretch.path} ends at event {checker.seq}, and its name says {stretch.last}")


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Make a folder, if it is not there, and be the only one that writes there within the block.

    Raises:
        LogError: another run does, or the folder cannot be made.
    """
    try:
        make_folder(folder)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise LogError(f"cannot write the archive {folder}: {error.strerror or error}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LogError(f"another run writes into the archive {folder}; let it end") from None
        for left in folder.glob(f"{_OWN}*"):  # by runs that were killed
            delete_folder_unsynced(left)
        yield
    finally:
        os.close(descriptor)


def write(stretch: Stretch, rows: Iterable[Row], behind: Callable[[], Checker]) -> None:
    """Write a file, read it back, and put it in its place durably; one that lies there goes.

    Args:
        stretch: the file.
        rows: the events, which are checked as they are read.
        behind: makes what checks events from the file's first one on.

    Raises:
        CorruptLogError: what was written is not what was read.
        LogError: the folder cannot be written to.
        UnsupportedError: DuckDB is not installed.
    """
    import duckdb

    folder = stretch.path.parent
    try:
        with TemporaryDirectory(prefix=_OWN, dir=folder) as own:
            part = stretch._replace(path=Path(own, stretch.path.name))
            lines = os.path.join(own, "events.jsonl")
            head = _spool(stretch.log_id, rows, lines)
            columns = ", ".join(f'"{column}"' for column in EVENT_COLUMNS[:-1])
            source = parquet.from_lines(lines, _READ)
            parquet.convert(f"SELECT {columns}, unhex(hash) AS hash FROM {source}", str(part.path))
            reached("archive.written")
            checker = behind()
            for _ in checked(part, checker):
                pass
            if checker.head != head:
                raise CorruptLogError(f"{stretch.path} could not be written as it should")
            files.sync(part.path)
            changes = Changes()
            changes.replace(part.path, stretch.path)
            reached("archive.placed")
            changes.sync()
    except OSError as error:
        raise LogError(f"cannot write the archive {folder}: {error.strerror or error}") from None
    except duckdb.Error as error:
        raise LogError(f"cannot write {stretch.path}: {str(error).splitlines()[0]}") from None


def make_durable(stretch: Stretch) -> None:
    """Make durable a file that lies in its place: the run that wrote it may have been killed before."""
    files.sync(stretch.path)
    sync_folder(stretch.path.parent)


def _spool(log_id: str, rows: Iterable[Row], path: str) -> bytes | None:
    """Write rows as lines of JSON, which DuckDB reads faster than it takes values; return the last's hash."""
    stored = None
    with open(path, "wb") as out:  # in a folder that nobody else can enter
        for row, stored in rows:
            named = zip(COLUMNS, row, strict=True)
            out.write(_encode({"log_id": log_id, **dict(named), "hash": stored.hex()}))
            out.write(b"\n")
    return stored
