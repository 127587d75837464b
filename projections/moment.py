"""What time it is for a question to an index: a hold or a pin that has an end counts up to then.

Of the live index that is the clock's time when the question is asked; of the past, the moment asked about.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

LASTS = "(until IS NULL OR until > moment())"
"""The condition, in SQL, that a hold or pin has not ended."""


def set_moment(connection: sqlite3.Connection, clock: Callable[[], int]) -> None:
    """Say what time it is in questions on this connection, in ns since the epoch."""
    connection.create_function("moment", 0, clock)


def moment(connection: sqlite3.Connection) -> int:
    """Return what time it is in questions on this connection, in ns since the epoch."""
    (now,) = connection.execute("SELECT moment()").fetchone()
    return int(now)
