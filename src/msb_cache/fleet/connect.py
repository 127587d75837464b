"""Connections to a fleet's PostgreSQL servers: short ones, with what is said of errors free of secrets.

A DSN is what libpq takes: ``postgresql://…``, ``host=… dbname=…`` or ``service=…``; what is not in it comes
from libpq's environment, password file and service file. Nothing is prepared on a server and no state of a
session is left there, so a pooler may give each transaction another connection.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

from msb_cache.errors import FleetError, InvalidConfigError
from msb_cache.extras import require
from msb_cache.fleet.place import Reading, Values

if TYPE_CHECKING:
    import psycopg

CONNECT_SECONDS = 10
NO_FLEET = "the database has no fleet's tables; make them with `msb-cache fleet init`"
"""What is said of a database that nothing was made in."""

SECRETS = frozenset(
    {"password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret"}
)
"""The parts of a DSN by which somebody is let in, and which nobody else may see."""

_PAGE = 2000
_MOST_ARGUMENTS = 65_535  # of a statement, in PostgreSQL's protocol
_CONNECT_SECONDS_OF_PEEK = 2  # less than that libpq does not know
_PEEK_MS = 1000  # for each statement
# For questions of milliseconds: to compile what reads the partitions would take longer than to read them.
_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL jit = off"


def check(dsn: str) -> None:
    """Refuse a text that is no DSN.

    Raises:
        InvalidConfigError: it is none; the text itself is not quoted, as it can have a password.
        UnsupportedError: the extra is not installed.
    """
    require("fleet", "a fleet", "psycopg")
    import psycopg

    try:
        said = psycopg.conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        raise InvalidConfigError(
            "the DSN cannot be read; write postgresql://user@host:port/database, or as libpq's key=value"
        ) from None
    parts = (
        str(said.get(name, "")).lstrip("@") for name in ("host", "port", "dbname")
    )  # a socket may begin so
    if "://" in dsn and any("@" in part for part in parts):  # a part of the password, and errors quote these
        raise InvalidConfigError(
            "the DSN has more in it than a host, a port and a database: in a password write @ as %40, / as "
            "%2F and % as %25, or leave it to libpq's password file"
        )


@contextmanager
def connected(dsn: str, *, what: str = "the fleet") -> Iterator[psycopg.Connection[Values]]:
    """Connect for a ``with`` block, in autocommit; transactions are begun by ``connection.transaction()``.

    Args:
        dsn: whereto.
        what: how the sentence of an error names it.

    Raises:
        FleetError: it cannot be connected to; ``temporary`` says whether that may pass by itself.
        InvalidConfigError, UnsupportedError: as ``check``.
    """
    connection = _connect(dsn, what)
    try:
        yield connection
    finally:
        connection.close()


def _connect(dsn: str, what: str) -> psycopg.Connection[Values]:
    check(dsn)
    import psycopg

    try:
        return psycopg.connect(
            psycopg.conninfo.make_conninfo(dsn, **unless_said(dsn, connect_timeout=CONNECT_SECONDS)),
            autocommit=True,
            prepare_threshold=None,
            **unless_said(dsn, application_name="msb-cache"),
        )
    except psycopg.Error as error:
        raise _refused(error, what) from None
    except UnicodeError:  # of what makes a host's name one of the DNS
        raise InvalidConfigError("the DSN names a host that can be none; write its name or address") from None


class Kept:
    """Connections that reads leave open for the next ones; threads may share it. Until it is closed."""

    def __init__(self) -> None:
        self._idle: dict[str, list[psycopg.Connection[Values]]] = {}
        self._lock = threading.Lock()
        self._closed = False

    def take(self, dsn: str) -> psycopg.Connection[Values] | None:
        """Return an idle connection, which is the caller's then; None: there is none."""
        with self._lock:
            idle = self._idle.get(dsn)
            return idle.pop() if idle else None

    def give(self, dsn: str, connection: psycopg.Connection[Values]) -> None:
        """Keep a connection that no transaction is open on."""
        with self._lock:
            if not self._closed and not connection.closed:
                self._idle.setdefault(dsn, []).append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Close all that are idle, and the others as they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, {}
        for connection in chain.from_iterable(idle.values()):
            connection.close()


@contextmanager
def told(what: str = "the fleet") -> Iterator[None]:
    """Turn errors of PostgreSQL within the block into one sentence; raises FleetError for them."""
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        raise _refused(error, what) from None


