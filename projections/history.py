"""Everything that happened to an image, or several, across retags, removals and re-pulls.

The log's own index by subject serves the events; the ``pointed_at`` projection says which manifests a
reference ever pointed at, and since when. So a history costs what it shows, however long the log is,
and writing costs no row per event.
"""

from __future__ import annotations

import heapq
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import NamedTuple, Protocol

import msgspec
from msgspec.structs import asdict

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import EventStore, StoredEvent
from msb_cache.projections.images import layers_once_damaged

OF_MANIFEST = tuple(
    each.type
    for each in ev.EVENT_TYPES
    if each.about in ("manifest", "image", "artifact") and each.in_history
)
OF_LAYER = tuple(each.type for each in ev.EVENT_TYPES if each.about in ("layer", "artifact"))
_FEW, _MANY = 50, 500


class HistoryEvent(StoredEvent, frozen=True, kw_only=True):
    """An event of an image's history; ``shared`` marks a layer that other images had as well."""

    shared: bool = False


class Scope(msgspec.Struct, frozen=True):
    """Whose history it is: these references, or, with a digest, what concerned that manifest alone.

    Both in canonical form. With a digest, ``references`` are those that ever pointed at it.
    """

    references: Sequence[str]
    digest: str | None = None


class Log(Protocol):
    """What a history asks of a log; see ``EventStore``."""

    def read(
        self,
        *,
        after: int = 0,
        until: int | None = None,
        types: Iterable[str] | None = None,
        subjects: Iterable[str] | None = None,
        operation: str | None = None,
    ) -> Iterator[StoredEvent]:
        """Yield the events that fit every given condition, in position order."""
        ...


class Known(NamedTuple):
    """What an index knows of a scope.

    Attributes:
        pointed_at: the manifests in it, each with the position at which a reference first pointed there.
        damaged: the layers that were ever deleted although an image needed them; others may be among them.
    """

    pointed_at: Mapping[str, int]
    damaged: AbstractSet[str]


def history(
    connection: sqlite3.Connection,
    store: EventStore,
    scope: Scope,
    *,
    after: int = 0,
    until: int | None = None,
) -> Iterator[HistoryEvent]:
    """Yield a history in position order, between two positions (``after`` itself is left out).

    It holds: the events on the references; for every manifest they ever pointed at, holds, releases and
    deletion outcomes from the moment one first pointed there; and layer outcomes of the operations that
    removed these references or those manifests, of layers they had by then and of flat roots.
    """
    known = Known(_pointed_at(connection, scope, until), layers_once_damaged(connection))
    return history_of(store, scope, known, after=after, until=until)


def history_of(
    store: Log, scope: Scope, known: Known, *, after: int = 0, until: int | None = None
) -> Iterator[HistoryEvent]:
    """Yield what ``history`` does, of a log whose index is elsewhere.

    Args:
        store: the log's events, or all of those that concern the scope.
        scope: whose history.
        known: what the index has of it.
        after: only positions greater than this.
        until: only positions up to and including this.
    """
    history_ = _History(store, scope, known, until)
    pending: list[HistoryEvent] = []
    if after:
        # What removed an image before may still delete its layers now.
        for event in sorted(history_.removals(after), key=lambda event: event.seq):
            pending += history_.outcomes(event, after)
    pending.sort(key=lambda entry: entry.seq)
    for event in heapq.merge(*history_.streams(after), key=lambda event: event.seq):
        if not history_.concerns(event):
            continue
        yield from _until(pending, event.seq)
        yield HistoryEvent(**asdict(event))
        outcomes = history_.outcomes(event, event.seq)
        if outcomes:
            pending = sorted([*pending, *outcomes], key=lambda entry: entry.seq)
    yield from pending


