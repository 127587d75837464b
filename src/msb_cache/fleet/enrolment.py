"""Who may send logs to a fleet's server, fold them or ask: roles of PostgreSQL, made and ended."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msb_cache.errors import ImageNotFoundError, InvalidConfigError
from msb_cache.fleet import roles
from msb_cache.fleet.admission import administering, as_owner, check_owner
from msb_cache.fleet.connect import SECRETS
from msb_cache.fleet.place import SCHEMA, Values
from msb_cache.fleet.roles import KINDS, Kind
from msb_cache.oci.digest import shown
from msb_cache.proof.vkey import VerifierKey
from msb_cache.queries.policy import parse_size
from msb_cache.shapes import Result

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[Values]

MOST_LOGS = 1_000_000
LOG_SIZE = 1 << 30
"""How many bytes a log may have where nothing else was said: two million events of ordinary length."""
UNLIMITED = "unlimited"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_RESERVED = ("pg_", "msb_cache_")
_NO_PART_OF_A_DSN = SECRETS | {
    *("user", "passfile", "service", "sslkey", "sslcert", "options"),
    *("host", "hostaddr", "port", "dbname", "application_name", "connect_timeout", "client_encoding"),
}


@dataclass(frozen=True)
class Enrolled(Result):
    """A role that was enrolled, or whose enrolment was changed.

    Attributes:
        name: the role's name.
        kind: ``host``, ``folder`` or ``reader``.
        max_logs: how many logs it may own; None: it sends none.
        max_log_size: how many bytes each of them may have on the server; None: any, or it sends none.
        is_new: the role was made.
        dsn: how it connects, without a password.
        password: its password, where one was made or given now; it is kept nowhere. None: it was not
            changed, or it has none.
        pgpass: the line of libpq's password file for it; None: there is no password.
    """

    name: str
    kind: Kind
    max_logs: int | None
    max_log_size: int | None
    is_new: bool
    dsn: str
    password: str | None = field(default=None, repr=False)
    pgpass: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Enrolment(Result):
    """A role that is enrolled.

    Attributes:
        name: the role's name.
        kind: ``host``, ``folder`` or ``reader``.
        max_logs: how many logs it may own; None: it sends none.
        max_log_size: how many bytes each of them may have on the server; None: any, or it sends none.
        largest_log_size: how many bytes the largest of them has there; None: it has sent none.
        logs: how many it owns.
        enrolled_at_ns: when, in ns since the epoch; None: that is not kept of folders and readers.
        key: the verifier key of its logs; None: none was given.
    """

    name: str
    kind: Kind
    max_logs: int | None
    max_log_size: int | None
    largest_log_size: int | None
    logs: int
    enrolled_at_ns: int | None
    key: str | None


@dataclass(frozen=True)
class Unenrolled(Result):
    """A role that was enrolled. ``logs`` are those that it sent; they stay."""

    name: str
    kind: Kind
    logs: int


def enrol(
    dsn: str,
    name: str,
    max_logs: int | None = None,
    *,
    max_log_size: str | int | None = None,
    kind: Kind = "host",
    password: str | None = None,
    generate: bool = True,
    key: str | None = None,
) -> Enrolled:
    """Make a role, or change what one may; parameters and errors as for ``Fleet.enrol``.

    ``dsn``: of the role that made the fleet, or of a superuser.
    """
    if kind not in KINDS:
        raise InvalidConfigError(f"{kind!r} is none of {', '.join(KINDS)}")
    _check(name, max_logs, password, kind)
    may_have = _log_size(max_log_size, kind)
    if key is not None:
        if kind != "host":
            raise InvalidConfigError(f"a {kind} sends no logs that could be signed; leave the key out")
        key = str(VerifierKey.parse(key))
    with administering(dsn) as connection:
        check_owner(connection)
        is_new = _role(connection, name, kind)
        if is_new and password is None and generate:
            password = secrets.token_urlsafe(24)
        if password is not None:
            _set_password(connection, name, password)
        if kind == "host":
            max_logs, may_have = _keep(connection, name, max_logs, may_have, key)
        found = _dsn_of(connection, dsn, name)
        line = None if password is None else _pgpass(connection, name, password)
    if kind != "host":
        max_logs = may_have = None
    return Enrolled(name, kind, max_logs, may_have, is_new, found, password, line)


def enrolments(dsn: str) -> list[Enrolment]:
    """Return who is enrolled, by kind and name; raises FleetError where the server cannot be asked."""
    with administering(dsn) as connection:
        check_owner(connection)
        rows = connection.execute(
            "SELECT m.rolname, g.rolname, e.max_logs, e.max_log_size, "
            f"(SELECT max(h.bytes) FROM {SCHEMA}.head h WHERE h.role = m.rolname), "
            f"(SELECT count(*) FROM {SCHEMA}.head h WHERE h.role = m.rolname), e.enrolled_at, e.log_key "
            "FROM pg_auth_members a JOIN pg_roles g ON g.oid = a.roleid JOIN pg_roles m ON m.oid = a.member "
            f"LEFT JOIN {SCHEMA}.enrolment e ON e.role = m.rolname "
            "WHERE g.rolname = ANY(%s) AND (e.role IS NOT NULL OR g.rolname <> %s) "
            "ORDER BY array_position(%s, g.rolname::text), m.rolname".encode(),
            ([*roles.GROUPS], roles.group("host"), [*roles.GROUPS]),
        ).fetchall()
    return [Enrolment(row[0], KINDS[roles.GROUPS.index(row[1])], *row[2:]) for row in rows]


def unenrol(dsn: str, name: str) -> Unenrolled:
    """Take from a role what it was enrolled for, and its right to log in; its logs stay.

    Raises:
        ImageNotFoundError: it is not enrolled.
        FleetError: the server cannot be asked, has no fleet, or the DSN's role may not do it.
    """
    from psycopg.sql import SQL, Identifier

    with administering(dsn) as connection:
        check_owner(connection)
        kinds = _kinds_of(connection, name)
        if not kinds:
            raise ImageNotFoundError(
                f"{shown(name[:100])} is not enrolled; `msb-cache fleet enrol` lists the enrolled"
            )
        connection.execute(SQL("ALTER ROLE {} NOLOGIN").format(Identifier(name)))
        for kind in kinds:
            revoked = SQL("REVOKE {} FROM {}")
            connection.execute(revoked.format(Identifier(roles.group(kind)), Identifier(name)))
        with as_owner(connection):
            connection.execute(f"DELETE FROM {SCHEMA}.enrolment WHERE role = %s".encode(), (name,))
            counted = f"SELECT count(*) FROM {SCHEMA}.head WHERE role = %s"
            (logs,) = connection.execute(counted.encode(), (name,)).fetchone() or (0,)
    return Unenrolled(name, kinds[0], logs)


def _check(name: str, max_logs: int | None, password: str | None, kind: Kind) -> None:
    if not _NAME.fullmatch(name) or name.startswith(_RESERVED):
        raise InvalidConfigError(
            f"{shown(name[:100])} is no name for an enrolment: take lower-case letters, digits, '.', '_' and "
            "'-', at most 63, and none of PostgreSQL's or the fleet's own that begin with pg_ or msb_cache_"
        )
    if max_logs is not None and kind != "host":
        raise InvalidConfigError(f"a {kind} sends no logs; leave the number of logs out")
    if max_logs is not None and not 0 <= max_logs <= MOST_LOGS:
        raise InvalidConfigError(f"an enrolment can own 0 to {MOST_LOGS} logs, not {max_logs}")
    if password is not None and (not password or "\x00" in password):
        raise InvalidConfigError("the password is empty or has a NUL in it; give another one")


def _log_size(given: str | int | None, kind: Kind) -> int | None:
    """Return a log's size in bytes, -1 for any; None: none was given."""
    if given is None:
        return None
    if kind != "host":
        raise InvalidConfigError(f"a {kind} sends no logs; leave the size of a log out")
    return -1 if given == UNLIMITED else parse_size(given)


