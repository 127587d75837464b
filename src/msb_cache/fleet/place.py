"""Where the logs of a fleet are asked: a PostgreSQL server, or a file. Both are asked in the same words.

SQL here is what PostgreSQL and SQLite both understand. Arguments stand as ``?``; tables and views are named
with their schema, ``msb_cache.image``. Texts are compared byte by byte, as a host's own index does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Generator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

VARIABLE = "MSB_CACHE_FLEET"
"""The environment variable with the DSN of the fleet's first server."""

TAKES_LIBPQ = "; `postgresql://` is the one that libpq's own variables say"
"""What the error about a missing DSN ends with."""

SCHEMA = "msb_cache"

Values = tuple[Any, ...]


class Reading(Protocol):
    """One moment of a place: what is asked within a ``with`` block of ``Place.read`` is of that moment."""

    def rows(self, sql: str, arguments: Sequence[Any] = ()) -> list[Values]:
        """Return all rows of a question; there are few."""
        ...

    def stream(self, sql: str, arguments: Sequence[Any] = ()) -> Generator[Values, None, None]:
        """Yield the rows of a question that can have very many, some at a time.

        Who does not ask for all of them closes it before the read ends.
        """
        ...


class FileReading:
    """One moment of a file: a transaction that only reads, on a connection of SQLite."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, sql: str, arguments: Sequence[Any] = ()) -> list[Values]:
        """Return all rows of a question."""
        return self._connection.execute(sql, arguments).fetchall()

    def stream(self, sql: str, arguments: Sequence[Any] = ()) -> Generator[Values, None, None]:
        """Yield the rows of a question."""
        yield from self._connection.execute(sql, arguments)


class Place(Protocol):
    """One place that has whole logs.

    Attributes:
        name: how people know it: a server's name, or a file's.
    """

    name: str

    def read(self) -> AbstractContextManager[Reading]:
        """Begin a read.

        Raises:
            FleetError: the place cannot be asked.
        """
        ...


def marks(values: Sequence[object]) -> str:
    """Return ``?, ?`` for so many values, of which there must be one at least."""
    return ", ".join("?" * len(values))


def within(column: str, logs: Collection[str] | None) -> tuple[str, list[str]]:
    """Return what restricts a question to these logs (None: to none), to stand behind AND; its arguments."""
    if not logs:
        return ("true" if logs is None else "false"), []
    return f"{column} IN ({marks([*logs])})", [*logs]