class _History:
    """One history's manifests and layers, as far as it was read."""

    def __init__(self, store: Log, scope: Scope, known: Known, until: int | None) -> None:
        self._store = store
        self._scope = scope
        self._until = until
        self._pointed_at = known.pointed_at
        self._of_manifest = OF_MANIFEST if scope.digest is None else (*OF_MANIFEST, ev.ManifestAdded.type)
        self._layers: dict[str, set[str]] = {}
        self._removed_in: set[str] = set()
        damaged = known.damaged
        self._damaged = damaged & self._diff_ids([*self._pointed_at]) if damaged else damaged

    def streams(self, after: int) -> Iterator[Iterator[StoredEvent]]:
        """Yield what has to be merged: the references' events, and the manifests'."""
        read, until = self._store.read, self._until
        for references in _chunks(self._scope.references):
            yield read(subjects=references, after=after, until=until)
        for digests in _chunks([*self._pointed_at]):
            first = max(after, min(self._pointed_at[digest] for digest in digests))
            yield self._once_pointed_at(
                read(subjects=digests, types=self._of_manifest, after=first, until=until)
            )
        for diff_ids in _chunks(sorted(self._damaged)):
            gone = read(subjects=diff_ids, types=[ev.LayerDeleted.type], after=after, until=until)
            yield (event for event in gone if getattr(event.data, "needed", False))

    def removals(self, until: int) -> Iterator[StoredEvent]:
        """Yield what removed a reference or a manifest up to a position."""
        removed, deleted = [ev.ImageRemoved.type], [ev.ManifestDeleted.type]
        for references in _chunks(self._scope.references):
            yield from filter(
                self.concerns, self._store.read(subjects=references, types=removed, until=until)
            )
        for digests in _chunks([*self._pointed_at]):
            yield from self._once_pointed_at(self._store.read(subjects=digests, types=deleted, until=until))

    def concerns(self, event: StoredEvent) -> bool:
        """Return whether an event on one of the references is part of the history."""
        digest, data = self._scope.digest, event.data
        if not data.in_history and data.about == "artifact":
            return False
        if digest is None or event.subject in self._damaged:
            return True
        return digest in (
            event.subject,
            getattr(data, "manifest_digest", None),
            getattr(data, "previous_digest", None),
        )

    def outcomes(self, event: StoredEvent, after: int) -> list[HistoryEvent]:
        """Return what became of the layers, after a position, if this event removed an image; once only."""
        removed = isinstance(event.data, ev.ImageRemoved | ev.ManifestDeleted)
        if not removed or event.operation in self._removed_in:
            return []
        self._removed_in.add(event.operation)
        digests = [name for name, seq in self._pointed_at.items() if seq < event.seq]
        read = partial(
            self._store.read,
            operation=event.operation,
            after=max(event.seq, after),
            until=self._until,
        )
        layers = map(_layer_entry, read(subjects=self._diff_ids(digests), types=OF_LAYER))
        roots = (
            HistoryEvent(**asdict(each))
            for each in read(types=[ev.FlatDeleted.type])
            if isinstance(each.data, ev.FlatDeleted) and each.data.manifest_digest in digests
        )
        return [*layers, *roots]

    def _once_pointed_at(self, events: Iterator[StoredEvent]) -> Iterator[StoredEvent]:
        return (event for event in events if event.seq > self._pointed_at[event.subject])

    def _diff_ids(self, digests: list[str]) -> set[str]:
        """Return the layers those manifests ever had; the index may no longer know, the log does."""
        unknown = [digest for digest in digests if digest not in self._layers]
        for digest in unknown:
            self._layers[digest] = set()
        for event in self._store.read(subjects=unknown, types=[ev.ManifestAdded.type]) if unknown else ():
            if isinstance(event.data, ev.ManifestAdded):
                self._layers[event.subject].update(layer.diff_id for layer in event.data.layers)
        return {diff_id for digest in digests for diff_id in self._layers[digest]}


def _pointed_at(connection: sqlite3.Connection, scope: Scope, until: int | None) -> dict[str, int]:
    """Return the manifests in a scope, each with the position at which a reference first pointed there."""
    if scope.digest is not None:
        return {scope.digest: 0}
    rows = connection.execute(
        "SELECT manifest_digest, min(seq) AS first FROM pointed_at "
        "WHERE reference IN (SELECT value FROM json_each(?)) AND seq <= ? GROUP BY 1 ORDER BY first",
        (msgspec.json.encode(scope.references).decode(), sys.maxsize if until is None else until),
    )
    return dict(rows.fetchall())


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    # One name comes out of the log in order and at once. Thousands are sorted, in a few queries.
    size = 1 if len(names) <= _FEW else _MANY
    return (names[start : start + size] for start in range(0, len(names), size))


def _until(pending: list[HistoryEvent], seq: int) -> Iterator[HistoryEvent]:
    while pending and pending[0].seq < seq:
        yield pending.pop(0)


def _layer_entry(event: StoredEvent) -> HistoryEvent:
    data = event.data
    needed = isinstance(data, ev.ArtifactKept) and data.reason == "needed"
    shared = needed or (isinstance(data, ev.LayerDeleted) and data.manifests > 1)
    return HistoryEvent(**asdict(event), shared=shared)
