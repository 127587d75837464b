"""Compare a database's schema with the one that migrations and projections make, and make it so again.

Triggers keep the log append-only and indexes answer queries, but a database is a file of its owner, in which
anything can be taken out or put in. What it must be is never read from it: it is made in memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal, NamedTuple

from sqlite_utils import Database

from msb_cache.artifacts.layout import Layout
from msb_cache.artifacts.locks import Lock
from msb_cache.errors import CorruptLogError
from msb_cache.eventstore.store import EventStore
from msb_cache.failpoints import reached
from msb_cache.home.connect import (
    check_end,
    commit,
    is_there,
    locked,
    migrating,
    open_as_it_is,
    schema_version,
    set_journal,
    translate_sqlite_errors,
)
from msb_cache.migrations import SCHEMA_VERSION
from msb_cache.migrations.schema import migrations, names, recorded
from msb_cache.projections import live, schema
from msb_cache.projections.rows import ROW_TYPES
from msb_cache.shapes import Result
from msb_cache.waiting import Note, patiently

LOG = "events"
"""The log's table, the only one that nothing can make anew."""

FOLDED = frozenset({"projection_state", *(row_type.table for row_type in ROW_TYPES)})
"""The tables that are folded from the log."""

_SIGNED = "signed_checkpoint"
"""The table of what others can know of the log by signatures."""

_RECORDS = migrations.migrations_table
_THEIRS = (("table", _RECORDS), ("index", f"idx_{_RECORDS}_migration_set_name"))
_DROPPED = ("trigger", "view", "index", "table")  # what of a schema is dropped first, what last

Remedy = Literal["rebuild", "import", "drop"]


@dataclass(frozen=True)
class SchemaProblem(Result):
    """One thing about the schema that is not as this release makes it.

    ``problem`` is ``missing``, ``changed`` or ``extra``. ``kind`` is ``table``, ``index``, ``trigger``,
    ``view``, ``migration`` (the record that one was applied) or ``setting`` (``user_version`` or
    ``journal_mode``).
    ``expected`` and ``found`` are its SQL text or value; None: there is none. ``remedy`` is ``rebuild`` where
    that mends it; ``import`` where the log's own table is another: an export of the log makes a good one in
    another home; and ``drop`` for what is not msb-cache's, which its owner can take out.
    """

    problem: str
    kind: str
    name: str
    expected: str | None
    found: str | None
    remedy: Remedy = "rebuild"


class _Part(NamedTuple):
    """What ``sqlite_master`` says of a table, index, trigger or view."""

    table: str
    sql: str


_Parts = dict[tuple[str, str], _Part]


def problems(connection: sqlite3.Connection) -> list[SchemaProblem]:
    """Return everything about a database's schema that is not as this release makes it; in a transaction."""
    return [*_differing(connection), *_unrecorded(connection), *_settings(connection)]


def mend(layout: Layout, note: Note) -> list[SchemaProblem]:
    """Make the schema what it must be, in one transaction, whatever it is now; return what was mended.

    The index is folded anew if a table of it has to be made. The log's rows are not touched, and what is not
    msb-cache's stays.

    Args:
        layout: the home.
        note: told when another process has to be waited for.

    Raises:
        CorruptLogError: the log's own table is another, or the log's end is gone.
        NewerDatabaseError: a newer release wrote the database.
    """
    path = layout.database
    if not is_there(path):
        return []
    with translate_sqlite_errors(path), Lock(layout.migrate_lock) as lock:
        lock.acquire(wait=None, say=partial(note, migrating(path)))
        say = partial(note, locked(path))
        mended: list[SchemaProblem] = []
        patiently(partial(_mend, layout, mended, say), say)
        return mended


def _mend(layout: Layout, mended: list[SchemaProblem], say: Callable[[], object]) -> None:
    path = layout.database
    with closing(open_as_it_is(layout, say)) as connection:
        version = schema_version(connection, path)
        if version < SCHEMA_VERSION and recorded(connection) == version:
            return  # an older release left it so, and opening it brings it up to date
        connection.execute("BEGIN IMMEDIATE")
        found = [problem for problem in problems(connection) if problem.remedy != "drop"]
        if found:
            _check_log(connection, path, found)
            _make(connection, found)
            reached("rebuild.schema")
            commit(connection)
            mended += found
            set_journal(connection, "wal")


def _check_log(connection: sqlite3.Connection, path: str, found: list[SchemaProblem]) -> None:
    if any(problem.remedy == "import" for problem in found):
        raise CorruptLogError(
            f"the log's table {LOG} in {path} is not the one that msb-cache makes, and nothing can make that "
            "anew; restore the database from a backup, or `msb-cache export` the log and import it into "
            "another --home"
        )
    (head,) = connection.execute(f"SELECT coalesce(max(seq), 0) FROM {LOG}").fetchone()  # noqa: S608
    with suppress(sqlite3.OperationalError):  # its table may be what is missing
        check_end(path, head, live.position(connection)[1])


