"""Everything that happened to one image, across retags, removals and re-pulls.

The log's own index by subject serves the events; the ``pointed_at`` projection says which manifests a
reference ever pointed at, and since when. So a history costs what it shows, however long the log is,
and writing costs no row per event.
"""

from __future__ import annotations

import heapq
import sqlite3
import sys
from collections.abc import Iterator

from msgspec.structs import asdict

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import EventStore, StoredEvent

_OF_MANIFEST = (
    ev.ImageHeld.type,
    ev.ImageReleased.type,
    ev.ManifestDeleted.type,
    ev.FsmetaDeleted.type,
    ev.VmdkDeleted.type,
    ev.ArtifactKept.type,
    ev.ArtifactDeleteFailed.type,
)
_OF_LAYER = (ev.LayerDeleted.type, ev.ArtifactKept.type, ev.ArtifactDeleteFailed.type)


class HistoryEvent(StoredEvent, frozen=True, kw_only=True):
    """An event of an image's history; ``shared`` marks a layer that other images had as well."""

    shared: bool = False


def history(
    connection: sqlite3.Connection, store: EventStore, reference: str, *, until: int | None = None
) -> Iterator[HistoryEvent]:
    """Yield a canonical reference's history in position order.

    It holds: the events on the reference; for every manifest it ever pointed at, holds, releases and
    deletion outcomes from the moment it first pointed there; and layer outcomes of the operations that
    removed this reference or those manifests, of layers it had by then.
    """
    pointed_at = connection.execute(
        "SELECT manifest_digest, seq FROM pointed_at WHERE reference = ? AND seq <= ? ORDER BY seq",
        (reference, sys.maxsize if until is None else until),
    ).fetchall()
    streams = [store.read(subjects=[reference], until=until)]
    streams += [
        store.read(subjects=[digest], types=_OF_MANIFEST, after=seq, until=until)
        for digest, seq in pointed_at
    ]
    layers: dict[str, set[str]] = {}
    removed_in: set[str] = set()
    pending: list[HistoryEvent] = []
    for event in heapq.merge(*streams, key=lambda event: event.seq):
        yield from _until(pending, event.seq)
        yield HistoryEvent(**asdict(event))
        if isinstance(event.data, ev.ImageRemoved | ev.ManifestDeleted) and event.operation not in removed_in:
            removed_in.add(event.operation)
            outcomes = store.read(
                subjects=_diff_ids(store, [digest for digest, seq in pointed_at if seq < event.seq], layers),
                types=_OF_LAYER,
                operation=event.operation,
                after=event.seq,
                until=until,
            )
            pending = sorted([*pending, *map(_layer_entry, outcomes)], key=lambda entry: entry.seq)
    yield from pending


def _until(pending: list[HistoryEvent], seq: int) -> Iterator[HistoryEvent]:
    while pending and pending[0].seq < seq:
        yield pending.pop(0)


def _diff_ids(store: EventStore, digests: list[str], known: dict[str, set[str]]) -> set[str]:
    """Return the layers those manifests ever had; the index may no longer know, the log does."""
    unknown = [digest for digest in digests if digest not in known]
    for digest in unknown:
        known[digest] = set()
    for event in store.read(subjects=unknown, types=[ev.ManifestAdded.type]) if unknown else ():
        if isinstance(event.data, ev.ManifestAdded):
            known[event.subject].update(layer.diff_id for layer in event.data.layers)
    return {diff_id for digest in digests for diff_id in known[digest]}


def _layer_entry(event: StoredEvent) -> HistoryEvent:
    data = event.data
    needed = isinstance(data, ev.ArtifactKept) and data.reason == "needed"
    shared = needed or (isinstance(data, ev.LayerDeleted) and data.manifests > 1)
    return HistoryEvent(**asdict(event), shared=shared)
