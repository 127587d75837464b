"""Making a fleet's server ready: schema, roles, tables, the way in, and who may what; each change once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msb_cache.errors import FleetError
from msb_cache.fleet import append_sql, archive_sql, roles, schema, views
from msb_cache.fleet.connect import NO_FLEET, connected, told
from msb_cache.fleet.place import SCHEMA, Values
from msb_cache.projections import FOLD_VERSION
from msb_cache.shapes import Result

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[Values]

OLDEST = 14
"""The oldest PostgreSQL that has all that is used here."""

_LOCK = 0x6D73625F63616368  # of migrations: "msb_cach"
_WAIT = "60s"

MIGRATIONS: dict[int, Callable[[], Iterable[str]]] = {}
"""By version: the statements that make the tables of the version before it these."""


@dataclass(frozen=True)
class Initialised(Result):
    """A server that hosts can send their logs to.

    Attributes:
        version: of its tables.
        fold_version: of its read models.
        was: the version that it had before; None: it had none.
        read_models_made: its read models were made, anew where there were some, and are empty.
    """

    version: int
    fold_version: int
    was: int | None
    read_models_made: bool

    @property
    def changed(self) -> bool:
        """Whether anything was done."""
        return self.was != self.version or self.read_models_made


def init(dsn: str) -> Initialised:
    """Make a database ready for a fleet, or bring it to this release's tables; in one transaction.

    Args:
        dsn: of a superuser, or of a role that may create roles and schemas there.

    Raises:
        FleetError: the server cannot be asked, it is no database for this, the role may not do it, or its
            tables are of a newer release.
        InvalidConfigError, UnsupportedError: as ``connect.check``.
    """
    with administering(dsn) as connection:
        connection.execute(f"SET LOCAL lock_timeout = '{_WAIT}'".encode())
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        found = version(connection)
        if found is not None and (found[0] > schema.VERSION or found[1] > FOLD_VERSION):
            raise FleetError(
                f"the fleet's tables are of version {found[0]} and its read models of {found[1]}, and this "
                f"msb-cache knows {schema.VERSION} and {FOLD_VERSION}; use the newer release"
            )
        if found == (schema.VERSION, FOLD_VERSION):
            return Initialised(*found, was=found[0], read_models_made=False)
        _check_rights(connection, is_new=found is None)
        if found is None:
            _make_schema(connection)
        with as_owner(connection):
            if found is None:
                _run(connection, schema.tables(postgres=True))
                _run(connection, append_sql.statements())
                _run(connection, archive_sql.statements())
                _run(connection, roles.grants())
            else:
                for number in range(found[0] + 1, schema.VERSION + 1):
                    _run(connection, MIGRATIONS[number]())
            anew = found is None or found[1] != FOLD_VERSION
            if anew:
                make_read_models(connection)
            connection.execute(f"DELETE FROM {SCHEMA}.fleet".encode())
            connection.execute(
                f"INSERT INTO {SCHEMA}.fleet (one, version, fold_version) VALUES (1, %s, %s)".encode(),
                (schema.VERSION, FOLD_VERSION),
            )
    was = None if found is None else found[0]
    return Initialised(schema.VERSION, FOLD_VERSION, was, anew)


@contextmanager
def administering(dsn: str) -> Iterator[Connection]:
    """Connect for a ``with`` block that is one transaction; raises as ``connected`` does.

    No name in it is looked up where others could have made something of that name.
    """
    with connected(dsn) as connection, told(), connection.transaction():
        connection.execute("SET LOCAL search_path = pg_catalog, pg_temp")
        yield connection


def version(connection: Connection) -> tuple[int, int] | None:
    """Return the versions of a database's tables and read models; None: it has no fleet's."""
    made = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (f"{SCHEMA}.fleet",)).fetchone()
    assert made is not None  # noqa: S101
    if not made[0]:
        return None
    row = connection.execute(f"SELECT version, fold_version FROM {SCHEMA}.fleet".encode()).fetchone()
    return None if row is None else (int(row[0]), int(row[1]))


def check_owner(connection: Connection) -> None:
    """Refuse a database that is no fleet's, and a role that cannot do what the owner of its tables can.

    Raises:
        FleetError: it is one of these.
    """
    if version(connection) is None:
        raise FleetError(NO_FLEET)
    row = connection.execute("SELECT pg_has_role(%s, 'MEMBER')", (roles.OWNER,)).fetchone()
    if row != (True,):
        raise FleetError(
            f"{connection.info.user} may not change this fleet: it must be a superuser, or have CREATEROLE "
            f"and be a member of {roles.OWNER}"
        )


@contextmanager
def as_owner(connection: Connection) -> Iterator[None]:
    """Do as the owner of the tables what is within the block, in a transaction that is open."""
    connection.execute(f"SET LOCAL ROLE {roles.OWNER}".encode())
    yield
    connection.execute("SET LOCAL ROLE NONE")


def make_read_models(connection: Connection) -> None:
    """Make the tables that are folded, empty, in place of those that are there; as the owner."""
    _drop(connection, "VIEW", _named(connection, "v", {*schema.VIEWS_OF_LOGS}))
    kept = {*schema.TABLES, "events", "staging", *(f"events_{n:02}" for n in range(schema.PARTITIONS))}
    _drop(connection, "TABLE", _named(connection, "r", kept))
    connection.execute(f"DELETE FROM {SCHEMA}.fold_state".encode())
    connection.execute(f"DELETE FROM {SCHEMA}.told".encode())
    _run(connection, schema.read_models(postgres=True))
    _run(connection, roles.grants_of_read_models())
    _run(connection, views.statements())


def _named(connection: Connection, kind: str, without: set[str]) -> list[str]:
    rows = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relkind = %s "
        "ORDER BY relname",
        (SCHEMA, kind),
    ).fetchall()
    return [name for (name,) in rows if name not in without]


def _drop(connection: Connection, kind: str, names: Iterable[str]) -> None:
    from psycopg.sql import SQL, Identifier

    # All in one statement, as some depend on others. What people have made of them elsewhere is not dropped
    # along: PostgreSQL refuses, and names it.
    listed = SQL(", ").join(Identifier(SCHEMA, name) for name in names)
    if names:
        connection.execute(SQL("DROP {} {}").format(SQL("VIEW" if kind == "VIEW" else "TABLE"), listed))


def _check_rights(connection: Connection, *, is_new: bool) -> None:
    if connection.info.server_version // 10000 < OLDEST:
        raise FleetError(f"the fleet's server is older than PostgreSQL {OLDEST}; use a newer one")
    encoding, may_roles, may_create, owns = (
        connection.execute(
            "SELECT current_setting('server_encoding'), r.rolsuper OR r.rolcreaterole, "
            "has_database_privilege(current_database(), 'CREATE'), "
            "coalesce(pg_has_role((SELECT oid FROM pg_roles WHERE rolname = %s), 'MEMBER'), false) "
            "FROM pg_roles r WHERE r.rolname = current_user",
            (roles.OWNER,),
        ).fetchone()
        or (None,) * 4
    )
    if encoding != "UTF8":
        raise FleetError(
            f"the database has the encoding {encoding}, and events are UTF-8; create one with ENCODING UTF8"
        )
    if (is_new and not (may_roles and may_create)) or not (is_new or owns):
        raise FleetError(
            f"{connection.info.user} may not make a fleet here: it must be a superuser, or have CREATEROLE "
            f"and CREATE on the database{'' if is_new else f', and be a member of {roles.OWNER}'}"
        )


def _make_schema(connection: Connection) -> None:
    from psycopg.sql import SQL, Identifier

    there = connection.execute("SELECT to_regnamespace(%s) IS NOT NULL", (SCHEMA,)).fetchone()
    if there == (True,):
        raise FleetError(
            f"the database has a schema {SCHEMA} that is no fleet's; drop or rename it, or take another "
            "database"
        )
    known = {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}
    for name in (roles.OWNER, *roles.GROUPS):
        if name not in known:
            connection.execute(SQL("CREATE ROLE {} NOLOGIN").format(Identifier(name)))
    member = connection.execute("SELECT pg_has_role(%s, 'MEMBER')", (roles.OWNER,)).fetchone()
    if member != (True,):
        connection.execute(SQL("GRANT {} TO CURRENT_USER").format(Identifier(roles.OWNER)))
    made = SQL("CREATE SCHEMA {} AUTHORIZATION {}")
    connection.execute(made.format(Identifier(SCHEMA), Identifier(roles.OWNER)))


def _run(connection: Connection, statements: Iterable[str]) -> None:
    for statement in statements:
        connection.execute(statement.encode())
