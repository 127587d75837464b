"""Databases that are made once for a module, and a copy for each test that changes one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from msb_cache.fleet.admission import init
from msb_cache.fleet.connect import Postgres
from msb_cache.fleet.enrolment import enrol
from msb_cache.fleet.fold import fold
from tests.fleet.postgres import Server
from tests.fleet.sent import Row, send


def new_database(server: Server) -> str:
    """Make an empty database; return its superuser's DSN."""
    return _created(server, "")


def with_a_log(server: Server, role: str, rows: Sequence[Row], *, then: int = 0) -> str:
    """Make a fleet that has a log, of which all but the last ``then`` events are folded."""
    dsn = new_database(server)
    init(dsn)
    made = enrol(dsn, role, password="its own")
    first = len(rows) - then
    send(f"{made.dsn} password='its own'", rows[:first])
    assert not fold(Postgres(dsn)).stopped
    if then:
        send(f"{made.dsn} password='its own'", rows[first - 1 :])
    return dsn


@contextmanager
def copied(server: Server, dsn: str) -> Iterator[str]:
    """Copy a database that nobody is connected to, for the block; give the superuser's DSN of the copy."""
    import psycopg

    copy = _created(server, f' TEMPLATE "{_name(dsn)}"')
    yield copy
    with psycopg.connect(server.admin, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{_name(copy)}" WITH (FORCE)')


def _name(dsn: str) -> str:
    return dsn.rpartition("/")[2]


def _created(server: Server, more: str) -> str:
    import psycopg

    name = f"db_{os.urandom(4).hex()}"
    with psycopg.connect(server.admin, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"{more}')
    return server.dsn("admin", database=name)
