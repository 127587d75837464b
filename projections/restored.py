"""What the log says of having been put back to a backup."""

from __future__ import annotations

import sqlite3

from msb_cache.projections.rows import RestoredRow
from msb_cache.projections.tables import columns

_SELECT = f"SELECT {', '.join(columns(RestoredRow))} FROM restored"  # noqa: S608


def unconfirmed(connection: sqlite3.Connection) -> RestoredRow | None:
    """Return the last restore that no person has confirmed; None: there is none."""
    row = connection.execute(f"{_SELECT} WHERE confirmed_at IS NULL ORDER BY seq DESC LIMIT 1").fetchone()
    return None if row is None else RestoredRow(*row)


def behind(connection: sqlite3.Connection, seq: int) -> RestoredRow | None:
    """Return the last restore to a backup that ends before a position; None: there is none."""
    row = connection.execute(f"{_SELECT} WHERE backup_seq < ? ORDER BY seq DESC LIMIT 1", (seq,)).fetchone()
    return None if row is None else RestoredRow(*row)