def _kinds_of(connection: Connection, name: str) -> list[Kind]:
    rows = connection.execute(
        "SELECT g.rolname FROM pg_auth_members a JOIN pg_roles g ON g.oid = a.roleid "
        "JOIN pg_roles m ON m.oid = a.member WHERE m.rolname = %s",
        (name,),
    ).fetchall()
    return [kind for kind in KINDS if (roles.group(kind),) in rows]


def _role(connection: Connection, name: str, kind: Kind) -> bool:
    """Make the role a member of its group; return whether it was made."""
    from psycopg.sql import SQL, Identifier

    there = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", (name,)).fetchone()
    if there is None:
        connection.execute(SQL("CREATE ROLE {} LOGIN").format(Identifier(name)))
    else:
        kinds = _kinds_of(connection, name)
        if kinds and kinds != [kind]:
            raise InvalidConfigError(f"{name} is enrolled as {kinds[0]} already; take another name")
        if not kinds and not _was_enrolled(connection, name):
            raise InvalidConfigError(
                f"the server has a role {name} that is not the fleet's; take another name"
            )
        connection.execute(SQL("ALTER ROLE {} LOGIN").format(Identifier(name)))
    granted = SQL("GRANT {} TO {}")
    connection.execute(granted.format(Identifier(roles.group(kind)), Identifier(name)))
    return there is None


