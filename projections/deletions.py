"""Deletions in the index: past ones with their counters, what has not ended, and what had to be left.

What msb deleted by itself counts too: what a sync found gone is one deletion, of the kind ``external``.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import EventStore
from msb_cache.projections.rows import DeletionOutcomeRow, DeletionRow, LeftoverRow
from msb_cache.projections.tables import columns

_AFTER_ALL = "\U0010ffff"
SELECT = f"SELECT {', '.join(columns(DeletionRow))} FROM deletion"  # noqa: S608


class Claim(NamedTuple):
    """A deletion that msb carries out wants this artifact gone, and does not know yet whether it is.

    ``spellings``: which of a reference, under its metadata; none: all.
    """

    operation: str
    kind: ev.DeletionKind
    forced: bool
    spellings: frozenset[str] = frozenset()


def deletions(connection: sqlite3.Connection, *, limit: int | None = None) -> list[DeletionRow]:
    """Return past deletions with their counters, newest first."""
    rows = connection.execute(f"{SELECT} ORDER BY seq DESC LIMIT ?", (-1 if limit is None else limit,))
    return [DeletionRow(*row) for row in rows]


def find(connection: sqlite3.Connection, prefix: str) -> list[DeletionRow]:
    """Return the deletions whose operation id begins with ``prefix``, oldest first."""
    rows = connection.execute(
        f"{SELECT} WHERE operation >= ? AND operation < ? ORDER BY operation",
        (prefix, prefix + _AFTER_ALL),
    )
    return [DeletionRow(*row) for row in rows]


def operations_with(connection: sqlite3.Connection, prefix: str, limit: int = 2) -> list[str]:
    """Return at most ``limit`` operations of any kind whose id begins with ``prefix``."""
    rows = connection.execute(
        "SELECT DISTINCT operation FROM events WHERE operation >= ? AND operation < ? LIMIT ?",
        (prefix, prefix + _AFTER_ALL, limit),
    )
    return [operation for (operation,) in rows]


def unfinished(connection: sqlite3.Connection) -> list[str]:
    """Return the deletions that have begun and not ended: running now, or cut short."""
    rows = connection.execute("SELECT operation FROM deletion WHERE finished_at IS NULL")
    return sorted(operation for (operation,) in rows)


def leftovers(connection: sqlite3.Connection) -> list[LeftoverRow]:
    """Return what deletions had to leave, in the order in which they said so.

    The files may have gone since without an event; ``Engine.leftovers`` looks at the disk, too.
    """
    found = connection.execute(f"SELECT {', '.join(columns(LeftoverRow))} FROM leftover ORDER BY seq")  # noqa: S608
    return [LeftoverRow(*row) for row in found]


def pending(connection: sqlite3.Connection, store: EventStore, operation: str) -> list[ev.PlannedArtifact]:
    """Return a deletion's planned artifacts that have no outcome yet."""
    done = {
        (kind, subject)
        for kind, subject in connection.execute(
            f"SELECT kind, subject FROM {DeletionOutcomeRow.table} WHERE operation = ?",  # noqa: S608
            (operation,),
        )
    }
    started = store.read(operation=operation, types=[ev.DeletionStarted.type])
    return [
        artifact
        for event in started
        if isinstance(event.data, ev.DeletionStarted)
        for artifact in event.data.artifacts
        if (artifact.kind, artifact.subject) not in done
    ]


def claims(connection: sqlite3.Connection, store: EventStore) -> dict[tuple[str, str], Claim]:
    """Return, by kind and subject, what unfinished deletions have asked msb to delete.

    What of it disappears from msb's index is their doing, whichever process sees it first. A reference stands
    under its ``metadata``.
    """
    found: dict[tuple[str, str], Claim] = {}
    unfinished = connection.execute(
        "SELECT operation FROM deletion WHERE finished_at IS NULL AND engine = 'msb' ORDER BY seq"
    ).fetchall()
    for (operation,) in unfinished:
        for event in store.read(operation=operation, types=[ev.DeletionStarted.type]):
            if isinstance(event.data, ev.DeletionStarted):
                kind, forced = event.data.kind, event.data.policy.get("force") is True
                break
        else:
            continue
        removed: dict[str, set[str | None]] = {}
        for event in store.read(operation=operation, types=[ev.ImageRemoved.type]):
            removed.setdefault(event.subject, set()).add(getattr(event.data, "spelling", None))
        for artifact in pending(connection, store, operation):
            left = set(artifact.spellings)
            if artifact.kind == "metadata" and artifact.subject in removed:
                # If one came back and goes again, another program does that.
                left -= removed[artifact.subject]
                if not left:
                    continue
            claim = Claim(operation, kind, forced, frozenset(left))
            found.setdefault((artifact.kind, artifact.subject), claim)
    return found