class PostgresReading:
    """One moment of a server: a transaction that only reads."""

    def __init__(self, connection: psycopg.Connection[Values]) -> None:
        self._connection = connection

    def rows(self, sql: str, arguments: Sequence[Any] = ()) -> list[Values]:
        """Return all rows of a question."""
        if len(arguments) > _MOST_ARGUMENTS:  # a role can have so many logs; then they stand in the text
            import psycopg

            with psycopg.ClientCursor(self._connection) as cursor:
                return cursor.execute(placed(sql), arguments).fetchall()
        return self._connection.execute(placed(sql), arguments).fetchall()

    def stream(self, sql: str, arguments: Sequence[Any] = ()) -> Generator[Values, None, None]:
        """Yield the rows of a question, some at a time."""
        with self._connection.cursor("msb_cache_rows") as cursor:
            cursor.itersize = _PAGE
            cursor.execute(placed(sql), arguments)
            yield from cursor


class Postgres:
    """A server that has whole logs of a fleet.

    Args:
        dsn: whereto.
        name: how people know it.
        kept: where its reads leave their connections; None: each has one of its own.
    """

    def __init__(self, dsn: str, name: str = "main", *, kept: Kept | None = None) -> None:
        check(dsn)
        self.dsn = dsn
        self.name = name
        self._kept = kept

    @property
    def what(self) -> str:
        """How the sentence of an error names it."""
        return "the fleet" if self.name == "main" else f"the fleet's server {self.name}"

    @contextmanager
    def read(self) -> Iterator[PostgresReading]:
        """Begin a read of one moment; raises FleetError where the server cannot be asked."""
        with told(self.what):
            connection = self._begun()
            try:
                yield PostgresReading(connection)
                connection.execute("COMMIT")
            except BaseException:
                connection.close()
                raise
            if self._kept is None:
                connection.close()
            else:
                self._kept.give(self.dsn, connection)

    @contextmanager
    def peek(self) -> Iterator[PostgresReading]:
        """Begin a read that soon gives up: for what a person types meanwhile; raises as ``read``."""
        import psycopg

        soon = psycopg.conninfo.make_conninfo(self.dsn, connect_timeout=_CONNECT_SECONDS_OF_PEEK)
        with Postgres(soon, self.name).read() as reading:
            reading.rows("SELECT set_config('statement_timeout', ?, true)", (str(_PEEK_MS),))
            yield reading

    def _begun(self) -> psycopg.Connection[Values]:
        """Return a connection on which a transaction has begun that only reads."""
        import psycopg

        while self._kept is not None and (kept := self._kept.take(self.dsn)) is not None:
            try:
                kept.execute(_BEGIN)
            except psycopg.OperationalError:  # the server was restarted, or a firewall forgot it
                kept.close()
            else:
                return kept
        connection = _connect(self.dsn, self.what)
        try:
            connection.execute(_BEGIN)
        except BaseException:
            connection.close()
            raise
        return connection


def placed(sql: str) -> Any:
    """Return SQL whose arguments stand as ``?`` as psycopg takes it."""
    return sql.replace("%", "%%").replace("?", "%s")


def unless_said(dsn: str, **given: Any) -> dict[str, Any]:
    """Return what the DSN itself does not say."""
    import psycopg

    said = psycopg.conninfo.conninfo_to_dict(dsn)
    return {name: value for name, value in given.items() if name not in said}


def _refused(error: psycopg.Error, what: str) -> FleetError:
    import psycopg

    lines = (error.diag.message_primary or str(error)).splitlines()
    said = "; ".join(" ".join(line.split()) for line in lines if line.strip() and not line.endswith("?"))
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        said += (
            "; who asks is enrolled by `msb-cache fleet enrol NAME --as reader`, who folds by `--as folder`"
        )
    elif isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName):
        said += "; is it another database? `msb-cache fleet init` makes one ready for a fleet"
    passes = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return FleetError(f"{what} cannot be asked: {said}", temporary=passes)


def further(reading: Reading, first: str, *, kept: Kept | None = None) -> list[Postgres]:
    """Return the fleet's further servers, by name.

    Args:
        reading: of the first server.
        first: its DSN.
        kept: as for ``Postgres``.
    """
    found = reading.rows("SELECT name, dsn FROM msb_cache.server ORDER BY name")
    return [Postgres(beside(first, dsn), name, kept=kept) for name, dsn in found]


def beside(first: str, further: str) -> str:
    """Return the DSN of a further server, which is asked as the user who asks the first one.

    A password is not taken along: it comes from libpq's password file or the environment.
    """
    import psycopg

    user = psycopg.conninfo.conninfo_to_dict(first).get("user")
    return psycopg.conninfo.make_conninfo(
        further, **({} if user is None else unless_said(further, user=user))
    )
