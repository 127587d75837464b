"""Open the home's database: create or migrate it when asked to write, and refuse what is not ours."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from msb_cache.artifacts import files
from msb_cache.artifacts.layout import Layout, check_plain_file
from msb_cache.errors import BusyError, CorruptLogError, LogError, NewerDatabaseError
from msb_cache.failpoints import reached
from msb_cache.home import descriptors, shared_memory
from msb_cache.home.wal_index import may_be_half_made, wait_for
from msb_cache.migrations import APPLICATION_ID, SCHEMA_VERSION
from msb_cache.projections import FOLD_VERSION
from msb_cache.waiting import BUSY_SECONDS, SAY_AFTER, TURN_SECONDS, Note, is_busy, patiently

if TYPE_CHECKING:
    from pathlib import Path

    from msb_cache.home.readonly import Content

_PAGES_KIB = 64 * 1024
"""What SQLite may keep of the file in memory. With its own 2 MiB a list of 100,000 images, which finds each
one where its reference stands, reads most pages many times."""

_RESTORE = "`msb-cache restore-backup` puts a backup there"

_MAKING = "making"
"""Stands in the lock of migrations while a database is made."""


def open_database(layout: Layout, note: Note) -> sqlite3.Connection:
    """Open the database to write, in autocommit mode, at this release's schema; made if there is none.

    Args:
        layout: the home.
        note: told when another process has to be waited for.

    Raises:
        NewerDatabaseError: a newer release wrote it.
        CorruptLogError: the file is damaged or is not a database of ours.
        BusyError: another process has it locked for longer than we wait.
        LogError: it cannot be opened.
    """
    from msb_cache.artifacts.durable import make_folder  # a command that reads makes none

    make_folder(layout.db)
    with translate_sqlite_errors(layout.database):
        return _opened(layout, note, create=True)


def open_to_read(layout: Layout, note: Note) -> tuple[sqlite3.Connection, Content | None] | None:
    """Open the database to read it, also where nothing can be written or another process has it locked.

    Args:
        layout: the home.
        note: told when another process has to be waited for.

    Returns:
        None when there is no database; else the connection, in autocommit mode, and what the file is if the
        connection cannot see later changes and cannot write.

    Raises:
        NewerDatabaseError, CorruptLogError, BusyError: as for ``open_database``.
        LogError: it cannot be opened, or an older release wrote it and it cannot be brought up to date.
    """
    path = layout.database
    if not is_there(path):
        return None
    with translate_sqlite_errors(path):
        full = not shared_memory.fits(path)
        if full:
            check_plain_file(path)
            _check_pair(path)
        else:
            try:
                return _opened(layout, note, create=False, seconds=SAY_AFTER), None
            except (PermissionError, sqlite3.OperationalError) as error:
                if isinstance(error, sqlite3.Error) and is_busy(error):
                    copied = _beside_its_owner(layout, note) if _has_an_owner(error) else None
                    return copied or (_opened(layout, note, create=False), None)
                from msb_cache.home import readonly

                full = isinstance(error, sqlite3.Error) and shared_memory.is_lacking(error)
                if isinstance(error, sqlite3.Error) and not full and not readonly.is_refusal(error):
                    raise
        from msb_cache.home import readonly

        connection, content = readonly.connect(path)
        try:
            if not _current(connection, path):
                why, advice = "cannot be written to by this user", "run any command as its owner"
                if full:
                    why, advice = "there is no room to bring it up to date", "make room and try again"
                raise LogError(f"{path} was left by another release of msb-cache and {why}; {advice}")
        except BaseException:
            connection.close()
            raise
    return connection, content


def open_as_it_is(layout: Layout, say: Callable[[], object]) -> sqlite3.Connection:
    """Open the database to write whatever its schema is, in autocommit mode; raises sqlite3.Error.

    Args:
        layout: the home.
        say: called once, when another process has to be waited for that begins to open it.
    """
    path = layout.database
    check_plain_file(path)
    _check_pair(path)
    if may_be_half_made(path):
        wait_for(path, say, BUSY_SECONDS)
    return _connect(path)


def locked(path: str) -> str:
    """Return what a person is told who waits for a database that another process has to itself."""
    return f"waiting for another process that has {path} locked"


def migrating(path: str) -> str:
    """Return what a person is told who waits for the lock of migrations."""
    return f"waiting for another process that migrates or restores {path}"


def _has_an_owner(error: sqlite3.Error) -> bool:
    """Return whether a connection has the database to itself, here or in another process.

    It has not where another process only reads the write-ahead log anew after a crash.
    """
    return error.sqlite_errorcode == sqlite3.SQLITE_BUSY


def _beside_its_owner(layout: Layout, note: Note) -> tuple[sqlite3.Connection, Content] | None:
    """Open a copy of a database that another process has to itself; None if it has to be waited for.

    The last process that closes a database in WAL mode has it to itself while it copies the write-ahead log
    into it, and so has the first that opens it, and one that has no room for a ``-shm``. What is committed
    stands in the file and the log all the while. It does not where a database is changed in another mode,
    and there the header says so.
    """
    from msb_cache.home import readonly

    path = layout.database
    if not readonly.in_wal_mode(path):
        return None
    try:
        connection, content = readonly.connect(path)
    except (OSError, sqlite3.Error):
        return None
    try:
        if _current(connection, path):
            note(f"another process has {path} to itself, so what is read is a copy")
            return connection, content
    except BaseException:
        connection.close()
        raise
    connection.close()
    return None


def _opened(layout: Layout, note: Note, *, create: bool, seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
    path = layout.database
    check_plain_file(path)
    say = partial(note, locked(path))

    def attempt() -> sqlite3.Connection:
        if os.path.lexists(layout.replacing):
            from msb_cache.home import replacing

            replacing.finish(layout, partial(note, migrating(path)))
        if create and not is_there(path):
            _make(layout, note)
        _check_pair(path)
        if may_be_half_made(path):
            wait_for(path, say, seconds)
        return _up_to_date(layout, note)

    return patiently(attempt, say, seconds)


def _up_to_date(layout: Layout, note: Note) -> sqlite3.Connection:
    connection = _connect(layout.database)
    try:
        if not _current(connection, layout.database):
            connection.close()
            _migrate(layout, note)
            connection = _connect(layout.database)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_pair(path: str) -> None:
    """Refuse a database beside another one's write-ahead log; as a rule there is no log."""
    if os.path.lexists(f"{path}-wal"):
        from msb_cache.home import pairing

        pairing.check(path)


