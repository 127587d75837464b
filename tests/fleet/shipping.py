"""Hosts whose logs go to a server: homes that grow, roles that may send them, and what has come of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import NewEvent
from msb_cache.fleet.enrolment import enrol
from msb_cache.fleet.schema import EVENT_COLUMNS
from msb_cache.home.ledger import Ledger
from tests.fleet.sent import log_of
from tests.logs import PYTHON, digest

PASSWORD = "known to the host alone"
ODD = "a\ttab, a \\ and \\N, a 'quote', \"two\",\na line, \x01, ü and 🦀"
"""Characters that mean something in one format or another."""

_SHIPS = """
import os, signal, sys
from msb_cache import ImageCache, failpoints
home, dsn, step, count = sys.argv[1:]
left = int(count)

def observe(reached):
    global left
    left -= reached == step
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

failpoints.observer = observe
from msb_cache.fleet import ship
ship.BATCH_EVENTS = 4
with ImageCache(home) as cache:
    cache.ship(dsn)
"""


def host(admin: str, max_logs: int = 1) -> str:
    """Enrol a host of a new name; return its DSN, with the password."""
    import psycopg

    made = enrol(admin, f"host-{os.urandom(4).hex()}", max_logs, password=PASSWORD)
    return psycopg.conninfo.make_conninfo(made.dsn, password=PASSWORD)


def grow(ledger: Ledger, count: int, holder: str = ODD) -> None:
    """Append so many events."""
    with ledger.write(str(uuid7())) as transaction:
        used = ev.ImageUsed(manifest_digest=digest(1), holder=holder)
        transaction.append([NewEvent(used, PYTHON)] * count)


def asked(dsn: str, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
    """Return the rows of a question; ``dsn`` is the superuser's."""
    import psycopg

    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(sql.encode(), arguments or None).fetchall()


def there(admin: str, log_id: str) -> list[tuple[Any, ...]]:
    """Return the events of a log as the server has them."""
    columns = ", ".join(EVENT_COLUMNS)
    return asked(admin, f"SELECT {columns} FROM msb_cache.events WHERE log_id = %s ORDER BY seq", log_id)


def is_whole(admin: str, home: str | os.PathLike[str]) -> bool:
    """Return whether the server has each event of a home's log as it is stored there, once and in order."""
    rows = log_of(home)
    return there(admin, rows[0][0]) == rows and asked(
        admin, "SELECT size, hash FROM msb_cache.head WHERE log_id = %s", rows[0][0]
    ) == [(len(rows), rows[-1][-1])]


def user_of(dsn: str) -> str:
    """Return the role's name."""
    import psycopg

    return str(psycopg.conninfo.conninfo_to_dict(dsn)["user"])


def alerts(dsn: str, admin: str) -> list[tuple[Any, ...]]:
    """Return the kinds of what was refused to a role, and how often each was."""
    listed = "SELECT kind, times FROM msb_cache.alert WHERE role = %s ORDER BY kind"
    return asked(admin, listed, user_of(dsn))


def killed(home: Path, dsn: str, step: str, count: int) -> int:
    """Send in a process that kills itself when it reaches a step for so many times; return how it ended."""
    command = [sys.executable, "-c", _SHIPS, str(home), dsn, step, str(count)]
    return subprocess.run(command, timeout=60, check=False).returncode
