"""Deletion reports: what a remove or prune decided, deleted, kept and why, and who ran it.

What msb deleted by itself is reported too: what a sync found gone is one deletion, of the kind ``external``.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import Actor, EventStore, StoredEvent
from msb_cache.projections import undoings
from msb_cache.projections.rows import DeletionOutcomeRow, DeletionRow, LeftoverRow, UndoingRow
from msb_cache.projections.tables import columns

_AFTER_ALL = "\U0010ffff"
_SELECT = f"SELECT {', '.join(columns(DeletionRow))} FROM deletion"  # noqa: S608


@dataclass
class ArtifactReport:
    """One planned artifact and what became of it.

    ``outcome`` is ``deleted``, ``kept``, ``failed``, or None while unknown. Sizes in bytes.
    ``manifest_digest`` is what a flat root is the root of, where that is known.
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


class Claim(NamedTuple):
    """A deletion that msb carries out wants this artifact gone, and does not know yet whether it is.

    ``spellings``: which of a reference, under its metadata; none: all.
    """

    operation: str
    kind: ev.DeletionKind
    forced: bool
    spellings: frozenset[str] = frozenset()


@dataclass(frozen=True)
class DeletionSummary:
    """A deletion in a list: who ran it, by which policy (of msb's own there is none), and its counters."""

    operation: str
    actor: Actor
    policy: dict[str, Any]
    counters: DeletionRow


@dataclass
class DeletionReport:
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


def deletions(connection: sqlite3.Connection, *, limit: int | None = None) -> list[DeletionRow]:
    """Return past deletions with their counters, newest first."""
    rows = connection.execute(f"{_SELECT} ORDER BY seq DESC LIMIT ?", (-1 if limit is None else limit,))
    return [DeletionRow(*row) for row in rows]


def summaries(
    connection: sqlite3.Connection, store: EventStore, *, limit: int | None = None
) -> list[DeletionSummary]:
    """Return the summaries of past deletions, newest first."""
    found = (summary(store, row) for row in deletions(connection, limit=limit))
    return [each for each in found if each is not None]


def summary(store: EventStore, row: DeletionRow) -> DeletionSummary | None:
    """Return a deletion's summary; its first event says who and by which policy."""
    for event in store.read(after=row.seq - 1, until=row.seq):
        return DeletionSummary(row.operation, event.actor, _policy(event), row)
    return None


def find(connection: sqlite3.Connection, prefix: str) -> list[DeletionRow]:
    """Return the deletions whose operation id begins with ``prefix``, oldest first."""
    rows = connection.execute(
        f"{_SELECT} WHERE operation >= ? AND operation < ? ORDER BY operation",
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


def report(connection: sqlite3.Connection, store: EventStore, operation: str) -> DeletionReport | None:
    """Fold one operation's events into its report; None when no deletion has that id."""
    row = connection.execute(f"{_SELECT} WHERE operation = ?", (operation,)).fetchone()
    if row is None:
        return None
    counters = DeletionRow(*row)
    result: DeletionReport | None = None
    artifacts: dict[tuple[str, str], ArtifactReport] = {}
    for event in store.read(operation=operation, after=counters.seq - 1):
        data = event.data
        if result is None:
            result = DeletionReport(operation, event.actor, _policy(event), counters)
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
        result.restores = undoings.of_deletion(connection, operation)
    return result


def _policy(first: StoredEvent) -> dict[str, Any]:
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
