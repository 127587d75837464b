"""Answer SQL that a person or program asks of a home: it only reads, and ends by time and by memory.

The database is opened for each query by itself, so that what guards the query is never in the way of anything
else. Nothing here knows what is asked.
"""

from __future__ import annotations

import re
import resource
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import NoReturn, TypeAlias

from sqlite_utils import Database

from msb_cache.artifacts.layout import Layout
from msb_cache.errors import InvalidQueryError, QueryLimitError
from msb_cache.eventstore.store import Clock
from msb_cache.home.ledger import Ledger
from msb_cache.projections import schema
from msb_cache.projections.rows import ROW_TYPES
from msb_cache.projections.views import VIEWS
from msb_cache.waiting import Note, end_if_asked
from msb_cache.wording import size

SqlValue: TypeAlias = str | int | float | bytes | None
SqlRow: TypeAlias = dict[str, SqlValue]
"""A row of an answer: its values by their columns' names."""
Parameters: TypeAlias = Sequence[SqlValue] | Mapping[str, SqlValue]

MOST_MEMORY = 1 << 30
"""Bytes by which the process may grow while a query is answered."""
_LONGEST_VALUE = 8 << 20  # an event's data has 4 MiB at most
_LONGEST_QUERY = 1 << 20
_LONGEST_PATTERN = 250
_MOST_COLUMNS = 128
"""Of a row, which is made in one step: so many of the longest values are as much as may be taken."""
_STEPS = 50
"""Steps of SQLite's machine, a few microseconds, after which it is looked whether to stop."""
_LOOK_AT_MEMORY = 0.01
"""Seconds between two looks at how much memory is taken."""

_ASKS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
_NO_FUNCTIONS = ("load_extension", "fts3_tokenizer")
"""What runs other code, and what tells addresses of this process."""

_PRAGMAS_OF_A_NAME = {"table_info", "table_xinfo", "index_list", "index_info"}
_FUNCTIONS = ("json_each", "json_tree", *(f"pragma_{name}" for name in sorted(_PRAGMAS_OF_A_NAME)))
"""Those that give tables. SQLite declares each at its first use, which looks like a change of the schema."""
_QUADRATIC = {"instr": 2, "replace": 3, "trim": 2, "ltrim": 2, "rtrim": 2, "unhex": 2, "json_patch": 2}
"""Functions that may compare each part of one argument with each of another, in one step, by how many they
take."""
_MOST_COMPARED = 100_000_000
"""Bytes of one argument times those of the other: a quarter of a second."""
_PRAGMAS = {"user_version", "application_id", "page_count", "page_size", "freelist_count", "compile_options"}
_SAVEPOINT = "sqlite_utils_query"

_MISTAKES = {
    *(sqlite3.SQLITE_ERROR, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_TOOBIG),
    *(sqlite3.SQLITE_RANGE, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_CONSTRAINT),
}
"""Primary codes of errors that are the query's, not the database's."""
_NO_TEXT = "the query, or a value, is no text that SQLite can have"
_ONLY_READS = "a query here only reads: it is one SELECT, WITH, VALUES or EXPLAIN, and sets nothing"


def rows(
    layout: Layout, query: str, parameters: Parameters, *, seconds: float, clock: Clock, note: Note
) -> Iterator[SqlRow]:
    """Yield the answer to a query row by row, all of one position; a home without a log is an empty one.

    Args:
        layout: the home.
        query: one statement that reads.
        parameters: values for ``?`` in their order, or for ``:name`` by name.
        seconds: how long SQLite may work on it; what is done with a row meanwhile does not count.
        clock: nanoseconds since the epoch.
        note: told when another process has to be waited for.

    Raises:
        InvalidQueryError: it is no such statement, or SQLite cannot carry it out.
        QueryLimitError: it took too long, or too much memory.
    """
    ledger = Ledger(layout, clock=clock, note=note)
    ledger.tells_of_head = False  # the session has said it
    try:
        with ledger.read() as connection:
            if connection is not None:
                yield from _answer(connection, query, parameters, seconds)
                return
        with closing(_empty()) as connection:
            yield from _answer(connection, query, parameters, seconds)
    finally:
        ledger.close()


def _empty() -> sqlite3.Connection:
    from msb_cache.migrations.schema import migrations

    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrations.apply(Database(connection))
    schema.create(connection)
    return connection


def _answer(
    connection: sqlite3.Connection, query: str, parameters: Parameters, seconds: float
) -> Iterator[SqlRow]:
    guard = _Guard(seconds)
    with _guarded(connection, guard), _slow_functions_bounded(connection, query, guard):
        if "\0" in query:
            raise InvalidQueryError(_NO_TEXT)
        try:
            database = Database(connection, recursive_triggers=False, execute_plugins=False)
            with guard.working():
                found = database.query(query, parameters)  # type: ignore[arg-type]
        except UnicodeError:
            raise InvalidQueryError(_NO_TEXT) from None
        except ValueError:  # sqlite-utils says so: it gives no rows
            raise InvalidQueryError(_ONLY_READS) from None
        except (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError, OverflowError) as error:
            raise _refused(error) from None
        except sqlite3.Error as error:
            _explain(error, guard)
        while True:
            try:
                with guard.working():
                    row = next(found, None)
            except sqlite3.Error as error:
                _explain(error, guard)
            if row is None:
                return
            yield row


