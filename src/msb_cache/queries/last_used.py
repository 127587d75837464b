"""When an image was last used, and which event says so; which images lie idle, longest first."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import EventStore, StoredEvent
from msb_cache.projections import images
from msb_cache.projections.images import HandleRow


@dataclass(frozen=True)
class IdleImage:
    """An image in the cache, for how long it was not used (ns), and the event that says so.

    ``last_used_ns`` is when it was last used, in ns since the epoch: as the event says, unless that was said
    by a clock that was ahead.
    """

    reference: str
    manifest_digest: str
    last_used_ns: int
    idle_ns: int
    event: StoredEvent | None


def idle(
    connection: sqlite3.Connection, store: EventStore, now_ns: int, at_least_ns: int = 0
) -> list[IdleImage]:
    """Return the images in the cache by idle time, longest first.

    Args:
        connection: the index.
        store: the log, on the same connection.
        now_ns: the time now, in ns since the epoch; no image is idle for less than nothing.
        at_least_ns: only those idle for as long or longer.
    """
    rows = sorted(images.handles(connection), key=lambda row: (row.last_used_at, row.reference))
    return [
        IdleImage(
            row.reference,
            row.manifest_digest,
            row.last_used_at,
            max(0, now_ns - row.last_used_at),
            last_use(connection, store, row),
        )
        for row in rows
        if max(0, now_ns - row.last_used_at) >= at_least_ns
    ]


def last_use(connection: sqlite3.Connection, store: EventStore, row: HandleRow) -> StoredEvent | None:
    """Return the event that says when an image was last used: the latest of those at that time.

    One that is said to have happened later was brought down to it, as the clock was ahead.
    """
    found = connection.execute(
        "SELECT max(e.seq) FROM events e JOIN image i ON i.reference = e.subject "
        "WHERE e.subject = ? AND e.seq >= i.seq AND e.occurred_at >= ? AND +e.type IN (?, ?)",
        (row.reference, row.last_used_at, ev.ImagePulled.type, ev.ImageUsed.type),
    ).fetchone()
    return None if found[0] is None else next(store.read(after=found[0] - 1, until=found[0]), None)
