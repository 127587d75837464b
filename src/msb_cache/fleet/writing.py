"""Writing into a fleet's place, and what of that differs between PostgreSQL and a file.

Who folds has many rows at a time and takes a log for itself while it does. Both are a server's and a file's
own; everything else is asked in the words of ``place``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from msb_cache.errors import InvalidConfigError
from msb_cache.fleet.connect import Postgres, PostgresReading, connected, placed, told
from msb_cache.fleet.place import SCHEMA, FileReading, Place, Reading, Values, marks

if TYPE_CHECKING:
    import psycopg


class UnkeepableError(Exception):
    """A row that the place cannot keep, as a part of a sentence; what was written with it is to be undone."""


class Writing(Reading, Protocol):
    """One transaction of a place: all of it is kept when its block ends, and nothing where that fails.

    Attributes:
        bytes_of: the SQL function that tells how many bytes a text has, or nearly so, without reading it.
    """

    bytes_of: str

    def run(self, sql: str, arguments: Sequence[Any] = ()) -> None:
        """Change something."""
        ...

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Values]) -> None:
        """Put many rows into a table.

        Raises:
            UnkeepableError: one of them cannot be kept.
        """
        ...

    def delete(self, table: str, key: Sequence[str], log_id: str, keys: Sequence[Values]) -> None:
        """Take the rows of a log with these keys out, those of them that are there."""
        ...

    def locked(self, sql: str, arguments: Sequence[Any], of: str, *, wait: bool = False) -> list[Values]:
        """Ask for rows and keep others from changing them until the transaction ends.

        Args:
            sql: the question.
            arguments: its arguments.
            of: the name, in it, of the table whose rows are meant.
            wait: until those have let go who have them; else rows that others have are left out.
        """
        ...


class Writable(Protocol):
    """A place that is written to, one transaction after another."""

    def transaction(self) -> AbstractContextManager[Writing]:
        """Begin a transaction.

        Raises:
            UnkeepableError: at its end, or within, what was written cannot be kept.
            FleetError: the place cannot be asked.
        """
        ...


@runtime_checkable
class WritableFile(Protocol):
    """A file that has whole logs of a fleet."""

    def write(self) -> AbstractContextManager[sqlite3.Connection]:
        """Give a connection in one transaction, with the file attached under the schema's name."""
        ...


@contextmanager
def writable(place: Place) -> Iterator[Writable]:
    """Open a place to write to it; of a server, one connection stays open for the block.

    Raises:
        FleetError: it cannot be connected to.
    """
    if isinstance(place, Postgres):
        with connected(place.dsn, what=place.what) as connection:
            yield _ToServer(connection, place.what)
    elif isinstance(place, WritableFile):
        yield _ToFile(place)
    else:
        raise InvalidConfigError(f"{place.name} cannot be written to")


class _ToServer:
    def __init__(self, connection: psycopg.Connection[Values], what: str) -> None:
        self._connection = connection
        self._what = what

    @contextmanager
    def transaction(self) -> Iterator[Writing]:
        """Begin a transaction."""
        import psycopg

        with told(self._what):
            try:
                with self._connection.transaction():
                    yield ServerWriting(self._connection)
            except psycopg.Error as error:
                if not _is_of_a_row(error):
                    raise
                said = " ".join((error.diag.message_primary or str(error)).split())
                raise UnkeepableError(f"PostgreSQL cannot keep it: {said}") from None


def _is_of_a_row(error: psycopg.Error) -> bool:
    import psycopg

    # Class 54 has limits, such as that of what an index can hold of one row.
    limited = (error.sqlstate or "").startswith("54")
    return limited or isinstance(error, psycopg.DataError | psycopg.IntegrityError)


class ServerWriting(PostgresReading):
    """One transaction of a server."""

    bytes_of = "octet_length"

    def run(self, sql: str, arguments: Sequence[Any] = ()) -> None:
        """Change something."""
        self._connection.execute(placed(sql), arguments)

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Values]) -> None:
        """Put many rows into a table."""
        statement = f"COPY {SCHEMA}.{table} ({', '.join(columns)}) FROM STDIN"
        with self._connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            for row in rows:
                copy.write_row(row)

    def delete(self, table: str, key: Sequence[str], log_id: str, keys: Sequence[Values]) -> None:
        """Take the rows of a log with these keys out, those of them that are there."""
        if not keys:
            return
        kinds = ["bigint" if isinstance(value, int) else "text" for value in keys[0]]
        listed = ", ".join(f"?::{kind}[]" for kind in kinds)
        same = " AND ".join(f"t.{name} = gone.{name}" for name in key)
        self.run(
            f"DELETE FROM {SCHEMA}.{table} t USING unnest({listed}) AS gone ({', '.join(key)}) "
            f"WHERE t.log_id = ? AND {same}",
            [*map(list, zip(*keys, strict=True)), log_id],
        )

    def locked(self, sql: str, arguments: Sequence[Any], of: str, *, wait: bool = False) -> list[Values]:
        """Ask for rows and keep others from changing them until the transaction ends."""
        return self.rows(f"{sql} FOR UPDATE OF {of}{'' if wait else ' SKIP LOCKED'}", arguments)


class _ToFile:
    def __init__(self, file: WritableFile) -> None:
        self._file = file

    @contextmanager
    def transaction(self) -> Iterator[Writing]:
        """Begin a transaction."""
        with self._file.write() as connection:
            yield FileWriting(connection)


class FileWriting(FileReading):
    """One transaction of a file, which nobody else writes to while it lasts.

    Args:
        connection: in a transaction, the file attached under the schema's name.
    """

    bytes_of = "length"

    def run(self, sql: str, arguments: Sequence[Any] = ()) -> None:
        """Change something."""
        self._connection.execute(sql, arguments)

    def insert(self, table: str, columns: Sequence[str], rows: Sequence[Values]) -> None:
        """Put many rows into a table."""
        statement = f"INSERT INTO {SCHEMA}.{table} ({', '.join(columns)}) VALUES ({marks(columns)})"
        self._many(statement, rows)

    def delete(self, table: str, key: Sequence[str], log_id: str, keys: Sequence[Values]) -> None:
        """Take the rows of a log with these keys out, those of them that are there."""
        where = " AND ".join(f"{name} = ?" for name in key)
        statement = f"DELETE FROM {SCHEMA}.{table} WHERE log_id = ? AND {where}"
        self._many(statement, ((log_id, *each) for each in keys))

    def locked(self, sql: str, arguments: Sequence[Any], of: str, *, wait: bool = False) -> list[Values]:
        """Ask for rows; nobody else writes."""
        return self.rows(sql, arguments)

    def _many(self, statement: str, rows: Iterable[Values]) -> None:
        try:
            self._connection.executemany(statement, rows)
        except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError) as error:
            raise UnkeepableError(f"the file cannot keep it: {error}") from None
