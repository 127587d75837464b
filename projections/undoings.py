"""Restores: operations that bring back what a deletion took, and how far each of them came."""

from __future__ import annotations

import sqlite3

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import EventStore
from msb_cache.projections.rows import UndoingRow
from msb_cache.projections.tables import columns

_SELECT = f"SELECT {', '.join(columns(UndoingRow))} FROM undoing"  # noqa: S608


def unfinished(connection: sqlite3.Connection) -> list[str]:
    """Return the restores that have begun and not ended: running now, or cut short."""
    rows = connection.execute("SELECT operation FROM undoing WHERE finished_at IS NULL")
    return sorted(operation for (operation,) in rows)


def undone_by(connection: sqlite3.Connection, operation: str) -> str:
    """Return the deletion that a restore undoes."""
    (found,) = connection.execute("SELECT undoes FROM undoing WHERE operation = ?", (operation,)).fetchone()
    return str(found)


def of_deletion(connection: sqlite3.Connection, deletion: str) -> list[UndoingRow]:
    """Return the restores that undo a deletion, oldest first."""
    rows = connection.execute(f"{_SELECT} WHERE undoes = ? ORDER BY seq", (deletion,))
    return [UndoingRow(*row) for row in rows]


def wanted(store: EventStore, operation: str) -> list[ev.Restoring]:
    """Return what a restore was to bring back."""
    started = store.read(operation=operation, types=[ev.RestoreStarted.type])
    return [
        image for event in started if isinstance(event.data, ev.RestoreStarted) for image in event.data.images
    ]


def brought(store: EventStore, operation: str) -> set[tuple[str, str]]:
    """Return what an operation has brought: canonical references, with the manifests they point at."""
    pulls = store.read(operation=operation, types=[ev.ImagePulled.type])
    return {
        (event.subject, event.data.manifest_digest)
        for event in pulls
        if isinstance(event.data, ev.ImagePulled)
    }
