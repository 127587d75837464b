"""Further servers of a fleet, each complete in itself: which they are is kept on the first one."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from msb_cache.errors import FleetError, ImageNotFoundError, InvalidConfigError
from msb_cache.fleet.admission import administering, as_owner, check_owner
from msb_cache.fleet.connect import NO_FLEET, SECRETS, Postgres, check
from msb_cache.fleet.place import SCHEMA
from msb_cache.oci.digest import shown
from msb_cache.shapes import Result
from msb_cache.wording import plural

FIRST = "main"
"""The name of the server that the others are kept on."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_SERVERS = (
    "SELECT s.name, s.dsn, s.added_at, "
    f"(SELECT count(*) FROM {SCHEMA}.directory d WHERE d.server = s.name) FROM {SCHEMA}.server s"
)


@dataclass(frozen=True)
class FurtherServer(Result):
    """A further server of a fleet.

    Attributes:
        name: how people know it.
        dsn: how it is connected to, without a password.
        added_at_ns: since when the fleet is asked there too, in ns since the epoch.
        logs: how many logs the directory has there.
    """

    name: str
    dsn: str
    added_at_ns: int
    logs: int


def servers(dsn: str) -> list[FurtherServer]:
    """Return a fleet's further servers, by name; raises FleetError where the first one cannot be asked.

    ``dsn``: of whoever may ask the fleet; adding and removing one is its owner's.
    """
    with Postgres(dsn).read() as reading:
        if reading.rows("SELECT to_regclass(?)", (f"{SCHEMA}.server",)) == [(None,)]:
            raise FleetError(NO_FLEET)
        rows = reading.rows(f"{_SERVERS} ORDER BY s.name")
    return [FurtherServer(*row) for row in rows]


def add_server(dsn: str, name: str, server: str) -> FurtherServer:
    """Have a fleet be asked on one more server; one of that name gets the new DSN.

    Args:
        dsn: of the first server, and of a role that may make a fleet there.
        name: how people know the new one: lower-case letters, digits, ``.``, ``_`` and ``-``.
        server: its DSN, without a password: whoever asks brings their own, from libpq's password file.

    Raises:
        InvalidConfigError: the name or the DSN cannot be taken.
        FleetError: the first server cannot be asked, has no fleet, or the DSN's role may not do it.
    """
    if not _NAME.fullmatch(name) or name == FIRST:
        raise InvalidConfigError(
            f"{shown(name[:100])} is no name for a server: take lower-case letters, digits, '.', '_' and "
            f"'-', at most 63, and another than {FIRST}, which is the first one's"
        )
    check(server)
    import psycopg

    if any(psycopg.conninfo.conninfo_to_dict(server).get(each) for each in SECRETS):
        raise InvalidConfigError(
            "the server's DSN has a password or another secret in it, which all who ask the fleet would see; "
            "leave it out and keep it in libpq's password file or service file"
        )
    with administering(dsn) as connection:
        check_owner(connection)
        with as_owner(connection):
            connection.execute(
                f"INSERT INTO {SCHEMA}.server (name, dsn, added_at) VALUES (%s, %s, %s) "
                "ON CONFLICT (name) DO UPDATE SET dsn = excluded.dsn".encode(),
                (name, server, time.time_ns()),
            )
            row = connection.execute(f"{_SERVERS} WHERE s.name = %s".encode(), (name,)).fetchone()
    assert row is not None  # noqa: S101
    return FurtherServer(*row)


def remove_server(dsn: str, name: str, *, force: bool = False) -> FurtherServer:
    """Ask a fleet on this server no more; nothing changes there.

    ``force``: also where the directory has logs there, of which nobody is told any more then.

    Raises:
        ImageNotFoundError: the fleet knows no server of that name.
        FleetError: the directory has logs there, without ``force``; else as for ``add_server``.
    """
    with administering(dsn) as connection:
        check_owner(connection)
        with as_owner(connection):
            row = connection.execute(f"{_SERVERS} WHERE s.name = %s".encode(), (name,)).fetchone()
            if row is None:
                raise ImageNotFoundError(
                    f"the fleet has no server {shown(name[:100])}; `msb-cache fleet servers` lists them"
                )
            found = FurtherServer(*row)
            if found.logs and not force:
                raise FleetError(
                    f"the directory has {plural(found.logs, 'log')} on {name}, of which nobody would be told "
                    f"any more; where it has moved to says `msb-cache fleet servers --add {name} DSN`, and "
                    "if it is gone for good add --force"
                )
            for table, column in (("server", "name"), ("directory", "server")):
                connection.execute(f"DELETE FROM {SCHEMA}.{table} WHERE {column} = %s".encode(), (name,))
    return found