@contextmanager
def _guarded(connection: sqlite3.Connection, guard: _Guard) -> Iterator[None]:
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA temp_store = MEMORY")  # whose bound is looked at; of a disk's none is
    before = {
        limit: connection.setlimit(limit, most)
        for limit, most in (
            (sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE),
            (sqlite3.SQLITE_LIMIT_SQL_LENGTH, _LONGEST_QUERY),
            (sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, _LONGEST_PATTERN),
            (sqlite3.SQLITE_LIMIT_COLUMN, _MOST_COLUMNS),
            (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
        )
    }
    for function in _FUNCTIONS:
        connection.execute(f"SELECT 1 FROM {function}('[]')")  # noqa: S608
    connection.text_factory = _text
    connection.set_authorizer(_authorize)
    connection.set_progress_handler(guard, _STEPS)
    try:
        yield
    finally:
        # The transaction has yet to be ended.
        connection.set_progress_handler(None, 0)
        connection.set_authorizer(None)
        for limit, most in before.items():
            connection.setlimit(limit, most)


@contextmanager
def _slow_functions_bounded(connection: sqlite3.Connection, query: str, guard: _Guard) -> Iterator[None]:
    """Let functions of SQLite that the query names work on no more than takes a moment.

    The views keep SQLite's own, which take text of a damaged log as well.
    """
    named = {name: count for name, count in _QUADRATIC.items() if name in query.lower()}
    if not named:
        yield
        return
    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as helper:
        helper.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
        known = {*helper.execute("SELECT name, narg FROM pragma_function_list")}
        for name, count in named.items() & known:
            bounded = partial(_bounded, helper, name, guard)
            connection.create_function(name, count, bounded, deterministic=True)
        yield


def _bounded(helper: sqlite3.Connection, name: str, guard: _Guard, *values: SqlValue) -> SqlValue:
    """Return what SQLite's own function does; an error is the guard's reason, for SQLite would drop it."""
    try:
        first, second = (len(each) if isinstance(each, str | bytes) else 1 for each in values[:2])
        if first * second > _MOST_COMPARED:
            raise QueryLimitError(
                f"the query was stopped because {name}() got values of {first:,} and {second:,} bytes; "
                "give it shorter ones"
            )
        (found,) = helper.execute(f"SELECT {name}({', '.join('?' * len(values))})", values).fetchone()
    except sqlite3.Error as error:
        guard.reason = _refused(error)
        raise
    except QueryLimitError as error:
        guard.reason = error
        raise
    return found  # type: ignore[no-any-return]


def _text(stored: bytes) -> str:
    # A damaged log has text that is no UTF-8; it is shown as what it is.
    return stored.decode("utf-8", "backslashreplace")


def _authorize(
    action: int, first: str | None, second: str | None, database: str | None, trigger: str | None
) -> int:
    """Say whether a part of a statement is allowed; SQLite asks as it compiles one."""
    if action in _ASKS:
        allowed = True
    elif action == sqlite3.SQLITE_FUNCTION:
        allowed = second not in _NO_FUNCTIONS
    elif action == sqlite3.SQLITE_PRAGMA:
        allowed = first in _PRAGMAS_OF_A_NAME or (first in _PRAGMAS and second is None)
    else:
        allowed = action == sqlite3.SQLITE_SAVEPOINT and second == _SAVEPOINT
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


class _Guard:
    """Stops SQLite when a query takes too long or too much memory, or at Ctrl-C; it is asked every few µs."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._left = seconds
        self._until = 0.0
        self._look_at = 0.0
        self._most = _memory() + MOST_MEMORY
        self.reason: BaseException | None = None

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the time that the block takes."""
        began = time.monotonic()
        self._until = began + self._left
        try:
            yield
        finally:
            self._left -= time.monotonic() - began

    def __call__(self) -> int:
        """Return whether to stop, not 0; what is raised in here SQLite's module would drop."""
        try:
            self._look()
        except BaseException as error:  # Ctrl-C is raised in here too
            self.reason = error
            return 1
        return 0

    def _look(self) -> None:
        end_if_asked()
        now = time.monotonic()
        if now >= self._until:
            raise QueryLimitError(
                f"the query was stopped after {self._seconds:g} s; ask for less, or allow it more time "
                "(`--timeout`)"
            )
        if now >= self._look_at:
            self._look_at = now + _LOOK_AT_MEMORY
            if _memory() > self._most:
                raise QueryLimitError(
                    f"the query was stopped because it took more than {size(MOST_MEMORY)} of memory; ask for "
                    "less, as with LIMIT"
                )


def _memory() -> int:
    """Return the most memory that this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _explain(error: sqlite3.Error, guard: _Guard) -> NoReturn:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if guard.reason is not None or code == sqlite3.SQLITE_INTERRUPT:
        raise (guard.reason or KeyboardInterrupt()) from None
    missing = re.fullmatch(r"no such table: (?:main\.)?(\w+)", str(error))
    if code not in _MISTAKES or (missing is not None and missing[1] in _ours()):
        raise error  # the database's: what reads it says what to do
    if code in (sqlite3.SQLITE_AUTH, sqlite3.SQLITE_READONLY):
        raise InvalidQueryError(_ONLY_READS) from None
    raise _refused(error) from None


def _refused(error: Exception) -> InvalidQueryError:
    text = str(error).rstrip(".").replace(". The ", "; the ")
    more = "; `msb-cache sql` lists the views and their columns" if text.startswith("no such") else ""
    return InvalidQueryError(f"the query cannot be answered: {text}{more}")


def _ours() -> set[str]:
    return {"events", *(row_type.table for row_type in ROW_TYPES), *(view.name for view in VIEWS)}
