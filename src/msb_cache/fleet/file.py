"""A fleet in a file: the tables of a fleet's server in an SQLite database, for a laptop or a CI job.

One user's, mode 0600, with a rollback journal: so it is one file, which can be copied, and a process that is
killed leaves what was there before. What is in it came through ``take``.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from msb_cache import ownership
from msb_cache.errors import BusyError, FleetError, InvalidConfigError
from msb_cache.fleet import schema
from msb_cache.fleet.place import SCHEMA, FileReading
from msb_cache.home import descriptors
from msb_cache.projections import FOLD_VERSION
from msb_cache.waiting import BUSY_SECONDS, is_busy

if TYPE_CHECKING:
    from msb_cache.fleet.writing import Writing

APPLICATION_ID = 0x4D534246
"""``PRAGMA application_id`` ("MSBF"): tells a fleet from any other SQLite file."""

APPLICATION_ID_AT = 68
"""Where it is in the header of a database, in 4 bytes, the most significant first."""

_OF_LOGS = ("head", "fold_state")
"""The tables with a row for each log, of which every answer has something."""
_JOURNALS = slice(18, 20)  # there: which kind of journal is written, and read; 1 and 1 are rollback journals
_STEPS_OF_PEEK = 1_000_000  # of SQLite's machine: some tens of milliseconds
_STORED = {"text": "text", "bigint": "integer", "bytea": "blob"}


class FleetFile:
    """A file that has whole logs of a fleet.

    Args:
        path: where it is.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = path

    @contextmanager
    def read(self) -> Iterator[FileReading]:
        """Begin a read of one moment. What another release has folded is folded anew before.

        Raises:
            InvalidConfigError: there is none, or something else is there, or a newer release wrote it.
            BusyError: another process has it locked.
            FleetError: it cannot be asked.
        """
        with self._opened() as connection:
            connection.execute("BEGIN")
            if not self._is_current(connection):
                connection.execute("ROLLBACK")
                connection.execute("BEGIN IMMEDIATE")
                self._prepare(connection)
                connection.execute("COMMIT")
                connection.execute("BEGIN")
            connection.execute("PRAGMA query_only = ON")
            yield FileReading(connection)

    @contextmanager
    def peek(self) -> Iterator[FileReading]:
        """Begin a read of what is there, without a wait and a trace: for what a person types meanwhile.

        What takes too long, or was folded by another release, is an error as for ``read``.
        """
        self._check()
        header = descriptors.beginning(self.path, APPLICATION_ID_AT + 4)
        if header[_JOURNALS] != b"\1\1" or header[APPLICATION_ID_AT:] != APPLICATION_ID.to_bytes(4, "big"):
            raise self._foreign()  # SQLite makes files beside one that has a write-ahead log
        with self._opened("ro", seconds=0) as connection:
            connection.execute("PRAGMA query_only = ON")
            connection.set_progress_handler(lambda: 1, _STEPS_OF_PEEK)
            yield FileReading(connection)

    @contextmanager
    def write(self, *, make: bool = False) -> Iterator[sqlite3.Connection]:
        """Give a connection in one transaction, which is on the disk when the block has ended.

        If the block fails, nothing is.

        Args:
            make: make a file that is not there.

        Raises:
            InvalidConfigError, BusyError, FleetError: as for ``read``.
        """
        if make:
            self._make()
        with self._opened() as connection:
            connection.execute("BEGIN IMMEDIATE")
            self._prepare(connection, make=make)
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def _opened(self, mode: str = "rw", seconds: float = BUSY_SECONDS) -> Iterator[sqlite3.Connection]:
        self._check()
        try:
            opened = descriptors.connect(":memory:", uri=True, isolation_level=None, timeout=seconds)
            with closing(opened) as connection:
                connection.execute("PRAGMA trusted_schema = OFF")
                # With less than that a power loss may bring the journal back, and with it what was before.
                connection.execute(
                    f"ATTACH ? AS {SCHEMA}", (f"{Path(self.path).absolute().as_uri()}?mode={mode}",)
                )
                connection.execute(f"PRAGMA {SCHEMA}.synchronous = EXTRA")
                yield connection
        except sqlite3.Error as error:
            if is_busy(error):
                raise BusyError(f"another process has {self.path} locked; try again") from None
            raise FleetError(f"the fleet in {self.path} cannot be asked: {error}") from None
        except (TypeError, ValueError, AttributeError) as error:
            # SQLite lets a column hold anything, and this file may be anyone's.
            raise FleetError(
                f"the fleet in {self.path} holds what msb-cache does not write there ({error}); "
                "delete it, and `take` the exports again"
            ) from error

    def _check(self) -> None:
        try:
            magic = descriptors.beginning(self.path, 16)
        except FileNotFoundError:
            raise self._missing() from None
        except OSError as error:
            raise InvalidConfigError(
                f"the fleet {self.path} cannot be read: {error.strerror or error}"
            ) from None
        if magic and magic != b"SQLite format 3\0":
            raise self._foreign()

    def _missing(self) -> InvalidConfigError:
        return InvalidConfigError(
            f"there is no fleet at {self.path}; `msb-cache fleet --db FILE take EXPORT` makes one"
        )

    def _foreign(self) -> InvalidConfigError:
        return InvalidConfigError(f"{self.path} is no fleet of msb-cache; give --db another path")

    def _is_current(self, connection: sqlite3.Connection) -> bool:
        """Whether it can be asked as it is.

        Raises:
            InvalidConfigError: it is no fleet, or of a newer release.
        """
        (application,) = connection.execute(f"PRAGMA {SCHEMA}.application_id").fetchone()
        (version,) = connection.execute(f"PRAGMA {SCHEMA}.user_version").fetchone()
        (count,) = connection.execute(f"SELECT count(*) FROM {SCHEMA}.sqlite_master").fetchone()
        if (application, version, count) == (0, 0, 0):
            raise self._missing()  # its first `take` was killed
        if application != APPLICATION_ID:
            raise self._foreign()
        if version > schema.VERSION:
            raise InvalidConfigError(
                f"{self.path} was written by a newer msb-cache (schema {version}, this one knows "
                f"{schema.VERSION}); upgrade msb-cache to use it"
            )
        found = connection.execute(f"SELECT fold_version FROM {SCHEMA}.fleet").fetchall()
        if found != [(FOLD_VERSION,)]:
            return False
        if _schema_of(connection) != _ours():
            raise InvalidConfigError(
                f"{self.path} is no fleet of msb-cache any more: it has other tables; delete it, "
                "and `take` the exports again"
            )
        for table in _OF_LOGS:
            if connection.execute(_misfits(table)).fetchone() is not None:
                raise FleetError(
                    f"the fleet in {self.path} is damaged: its table {table} holds what msb-cache does not "
                    "write there; delete it, and `take` the exports again"
                )
        return True

    def _prepare(self, connection: sqlite3.Connection, *, make: bool = False) -> None:
        """Make what is missing, and fold anew what another release has folded, within a transaction."""
        (application,) = connection.execute(f"PRAGMA {SCHEMA}.application_id").fetchone()
        (count,) = connection.execute(f"SELECT count(*) FROM {SCHEMA}.sqlite_master").fetchone()
        if make and (application, count) == (0, 0):
            _make_tables(connection)
            return
        if not self._is_current(connection):
            _fold_anew(connection)

    def _make(self) -> None:
        try:
            os.close(ownership.open_file(self.path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return
        except OSError as error:
            said = error.strerror or error
            raise InvalidConfigError(f"no fleet can be made at {self.path}: {said}") from None


class Within:
    """A place that is written to within a transaction that has begun already.

    Args:
        connection: in that transaction.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @contextmanager
    def transaction(self) -> Iterator[Writing]:
        """Begin a transaction, which is kept when the one around it is."""
        from msb_cache.fleet.writing import FileWriting

        self._connection.execute("SAVEPOINT within")
        try:
            yield FileWriting(self._connection)
        except BaseException:
            self._connection.execute("ROLLBACK TO within")
            raise
        finally:
            self._connection.execute("RELEASE within")


def _fold_anew(connection: sqlite3.Connection) -> None:
    """Make the read models of this release, and fold every log into them, within a transaction."""
    from msb_cache.fleet import fold
    from msb_cache.fleet.writing import FileWriting

    for statement in (*schema.dropped(), *schema.read_models(postgres=False)):
        connection.execute(statement)
    connection.execute(f"UPDATE {SCHEMA}.fleet SET fold_version = ?", (FOLD_VERSION,))
    for (log_id,) in connection.execute(f"SELECT log_id FROM {SCHEMA}.fold_state").fetchall():
        fold.forget(FileWriting(connection), log_id)
        fold.fold_log(Within(connection), log_id)


def _make_tables(connection: sqlite3.Connection) -> None:
    for statement in (*schema.tables(postgres=False), *schema.read_models(postgres=False)):
        connection.execute(statement)
    connection.execute(f"INSERT INTO {SCHEMA}.fleet VALUES (1, ?, ?)", (schema.VERSION, FOLD_VERSION))
    connection.execute(f"PRAGMA {SCHEMA}.application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA {SCHEMA}.user_version = {schema.VERSION}")


@cache
def _misfits(table: str) -> str:
    """Return the question for a row with a value of another type than its column's, which SQLite takes."""
    wrong = []
    for column in schema.TABLES[table].split(", "):
        name, declared, *_ = column.split()
        if declared in _STORED:
            wrong.append(f"typeof({name}) NOT IN ('{_STORED[declared]}', 'null')")
    return f"SELECT 1 FROM {SCHEMA}.{table} WHERE {' OR '.join(wrong)} LIMIT 1"


@cache
def _ours() -> frozenset[str]:
    """Return what the tables of a fleet are, as SQLite says it."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(f"ATTACH ':memory:' AS {SCHEMA}")
        _make_tables(connection)
        return _schema_of(connection)


def _schema_of(connection: sqlite3.Connection) -> frozenset[str]:
    found = connection.execute(f"SELECT sql FROM {SCHEMA}.sqlite_master WHERE sql IS NOT NULL")
    return frozenset(sql for (sql,) in found)
