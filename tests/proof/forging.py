"""Homes that were written anew by somebody who may write them, so that they look as if they were true."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from msb_cache.cache import ImageCache
from msb_cache.errors import LogError
from msb_cache.eventstore.chain import raw_rows
from msb_cache.eventstore.row import COLUMNS
from tests.proof.test_forks import Event, rows_of

Change = Callable[[list[Event]], list[Event]]
"""What is made of the events of a log; see ``test_forks``."""


@contextmanager
def forced(home: Path) -> Iterator[sqlite3.Connection]:
    """Let everything be written into a home's database for a while, whatever its triggers refuse."""
    with closing(sqlite3.connect(home / "db/msb-cache.db", isolation_level=None)) as connection:
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")
        for _, sql in triggers:
            connection.execute(sql)


def events_of(home: Path) -> list[Event]:
    with closing(sqlite3.connect(home / "db/msb-cache.db")) as connection:
        return [dict(zip(COLUMNS[1:], row[1:], strict=True)) for row, _ in raw_rows(connection)]


def write_log(home: Path, events: list[Event], *, forget: bool = True) -> None:
    """Put another log into a home, hashed anew, and make all anew that is made of a log.

    Args:
        home: the home.
        events: its log from now on.
        forget: delete the signed checkpoints that the home keeps.
    """
    rows = [(*row, stored) for row, stored in rows_of(events)]
    with forced(home) as connection:
        connection.execute("DELETE FROM events")
        places = ", ".join("?" * (len(COLUMNS) + 1))
        columns = ", ".join((*COLUMNS, "hash"))
        connection.executemany(f"INSERT INTO events ({columns}) VALUES ({places})", rows)
        connection.execute("UPDATE projection_state SET seq = ?", (len(rows),))
        connection.execute("DELETE FROM subtree")
        if forget:
            connection.execute("DELETE FROM signed_checkpoint")
    with ImageCache(home) as cache, suppress(LogError):  # of a log with events that are none
        cache.rebuild()


def rewrite(home: Path, change: Change, *, forget: bool = True) -> None:
    """Change the log of a home in such a way."""
    write_log(home, change(events_of(home)), forget=forget)


def blame(who: str = "mallory", place: int = 16) -> Change:
    """Another user did what an event, of this index, says; 16 is that an image was removed."""

    def change(events: list[Event]) -> list[Event]:
        actor: Any = events[place]["actor"]
        assert '"user":"alice"' in actor
        changed = {**events[place], "actor": actor.replace('"alice"', f'"{who}"')}
        return [*events[:place], changed, *events[place + 1 :]]

    return change