def commit(connection: sqlite3.Connection) -> None:
    """Commit a transaction that wrote, so that page 1 counts it: by that the write-ahead log is known."""
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")  # as before, and page 1 is written
    connection.execute("COMMIT")


def set_journal(connection: sqlite3.Connection, mode: str) -> None:
    """Change a database's journal mode.

    Raises:
        LogError: the disk refused it. SQLite says no error then, and goes on in the mode that there was.
    """
    if connection.execute(f"PRAGMA journal_mode = {mode}").fetchone() != (mode,):
        raise LogError(
            "the log cannot be made: the disk refused a write; make sure that it has room and is sound, "
            "then try again"
        )


def is_there(path: str) -> bool:
    """Return whether there is such a file; raises OSError where that cannot be told."""
    try:
        os.stat(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return False
    return True


def is_missing(home: str) -> bool:
    """Return whether there is no such folder; what is there and is none is said by what opens it."""
    try:
        os.stat(home)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _create_empty(path: str) -> None:
    # SQLite would make the file with the umask's permissions, and its -wal and -shm like the file.
    with contextlib.suppress(FileExistsError):
        files.create(path).close()


def _connect(path: str) -> sqlite3.Connection:
    if shared_memory.fits(path):
        try:
            return _connect_as_usual(path)
        except sqlite3.OperationalError as error:
            if not shared_memory.is_lacking(error):
                raise
    try:
        return _connect_alone(path)
    except sqlite3.OperationalError as error:
        # Others that have it open as usual have made a -shm; one that has it alone is waited for.
        if not is_busy(error) or not os.path.exists(f"{path}-shm"):
            raise
    return _connect_as_usual(path)


def is_exclusive(connection: sqlite3.Connection) -> bool:
    """Return whether a connection keeps all others out, because there is no room for a ``-shm``."""
    (mode,) = connection.execute("PRAGMA locking_mode").fetchone()
    return bool(mode == "exclusive")


def _connect_alone(path: str) -> sqlite3.Connection:
    """Connect in the mode in which SQLite keeps all others out and needs no ``-shm``; waits for none."""
    from msb_cache.artifacts.durable import delete_unsynced

    connection = descriptors.connect(path, isolation_level=None, timeout=0)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN IMMEDIATE")
        # What a process that was killed has left there no other one can have open now.
        with contextlib.suppress(OSError):
            delete_unsynced(f"{path}-shm")
        connection.execute("ROLLBACK")
        return _set_up(connection)
    except BaseException:
        connection.close()
        raise


def _connect_as_usual(path: str) -> sqlite3.Connection:
    return _set_up(descriptors.connect(path, isolation_level=None, timeout=TURN_SECONDS))


def _set_up(connection: sqlite3.Connection) -> sqlite3.Connection:
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA cache_size = -{_PAGES_KIB}")
    except BaseException:
        connection.close()
        raise
    return connection


def begin_writing(
    connection: sqlite3.Connection, say: Callable[[], object] | None = None, seconds: float = BUSY_SECONDS
) -> None:
    """Begin a write transaction, waiting for that of another process.

    Args:
        connection: the database, in autocommit mode.
        say: called once, when that takes longer than a second.
        seconds: how long to wait.

    Raises:
        sqlite3.OperationalError: after so many seconds another process still writes, or it cannot be begun.
    """
    patiently(partial(connection.execute, "BEGIN IMMEDIATE"), say, seconds)


def begin_reading(connection: sqlite3.Connection, say: Callable[[], object] | None = None) -> None:
    """Begin a read of what is committed now, waiting for a process that has the database to itself.

    Args:
        connection: the database, in autocommit mode.
        say: called once, when that takes longer than a second.

    Raises:
        sqlite3.OperationalError: it cannot be begun, or that process is not done in time.
    """

    def attempt() -> None:
        connection.execute("BEGIN")
        try:
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()  # BEGIN alone locks nothing
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    patiently(attempt, say)


def in_words(error: sqlite3.Error) -> str:
    """Return what SQLite says, and what to do where it is the disk that fails."""
    advice = {
        sqlite3.SQLITE_FULL: "; make room and try again",
        sqlite3.SQLITE_IOERR: "; make sure that the disk has room and is sound, then try again",
        sqlite3.SQLITE_READONLY: "; make sure that you may write there",
    }
    return f"{error}{advice.get(_primary_code(error), '')}"


def check_complete(path: str | Path, error: sqlite3.Error) -> None:
    """Refuse a database if SQLite failed because a table or column is not there."""
    if str(error).startswith(("no such table", "no such column")):
        raise CorruptLogError(
            f"{path} is not whole: {error}; `msb-cache verify` says what is wrong, "
            "`msb-cache rebuild` mends it"
        ) from None


def _primary_code(error: sqlite3.Error) -> int:
    # Errors of the module itself, such as the use of a closed connection, have none.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def schema_version(connection: sqlite3.Connection, path: str | Path) -> int:
    """Return a database's schema version.

    Raises:
        NewerDatabaseError: a newer release wrote it.
        CorruptLogError: it is not a database of ours.
    """
    # One statement, so that another process's migration cannot come between the three numbers.
    version, application, tables = connection.execute(
        "SELECT user_version, application_id, (SELECT count(*) FROM sqlite_master) "
        "FROM pragma_user_version, pragma_application_id"
    ).fetchone()
    if application != APPLICATION_ID and (version or application or tables):
        raise CorruptLogError(f"{path} is an SQLite database, but not one of msb-cache")
    if version > SCHEMA_VERSION:
        raise NewerDatabaseError(
            f"{path} was written by a newer msb-cache (schema {version}, this one knows "
            f"{SCHEMA_VERSION}); upgrade msb-cache to use it"
        )
    return int(version)


def _current(connection: sqlite3.Connection, path: str) -> bool:
    """Whether the schema is this release's, and the projections are its fold of the whole log."""
    if schema_version(connection, path) < SCHEMA_VERSION:
        return False
    # One statement, so that another process's commit cannot come between the two numbers.
    head, version, seq = connection.execute(
        "SELECT (SELECT coalesce(max(seq), 0) FROM events), "
        "(SELECT fold_version FROM projection_state), (SELECT seq FROM projection_state)"
    ).fetchone()
    check_end(path, head, seq)
    return bool((version, seq) == (FOLD_VERSION, head))


def check_end(path: str, head: int, position: int | None) -> None:
    """Refuse a log that ends before the position up to which it was folded; None: it was not."""
    if position is not None and position > head:
        raise CorruptLogError(
            f"the log in {path} ends at event {head}, but had {position}: its end is gone; {_RESTORE}"
        )


def _make(layout: Layout, note: Note) -> None:
    from msb_cache.artifacts import durable  # a command that reads takes no locks
    from msb_cache.artifacts.locks import Lock

    with Lock(layout.migrate_lock) as lock:
        say = partial(note, f"waiting for another process that makes {layout.database}")
        lock.acquire(wait=None, say=say)
        if not is_there(layout.database):
            _set_strays_aside(layout)
            lock.write(_MAKING)
            files.sync(layout.migrate_lock)
            durable.sync_above(layout.db, layout.db)
            reached("database.making")
            _create_empty(layout.database)
            reached("database.created")
            _bring_up(layout)
            reached("database.made")
            lock.write("")


def _set_strays_aside(layout: Layout) -> None:
    from msb_cache import diagnostics
    from msb_cache.eventstore.ids import uuid7
    from msb_cache.home import replacing

    folder = replacing.set_strays_aside(layout, uuid7())
    if folder is not None:
        diagnostics.warning("database.strays_moved", folder=str(folder))


def _migrate(layout: Layout, note: Note) -> None:
    from msb_cache.artifacts.locks import Lock

    path = layout.database
    with Lock(layout.migrate_lock) as lock:
        say = partial(note, migrating(path))
        lock.acquire(wait=None, say=say)
        # The process that makes a database holds this lock meanwhile; killed, it leaves word in the file.
        # Any other empty file was cut off; beside images that is not made up for in silence.
        made = layout.migrate_lock.read_text(errors="replace") == _MAKING
        if not made and os.stat(layout.database).st_size == 0 and any(layout.files()):
            raise CorruptLogError(
                f"{layout.database} is empty, and there are images in {layout.cache}: {_RESTORE}; to begin a "
                "new log, move all that begins with msb-cache.db away together"
            )
        _bring_up(layout)
        if made:
            lock.write("")


def _bring_up(layout: Layout) -> None:
    connection = _connect(layout.database)
    try:
        if _current(connection, layout.database):
            return  # another process was first
        version = schema_version(connection, layout.database)
        if version < SCHEMA_VERSION:
            from msb_cache.migrations.schema import migrations, recorded

            if recorded(connection) != version:
                raise CorruptLogError(
                    f"{layout.database} says that its schema is {version}, and it has another, so it was "
                    "changed by other means; `msb-cache verify` says what is wrong, and `msb-cache rebuild` "
                    "mends it"
                )
            # First of all, so that a database with tables but without it is another program's.
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            set_journal(connection, "wal")
            reached("migrate.begun")
            from sqlite_utils import Database

            migrations.apply(Database(connection))
            reached("migrate.applied")
        _fill_projections(connection)
    finally:
        connection.close()


def _fill_projections(connection: sqlite3.Connection) -> None:
    from msb_cache.eventstore.store import EventStore
    from msb_cache.projections import live

    connection.execute("BEGIN IMMEDIATE")
    live.fill(connection, EventStore(connection))
    reached("migrate.folded")
    commit(connection)
    reached("migrate.committed")


@contextlib.contextmanager
def translate_sqlite_errors(path: str) -> Iterator[None]:
    """Raise what SQLite says of a database as errors of ours: LogError, and CorruptLogError for damage."""
    try:
        yield
    except UnicodeDecodeError:
        raise CorruptLogError(f"{path} is damaged: its schema is no text; {_RESTORE}") from None
    except sqlite3.DatabaseError as error:
        check_complete(path, error)
        if is_busy(error):
            raise BusyError(
                f"another process keeps {path} locked; `fuser -v {path}` names it: end it or let it go on"
            ) from None
        if isinstance(error, sqlite3.OperationalError) and "malformed" not in str(error):
            raise LogError(f"cannot open {path}: {in_words(error)}") from None
        raise CorruptLogError(f"{path} is damaged or is no SQLite database: {error}; {_RESTORE}") from None
