"""Read a log from a file of any home: a database of msb-cache, or an export. Never written to.

It is data from elsewhere: opened without leaving a trace, bounded, and every event looked at before it
is handed out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec

from msb_cache.errors import CorruptLogError, LogError
from msb_cache.eventstore import chain, export
from msb_cache.home import foreign_db
from msb_cache.home.connect import schema_version
from msb_cache.home.descriptors import beginning
from msb_cache.migrations import APPLICATION_ID
from msb_cache.projections import live
from msb_cache.projections.replay import ROW_TYPE, State
from msb_cache.projections.tables import columns, stored_rows

MAX_STATE = 512 * 1024 * 1024
"""Bytes of a state's file, and ``MAX_ROWS`` of each of its tables."""
MAX_ROWS = 2_000_000

STATE_KIND = "msb-cache state"

Rows = Callable[[], Iterator[export.Row]]
"""Reads a log's rows from the first on, each time it is called."""


@contextmanager
def opened(path: Path) -> Iterator[Rows]:
    """Open a log and give what reads its rows, as they are stored and in their order.

    Args:
        path: a database of msb-cache, or an export. Of a damaged one come the rows that can be read, and then
            the error.

    Raises:
        NewerDatabaseError: a newer release wrote the database.
        CorruptLogError: it is damaged, or no log of msb-cache.
        LogError: it cannot be read.
    """
    if not _is_database(path):
        with _file(path) as file:

            def again() -> Iterator[export.Row]:
                file.seek(0)
                return export.read(file)

            yield lambda: _guarded(path, again())
        return
    with readable(path) as (read, problem):

        def rows() -> Iterator[export.Row]:
            yield from _guarded(path, read(0))
            if problem is not None:
                raise problem

        yield rows


@contextmanager
def readable(path: Path) -> Iterator[tuple[Callable[[int], Iterator[export.Row]], CorruptLogError | None]]:
    """Open a database of msb-cache for its log; if it is damaged, for what of that can be read.

    Yields:
        What reads the rows behind a position, in pages, up to the log's end as it was when it was opened; and
        what is wrong with the database, None if it could be opened as it should.

    Raises:
        NewerDatabaseError, CorruptLogError, LogError: nothing of it can be read.
    """
    with ExitStack() as stack:
        problem = None
        try:
            connection = stack.enter_context(_database(path))
        except CorruptLogError as error:
            problem = error
            try:
                remains = foreign_db.damaged(path, "events", (*chain.COLUMNS, "hash"))
                connection = stack.enter_context(remains)
                ours = connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
            except (OSError, sqlite3.Error):
                ours = False  # what was wrong at first says more
            if not ours:
                raise error from None
        end = _end(connection)
        connection.execute("ROLLBACK")
        read = partial(foreign_db.reading, connection)
        yield lambda after: chain.paged_rows(read, after, end), problem


@contextmanager
def as_it_is(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a database of msb-cache in one read, its log's table checked to be a table, and nothing else.

    Raises:
        NewerDatabaseError, CorruptLogError, LogError: as for ``opened``.
    """
    with _database(path) as connection, _translate_sqlite_errors(path):
        yield connection


def read_state(path: Path) -> State:
    """Read the projections of a database, or a state that was written as JSON.

    Raises:
        NewerDatabaseError, CorruptLogError, LogError: as for ``opened``.
    """
    if _is_database(path):
        with as_it_is(path) as connection:
            _check_tables(connection)
            return _stored_state(connection, path)
    with _file(path) as file:
        text = file.read(MAX_STATE + 1)
    if len(text) > MAX_STATE:
        raise CorruptLogError(f"{path} is larger than any state that is looked at")
    try:
        written = msgspec.json.decode(text, type=_WrittenState)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptLogError(f"{path} is neither a database nor a state of msb-cache: {error}") from None
    if written.kind != STATE_KIND:
        raise CorruptLogError(f"{path} is no state of msb-cache")
    return _checked(
        State(
            log_id=written.log_id,
            seq=written.seq,
            hash=written.hash,
            fold_version=written.fold_version,
            tables=written.tables,
        ),
        path,
    )


def _checked(state: State, path: Path) -> State:
    """Return a state whose rows have the columns they must have, and nothing in them but text and numbers."""
    widths = {table: len(columns(row_type)) for table, row_type in ROW_TYPE.items()}
    for table, rows in state.tables.items():
        width = widths.get(table)
        for row in rows:
            if len(row) != width or not all(map(_plain, row)):
                raise CorruptLogError(
                    f"{path} holds rows of {table[:100]!r} that this msb-cache does not have"
                )
    return state


def _plain(value: object) -> bool:
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return value is None or isinstance(value, str)


class _WrittenState(msgspec.Struct, kw_only=True):
    kind: str
    log_id: str
    seq: int
    hash: str | None
    fold_version: int
    tables: dict[str, list[tuple[str | int | None, ...]]]


def _stored_state(connection: sqlite3.Connection, path: Path) -> State:
    version, seq = live.position(connection)
    first = connection.execute("SELECT subject FROM events WHERE seq = 1").fetchone()
    last = connection.execute("SELECT hash FROM events WHERE seq = ?", (seq,)).fetchone()
    if first is None or not all(isinstance(value, int) for value in (version, seq)):
        raise CorruptLogError(f"{path} has no log in it")
    known = last is not None and isinstance(last[0], bytes)
    state = State(
        log_id=str(first[0]),
        seq=seq,
        hash=last[0].hex() if known else None,
        fold_version=version,
        tables={table: [*stored_rows(connection, row_type)] for table, row_type in ROW_TYPE.items()},
    )
    return _checked(state, path)


def _is_database(path: Path) -> bool:
    with _translate_sqlite_errors(path):
        return beginning(path, len(foreign_db.MAGIC)) == foreign_db.MAGIC


@contextmanager
def _file(path: Path) -> Iterator[BinaryIO]:
    with ExitStack() as stack:
        with _translate_sqlite_errors(path):
            file: BinaryIO = stack.enter_context(foreign_db.regular(path))
        yield file


@contextmanager
def _database(path: Path) -> Iterator[sqlite3.Connection]:
    with ExitStack() as stack:
        with _translate_sqlite_errors(path):
            connection = stack.enter_context(foreign_db.opened(path))
            schema_version(connection, path)
            foreign_db.check_columns(connection, "events", (*chain.COLUMNS, "hash"))
        yield connection


def _guarded(path: Path, rows: Iterator[export.Row]) -> Iterator[export.Row]:
    # Within a generator, so that a failure of the code that reads the rows is not taken for ours.
    with _translate_sqlite_errors(path):
        yield from rows


def _end(connection: sqlite3.Connection) -> int:
    try:
        (end,) = connection.execute("SELECT max(seq) FROM events").fetchone()
    except sqlite3.Error:
        end = None  # the log's end is damaged
    return end if isinstance(end, int) else chain.LAST


def _check_tables(connection: sqlite3.Connection) -> None:
    foreign_db.check_columns(connection, "projection_state", ("fold_version", "seq"))
    for table, row_type in ROW_TYPE.items():
        foreign_db.check_columns(connection, table, columns(row_type))
        (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
        if count > MAX_ROWS:
            raise sqlite3.DataError(f"{table} has more than {MAX_ROWS:,} rows")


@contextmanager
def _translate_sqlite_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise CorruptLogError(f"{path} is damaged, or no log of msb-cache: {error}") from None
    except OSError as error:
        raise LogError(f"cannot read {path}: {error.strerror or error}") from None