def _was_enrolled(connection: Connection, name: str) -> bool:
    # One that was ended has no login and no group, and maybe logs.
    row = connection.execute(
        "SELECT NOT (rolcanlogin OR rolsuper OR rolcreaterole OR rolcreatedb) FROM pg_roles "
        "WHERE rolname = %s",
        (name,),
    ).fetchone()
    return row == (True,)


def _set_password(connection: Connection, name: str, password: str) -> None:
    from psycopg.sql import SQL, Identifier, Literal

    # The server, its log and what it shows of running statements see only what a password is checked by.
    verifier = connection.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256")
    statement = SQL("ALTER ROLE {} PASSWORD {}").format(Identifier(name), Literal(verifier.decode()))
    connection.execute(statement)


def _keep(
    connection: Connection, name: str, max_logs: int | None, max_log_size: int | None, key: str | None
) -> tuple[int, int | None]:
    """Write down what a host may; return how many logs it may own, and of how many bytes."""
    with as_owner(connection):
        row = connection.execute(
            f"INSERT INTO {SCHEMA}.enrolment AS e (role, max_logs, max_log_size, enrolled_at, log_key) "
            "VALUES (%(name)s, coalesce(%(logs)s, 1), nullif(coalesce(%(bytes)s, %(usual)s), -1), %(now)s, "
            "%(key)s) ON CONFLICT (role) DO UPDATE SET max_logs = coalesce(%(logs)s, e.max_logs), "
            "max_log_size = nullif(coalesce(%(bytes)s, e.max_log_size, -1), -1), "
            "log_key = coalesce(%(key)s, e.log_key) RETURNING max_logs, max_log_size".encode(),
            {
                "name": name,
                "logs": max_logs,
                "bytes": max_log_size,
                "usual": LOG_SIZE,
                "now": time.time_ns(),
                "key": key,
            },
        ).fetchone()
    assert row is not None  # noqa: S101
    return row[0], row[1]


def _dsn_of(connection: Connection, dsn: str, name: str) -> str:
    """Return how a role connects to where this connection is, without a password."""
    import psycopg

    info = connection.info
    given = psycopg.conninfo.conninfo_to_dict(dsn)
    kept = {option: value for option, value in given.items() if option not in _NO_PART_OF_A_DSN}
    return psycopg.conninfo.make_conninfo(
        "", host=info.host, port=info.port, dbname=info.dbname, user=name, **kept
    )


def _pgpass(connection: Connection, name: str, password: str) -> str:
    info = connection.info
    values = (info.host, str(info.port), info.dbname, name, password)
    return ":".join(value.replace("\\", "\\\\").replace(":", "\\:") for value in values)