def _make(connection: sqlite3.Connection, found: list[SchemaProblem]) -> None:
    kinds = {problem.kind for problem in found}
    kept = any(problem.name == _SIGNED and problem.found is not None for problem in found)
    if kept:
        kept = _set_aside(connection)
    for kind in _DROPPED:
        for problem in found:
            if problem.kind == kind and problem.found is not None:
                name = problem.name.replace('"', '""')
                connection.execute(f'DROP {kind} IF EXISTS "{name}"')
    if "migration" in kinds:
        connection.execute(f"DROP TABLE IF EXISTS {_RECORDS}")
    _create_missing(connection, "table")
    if kept:
        connection.execute(f"INSERT OR IGNORE INTO {_SIGNED} SELECT * FROM temp.kept")  # noqa: S608
        connection.execute("DROP TABLE temp.kept")
    if "migration" in kinds:
        connection.executemany(
            f"INSERT INTO {_RECORDS} (migration_set, name, applied_at) VALUES (?, ?, datetime('now'))",  # noqa: S608
            [(migrations.name, name) for name in names()],
        )
    if any(problem.kind == "table" and problem.name in FOLDED for problem in found):
        live.fill(connection, EventStore(connection))
    for kind in ("index", "trigger", "view"):
        _create_missing(connection, kind)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _set_aside(connection: sqlite3.Connection) -> bool:
    """Copy what was signed, which nothing can make anew, from a table that goes; return whether that went."""
    with suppress(sqlite3.OperationalError):  # it may have other columns
        connection.execute(
            f"CREATE TEMP TABLE kept AS SELECT origin, size, note, signed_at FROM {_SIGNED} "  # noqa: S608
            "WHERE typeof(size) = 'integer' AND typeof(signed_at) = 'integer'"
        )
        return True
    return False


def _create_missing(connection: sqlite3.Connection, kind: str) -> None:
    there = _parts(connection)
    for place, part in _reference().items():
        if place[0] == kind and place not in there:
            connection.execute(part.sql)


def _differing(connection: sqlite3.Connection) -> Iterator[SchemaProblem]:
    wanted, there = _reference(), _parts(connection)
    ours = {name for _, name in wanted}
    for kind, name in dict.fromkeys((*wanted, *there)):
        expected, found = wanted.get((kind, name)), there.get((kind, name))
        if (kind, name) in _THEIRS or _same(expected, found):
            continue  # how migrations are recorded is sqlite-utils' affair, and what, is looked at by itself
        remedy: Remedy = "rebuild"
        if found is None or expected is not None:
            remedy = "import" if (kind, name) == ("table", LOG) else "rebuild"
        elif not {name, found.table} & ours:
            remedy = "drop"
        yield SchemaProblem(
            "missing" if found is None else "extra" if expected is None else "changed",
            kind,
            name,
            expected and expected.sql,
            found and found.sql,
            remedy,
        )


def _same(expected: _Part | None, found: _Part | None) -> bool:
    # Releases of SQLite differ in the spaces with which they add a column; our texts have no comments.
    return (
        expected is not None
        and found is not None
        and expected.table == found.table
        and expected.sql.split() == found.sql.split()
    )


def _unrecorded(connection: sqlite3.Connection) -> Iterator[SchemaProblem]:
    try:
        found = connection.execute(
            f"SELECT name FROM {_RECORDS} WHERE migration_set = ?",  # noqa: S608
            (migrations.name,),
        ).fetchall()
    except sqlite3.OperationalError:  # it is not there, or another table is
        found = []
    applied = [str(name) for (name,) in found]
    for name in names():
        if name not in applied:
            yield SchemaProblem("missing", "migration", name, name, None)
    for name in applied:
        if name not in names():
            yield SchemaProblem("extra", "migration", name, None, name)


def _settings(connection: sqlite3.Connection) -> Iterator[SchemaProblem]:
    for name, expected in (("user_version", SCHEMA_VERSION), ("journal_mode", "wal")):
        (found,) = connection.execute(f"PRAGMA {name}").fetchone()
        if found != expected:
            yield SchemaProblem("changed", "setting", name, str(expected), str(found))


@cache
def _reference() -> _Parts:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrations.apply(Database(connection))
        schema.create(connection)
        return _parts(connection)


def _parts(connection: sqlite3.Connection) -> _Parts:
    """Return all that makes a schema but what SQLite makes of itself: the indexes of keys, and statistics."""
    found = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master")
    return {
        (kind, name): _Part(table, sql)
        for kind, name, table, sql in found
        if sql is not None and not (kind == "table" and name in ("sqlite_stat1", "sqlite_stat4"))
    }
