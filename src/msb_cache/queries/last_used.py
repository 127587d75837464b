"""When an image was last used, and which event says so; which images lie idle, longest first."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import EventStore, StoredEvent
from msb_cache.projections import images
from msb_cache.projections.images import HandleRow, UseRow
from msb_cache.queries.resolve import seen
from msb_cache.shapes import Result, Time, fields


@dataclass(frozen=True)
class IdleImage(Result):
    """An image in the cache, for how long it was not used (ns), and the event that says so.

    ``last_used_ns`` is when it was last pulled, used or booted, in ns since the epoch. It is idle since then,
    or since the last boot ended or hold was released, whichever is later: as the event says, unless that was
    said by a clock that was ahead. While sandboxes run from it (``in_use_by``), it is not idle, and the event
    is the boot; ``event`` is None where the log has none that says it.
    """

    reference: str
    manifest_digest: str
    last_used_ns: int
    idle_ns: int
    event: StoredEvent | None
    in_use_by: tuple[str, ...] = ()
    in_use_since_ns: int | None = None
    """When the first of those was booted, in ns since the epoch; None: none runs."""
    idle_since_ns: int | None = None
    """Since when it is idle, in ns since the epoch; None: it is in use."""

    def _shape(self) -> dict[str, Any]:
        found = fields(self, without=("last_used_ns",))
        return {"reference": self.reference, "digest": self.manifest_digest} | {
            "last_used_at": Time(self.last_used_ns),
            **found,
        }


class Standing(NamedTuple):
    """An image, and since when nothing uses it.

    Attributes:
        row: the image.
        since_ns: since when it is idle, in ns since the epoch, UTC; None: it is in use.
        lasting: the boots of it that last, the longest first.
        ended: when the last hold that had an end came to it, and the event that says so; None: there is none.
    """

    row: HandleRow
    since_ns: int | None
    lasting: Sequence[UseRow]
    ended: tuple[int, int] | None


def standings(connection: sqlite3.Connection) -> Iterator[Standing]:
    """Yield the images of an index, live or past, with since when each is idle; newest first."""
    uses: dict[str, list[UseRow]] = {}
    ended = images.ended_holds(connection)
    for use in images.uses(connection):
        uses.setdefault(use.manifest_digest, []).append(use)
    for row in images.handles(connection):
        lasting = uses.get(row.manifest_digest, [])
        held = ended.get(row.manifest_digest)
        since = None if lasting else max(row.last_used_at, row.idle_since or 0, held[0] if held else 0)
        yield Standing(row, since, lasting, held)


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
    found = [each for each in standings(connection) if idle_ns(each, now_ns) >= at_least_ns]
    found.sort(key=longest_first)
    return [
        idle_image(
            each,
            now_ns,
            store.at(each.lasting[0].seq)
            if each.lasting
            else idle_since(connection, store, each.row, each.ended),
        )
        for each in found
    ]


def idle_image(standing: Standing, now_ns: int, event: StoredEvent | None) -> IdleImage:
    """Return an image as callers get it; ``event`` says since when it is idle, or in use."""
    row, since, lasting, _ = standing
    return IdleImage(
        seen(row),
        row.manifest_digest,
        row.last_used_at,
        idle_ns(standing, now_ns),
        event,
        tuple(dict.fromkeys(use.holder for use in lasting if use.holder is not None)),
        lasting[0].since if lasting else None,
        since,
    )


def idle_ns(standing: Standing, now_ns: int) -> int:
    """Return for how long an image is idle, in ns; 0: it is in use."""
    return 0 if standing.since_ns is None else max(0, now_ns - standing.since_ns)


def longest_first(found: Standing) -> tuple[bool, int, str, str]:
    """Return what images are ordered by, those that lie idle longest first."""
    row, since = found.row, found.since_ns
    return since is None, since or 0, row.reference, row.name


def idle_since(
    connection: sqlite3.Connection, store: EventStore, row: HandleRow, ended: tuple[int, int] | None = None
) -> StoredEvent | None:
    """Return the event that says since when an image that no sandbox runs from is idle.

    ``ended`` is when the last hold that had an end came to it, and the event that says so.
    """
    if ended is not None and ended[0] > max(row.last_used_at, row.idle_since or 0):
        return store.at(ended[1])
    return idle_event(store, row) or last_use(connection, store, row)


def idle_event(store: EventStore, row: HandleRow) -> StoredEvent | None:
    """Return the event that ended the last boot, since which an image is idle; None: it was used since then.

    It counts for an image that no sandbox runs from now.
    """
    if row.idle_since is None or row.idle_seq is None or row.idle_since < row.last_used_at:
        return None
    return store.at(row.idle_seq)


def last_use(connection: sqlite3.Connection, store: EventStore, row: HandleRow) -> StoredEvent | None:
    """Return the event that says when an image was last used: the latest of those at that time.

    One that is said to have happened later was brought down to it, as the clock was ahead.
    """
    found = connection.execute(
        "SELECT max(e.seq) FROM events e JOIN image i ON i.reference = e.subject "
        "WHERE i.name = ? AND e.seq >= i.seq AND e.occurred_at >= ? AND +e.type IN (?, ?) "
        "AND (i.name = i.reference OR json_extract(e.data, '$.spelling') = i.name) "
        # A boot from where the reference pointed before does not count.
        "AND (json_extract(e.data, '$.run') IS NULL "
        "OR json_extract(e.data, '$.manifest_digest') = i.manifest_digest)",
        (row.name, row.last_used_at, ev.ImagePulled.type, ev.ImageUsed.type),
    ).fetchone()
    return None if found[0] is None else store.at(found[0])
