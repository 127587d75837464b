"""Deletion reports: what a remove or prune decided, deleted, kept and why, and who ran it.

What msb deleted by itself is reported too: what a sync found gone is one deletion, of the kind ``external``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import Actor, EventStore, StoredEvent
from msb_cache.oci.reference import as_typed
from msb_cache.projections import deletions, undoings
from msb_cache.projections.rows import DeletionRow, UndoingRow
from msb_cache.retention.because import judged_because
from msb_cache.shapes import Result, Time


@dataclass
class ArtifactReport(Result):
    """One planned artifact and what became of it.

    ``outcome`` is ``deleted``, ``kept``, ``failed``, or None while unknown. Sizes in bytes: ``planned_bytes``
    when that was decided, None if it could not be measured; ``bytes`` when it went, None if it did not.
    ``reason`` says why it was kept or failed; None: it is neither. ``manifest_digest`` is what a flat root is
    the root of, where that is known.
    """

    kind: str
    subject: str
    planned_bytes: int | None
    manifests: int
    outcome: str | None = None
    bytes: int | None = None
    recovered: bool = False
    reason: str | None = None
    holders: tuple[str, ...] = ()
    manifest_digest: str | None = None


@dataclass(frozen=True)
class DeletionSummary(Result):
    """A deletion in a list: who ran it, by which policy (of msb's own there is none), and its counters."""

    operation: str
    actor: Actor
    policy: dict[str, Any]
    counters: DeletionRow

    def _shape(self) -> dict[str, Any]:
        return _of_both(self)


@dataclass
class DeletionReport(Result):
    """Everything one deletion did. Times in ns since the epoch, UTC; ``counters`` as msb counts."""

    operation: str
    actor: Actor
    policy: dict[str, Any]
    counters: DeletionRow
    images: list[tuple[str, ev.ImageRemoved]] = field(default_factory=list)
    artifacts: list[ArtifactReport] = field(default_factory=list)
    kept: list[ev.Judged] = field(default_factory=list)
    going: list[ev.Judged] = field(default_factory=list)
    restores: list[UndoingRow] = field(default_factory=list)
    """The restores that undo it, or parts of it, oldest first."""

    def _shape(self) -> dict[str, Any]:
        return {
            **_of_both(self),
            "images": [
                {
                    "reference": as_typed(reference, data.spelling),
                    "digest": data.manifest_digest,
                    "forced": data.forced,
                }
                for reference, data in self.images
            ],
            "restores": [
                {
                    "operation": undoing.operation,
                    "started_at": Time(undoing.started_at),
                    "finished_at": Time.or_none(undoing.finished_at),
                    "outcome": undoing.outcome,
                    "images_wanted": undoing.wanted,
                    "images_restored": undoing.restored,
                }
                for undoing in self.restores
            ],
            "artifacts": self.artifacts,
            "kept": [
                {**self._judged(each, goes=False), "by": each.holders, "more": each.more}
                for each in self.kept
            ],
            "going": [self._judged(each, goes=True) for each in self.going],
        }

    def _judged(self, each: ev.Judged, *, goes: bool) -> dict[str, Any]:
        return {
            "subject": each.subject,
            "spelling": each.spelling,
            "rule": each.rule,
            "policy_rule": each.policy_rule,
            "idle_ns": each.idle_ns,
            "age_ns": each.age_ns,
            "rank": each.rank,
            "until": Time.or_none(each.until_ns),
            "because": judged_because(each, self.policy, goes=goes),
        }


def _of_both(found: DeletionReport | DeletionSummary) -> dict[str, Any]:
    row = found.counters
    return {
        "operation": found.operation,
        "kind": row.kind,
        "engine": row.engine,
        "policy": found.policy,
        "actor": found.actor,
        "started_at": Time(row.started_at),
        "finished_at": Time.or_none(row.finished_at),
        "outcome": row.outcome,
        "recovered": bool(row.recovered),
        "image_refs_removed": row.image_refs_removed,
        "manifests_removed": row.manifests_removed,
        "layers_removed": row.layers_removed,
        "fsmeta_removed": row.fsmeta_removed,
        "vmdk_removed": row.vmdk_removed,
        "bytes_reclaimed": row.bytes_reclaimed,
        "flat_removed": row.flat_removed,
        "flat_bytes_reclaimed": row.flat_bytes_reclaimed,
    }


def summaries(
    connection: sqlite3.Connection, store: EventStore, *, limit: int | None = None
) -> list[DeletionSummary]:
    """Return the summaries of past deletions, newest first."""
    found = (summary(store, row) for row in deletions.deletions(connection, limit=limit))
    return [each for each in found if each is not None]


def summary(store: EventStore, row: DeletionRow) -> DeletionSummary | None:
    """Return a deletion's summary; its first event says who and by which policy."""
    for event in store.read(after=row.seq - 1, until=row.seq):
        return DeletionSummary(row.operation, event.actor, policy_of(event), row)
    return None


def report(connection: sqlite3.Connection, store: EventStore, operation: str) -> DeletionReport | None:
    """Fold one operation's events into its report; None when no deletion has that id."""
    row = connection.execute(f"{deletions.SELECT} WHERE operation = ?", (operation,)).fetchone()
    if row is None:
        return None
    counters = DeletionRow(*row)
    events = store.read(operation=operation, after=counters.seq - 1)
    return report_of(counters, events, undoings.of_deletion(connection, operation))


def report_of(
    counters: DeletionRow, events: Iterable[StoredEvent], restores: list[UndoingRow]
) -> DeletionReport | None:
    """Fold a deletion's events, from its first one on, into its report; None when there is no event.

    Args:
        counters: the deletion.
        events: those of its operation.
        restores: what undoes it, oldest first.
    """
    result: DeletionReport | None = None
    artifacts: dict[tuple[str, str], ArtifactReport] = {}
    for event in events:
        data = event.data
        if result is None:
            result = DeletionReport(counters.operation, event.actor, policy_of(event), counters)
        if isinstance(data, ev.DeletionStarted):
            result.kept.extend(data.kept)
            result.going.extend(data.going)
            for planned in data.artifacts:
                found = ArtifactReport(
                    planned.kind,
                    planned.subject,
                    planned.bytes,
                    planned.manifests,
                    manifest_digest=planned.manifest_digest,
                )
                artifacts[planned.kind, planned.subject] = found
        elif isinstance(data, ev.ImageRemoved):
            result.images.append((event.subject, data))
        elif isinstance(data, ev.ArtifactDeleted | ev.ArtifactKept | ev.ArtifactDeleteFailed):
            entry = artifacts.get((data.kind, event.subject))
            if entry is None and counters.kind == "external":
                entry = ArtifactReport(data.kind, event.subject, None, getattr(data, "manifests", 1))
                artifacts[data.kind, event.subject] = entry
            if entry is not None:
                _settle(entry, data)
    if result is not None:
        result.artifacts = list(artifacts.values())
        result.restores = restores
    return result


def policy_of(first: StoredEvent) -> dict[str, Any]:
    """Return by which policy a deletion with this first event was decided; empty: by none of ours."""
    return first.data.policy if isinstance(first.data, ev.DeletionStarted) else {}


def _settle(
    entry: ArtifactReport, data: ev.ArtifactDeleted | ev.ArtifactKept | ev.ArtifactDeleteFailed
) -> None:
    if isinstance(data, ev.ArtifactDeleted):
        entry.outcome, entry.bytes, entry.recovered = "deleted", data.bytes, data.recovered
    elif isinstance(data, ev.ArtifactKept):
        entry.outcome, entry.reason, entry.holders = "kept", data.reason, data.holders
    else:
        entry.outcome, entry.reason = "failed", data.reason
