"""When the bytes of artifacts were last compared with what the log has of them.

That stands beside the index and is not folded: it says what was done on this machine, and without it all is
compared once more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import NamedTuple

from msb_cache.projections.digests import Artifact


class Check(NamedTuple):
    """When a file was last found to be as the log says, and its inode then.

    In ns since the epoch, UTC; None: when it was last read, it was not.
    """

    checked_at: int | None
    inode: int | None


def last(connection: sqlite3.Connection, artifact: Artifact) -> Check | None:
    """Return what came of the last look at an artifact; None: there was none."""
    row = connection.execute(
        "SELECT checked_at, inode FROM digest_check WHERE kind = ? AND subject = ?", artifact
    ).fetchone()
    return Check(*row) if row else None


def all_of(connection: sqlite3.Connection) -> dict[Artifact, Check]:
    """Return what came of the last look at each."""
    rows = connection.execute("SELECT kind, subject, checked_at, inode FROM digest_check")
    return {(kind, subject): Check(*rest) for kind, subject, *rest in rows}


def remember(
    connection: sqlite3.Connection, artifacts: Mapping[Artifact, int | None], time_ns: int | None
) -> None:
    """Take note that these, by their inodes, are as the log says; None for a time: that they are not.

    Within the caller's transaction.
    """
    connection.executemany(
        "INSERT OR REPLACE INTO digest_check (kind, subject, checked_at, inode) VALUES (?, ?, ?, ?)",
        [(*artifact, time_ns, inode) for artifact, inode in artifacts.items()],
    )


def forget_others(connection: sqlite3.Connection) -> None:
    """Drop the notes of artifacts that have no digest any more, within the caller's transaction."""
    connection.execute(
        "DELETE FROM digest_check WHERE checked_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM digest d "
        "WHERE d.kind = digest_check.kind AND d.subject = digest_check.subject)"
    )
