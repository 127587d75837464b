"""When the bytes of artifacts were last compared with what the log has of them.

That stands beside the index and is not folded: it says what was done on this machine, and without it all is
compared once more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from msb_cache.projections.digests import Artifact


def last(connection: sqlite3.Connection, artifact: Artifact) -> int | None:
    """Return when an artifact was last found to be as the log says, in ns since the epoch, UTC."""
    row = connection.execute(
        "SELECT checked_at FROM digest_check WHERE kind = ? AND subject = ?", artifact
    ).fetchone()
    return row[0] if row else None


def all_of(connection: sqlite3.Connection) -> dict[Artifact, int]:
    """Return when each was, of those that ever were."""
    rows = connection.execute("SELECT kind, subject, checked_at FROM digest_check")
    return {(kind, subject): time for kind, subject, time in rows}


def remember(connection: sqlite3.Connection, artifacts: Iterable[Artifact], time_ns: int) -> None:
    """Take note that these are as the log says, within the caller's transaction."""
    connection.executemany(
        "INSERT OR REPLACE INTO digest_check (kind, subject, checked_at) VALUES (?, ?, ?)",
        [(*artifact, time_ns) for artifact in artifacts],
    )


def forget(connection: sqlite3.Connection, artifacts: Iterable[Artifact]) -> None:
    """Drop the notes of artifacts that are not as the log says, within the caller's transaction."""
    connection.executemany("DELETE FROM digest_check WHERE kind = ? AND subject = ?", artifacts)


def forget_others(connection: sqlite3.Connection, named: Iterable[Artifact]) -> None:
    """Drop the notes of artifacts that there are no more, within the caller's transaction."""
    forget(connection, all_of(connection).keys() - set(named))
