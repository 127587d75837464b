"""Sending a log's events to a fleet's server as the smallest host would: COPY, and ``append()``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from msb_cache.eventstore.chain import COLUMNS, GENESIS, link
from msb_cache.fleet.schema import EVENT_COLUMNS

COPY = f"COPY msb_cache.staging ({', '.join(EVENT_COLUMNS)}) FROM STDIN"
Row = tuple[Any, ...]


class Answer(NamedTuple):
    verdict: str
    size: int
    hash: bytes
    detail: str | None


def log_of(home: str | os.PathLike[str]) -> list[Row]:
    """Return the events of a home as rows of ``EVENT_COLUMNS``."""
    import sqlite3
    from contextlib import closing

    path = os.path.join(home, "db", "msb-cache.db")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        rows = connection.execute(f"SELECT {', '.join(COLUMNS)}, hash FROM events ORDER BY seq").fetchall()
    return [(rows[0][4], *row) for row in rows]


def chained(rows: Sequence[Row], previous: bytes = GENESIS) -> list[Row]:
    """Return the rows with hashes made anew."""
    found = []
    for row in rows:
        previous = link(previous, row[1:-1])
        found.append((*row[:-1], previous))
    return found


def stage(connection: Any, rows: Sequence[Row]) -> None:
    with connection.cursor() as cursor, cursor.copy(COPY) as copy:
        for row in rows:
            copy.write_row(row)


def append(connection: Any, log_id: str, host_size: int | None = None, **more: Any) -> Answer:
    given = {"log_id": log_id, "host_size": host_size, **more}
    named = ", ".join(f"{name} => %({name})s" for name in given)
    return Answer(*connection.execute(f"SELECT * FROM msb_cache.append({named})", given).fetchone())


def send(dsn: str, rows: Sequence[Row], *, log_id: str | None = None, **more: Any) -> Answer:
    """Send rows in one transaction, on a connection of their own."""
    import psycopg

    with (
        psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as connection,
        connection.transaction(),
    ):
        stage(connection, rows)
        return append(connection, log_id or rows[0][0], more.pop("host_size", rows[-1][1]), **more)
