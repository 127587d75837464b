"""What both engines decide and record of a deletion in the same words: preview, decision, outcomes.

Not what goes (``prune_plan``), and not how it goes (``own.delete``, ``msb.delete``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from msb_cache.artifacts import files
from msb_cache.artifacts.kinds import FLAT, belonging_to, needing
from msb_cache.artifacts.layout import Layout
from msb_cache.artifacts.locks import Lock
from msb_cache.engines.leftovers import Leftover
from msb_cache.engines.prune_plan import Plan
from msb_cache.errors import BusyError, LogError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.home.operation import Operation
from msb_cache.projections import restored
from msb_cache.projections.state import IndexState

Planner = Callable[[IndexState, Plan | None], Plan]
"""Makes the plan from the index; the second argument restricts it to a plan that was shown."""

Confirm = Callable[["Preview"], bool]
"""Asked with what was found, before anything is decided; false ends the deletion."""

_PRUNE_WAIT = 10.0  # seconds: a single removal is over long before
_PART_BYTES = 3 * 1024 * 1024  # of the 4 MiB that one event's data may have
_HOLDERS = 20  # names kept of those that hold one image; of the others the number


@dataclass(frozen=True)
class Preview:
    """What a deletion would do now: the plan, and each artifact with its measured size in bytes.

    ``leftovers`` are those of the artifacts that earlier deletions had to leave.
    """

    plan: Plan
    artifacts: tuple[ev.PlannedArtifact, ...]
    leftovers: tuple[Leftover, ...] = ()

    @property
    def bytes(self) -> int | None:
        """The sum of the known sizes, None when none is known; without flat roots, as msb counts."""
        known = [
            artifact.bytes
            for artifact in self.artifacts
            if artifact.bytes is not None and artifact.kind not in FLAT
        ]
        return sum(known) if known else None

    @property
    def flat_bytes(self) -> int:
        """What the flat roots that would go take of the disk."""
        return sum(artifact.bytes or 0 for artifact in self.artifacts if artifact.kind == "flat")

    @property
    def orphans(self) -> int:
        """How many files would go that no image names."""
        return len(self.orphaned())

    def orphaned(self) -> set[tuple[str, str]]:
        """Return the kind and subject of each file that would go and no image names."""
        named = names(self.plan)
        found: set[tuple[str, str]] = {(artifact.kind, artifact.subject) for artifact in self.artifacts}
        roots = [artifact for artifact in self.artifacts if artifact.kind == "flat"]
        return found - named - {("flat", root.subject) for root in roots if goes_with(root) in named}

    def count(self, kind: str) -> int:
        """Return how many artifacts of a kind would go."""
        return sum(artifact.kind == kind for artifact in self.artifacts)


def changes(shown: Preview) -> int:
    """Return how many events a deletion of what was shown appends in one transaction, at most."""
    return len(shown.artifacts) + 2 * len(shown.plan.references)


def names(plan: Plan) -> set[tuple[str, str]]:
    """Return the kind and subject of everything that a plan deletes."""
    reference = plan.naming.reference
    found: set[tuple[str, str]] = {("metadata", reference(name)) for name in plan.references}
    of_manifest = ("manifest", *belonging_to("manifest"))
    found |= {(kind, digest) for digest in plan.manifests for kind in of_manifest}
    return found | {("layer", diff_id) for diff_id in plan.layers}


def goes_with(artifact: ev.PlannedArtifact) -> tuple[str, str]:
    """Return the kind and subject of what a plan names an artifact by: of a flat root, its ref."""
    if artifact.kind == "flat" and artifact.manifest_digest is not None:
        return "flat_ref", artifact.manifest_digest
    return artifact.kind, artifact.subject


def kept_back(plan: Plan) -> list[ev.KeptBack]:
    """Return what the log says of what a plan keeps."""
    return [
        ev.KeptBack(
            subject=plan.naming.reference(kept.subject),
            spelling=plan.naming.spelling(kept.subject),
            rule=kept.rule,
            holders=kept.by[:_HOLDERS],
            more=max(0, len(kept.by) - _HOLDERS),
        )
        for kept in plan.kept
    ]


def started(
    kind: ev.DeletionKind,
    policy: dict[str, Any],
    artifacts: Sequence[ev.PlannedArtifact],
    kept: Sequence[ev.KeptBack],
    engine: ev.Engine = "msb-cache",
) -> list[ev.DeletionStarted]:
    """Return the decision as one event, or as parts that each fit into one."""
    parts: list[tuple[list[ev.PlannedArtifact], list[ev.KeptBack]]] = [([], [])]
    room = _PART_BYTES
    items: list[ev.PlannedArtifact | ev.KeptBack] = [*artifacts, *kept]
    for item in items:
        size = len(msgspec.json.encode(item)) + 1
        if size > room:
            parts.append(([], []))
            room = _PART_BYTES
        room -= size
        if isinstance(item, ev.PlannedArtifact):
            parts[-1][0].append(item)
        else:
            parts[-1][1].append(item)
    return [
        ev.DeletionStarted(
            kind=kind,
            policy=policy,
            artifacts=tuple(planned),
            kept=tuple(back),
            part=number,
            parts=len(parts),
            engine=engine,
        )
        for number, (planned, back) in enumerate(parts, start=1)
    ]


def planned(layout: Layout, plan: Plan) -> Iterator[ev.PlannedArtifact]:
    """Yield what a plan deletes, in the order in which it goes: what refers before what is referred to."""
    for reference in plan.metadata:
        yield from _file("metadata", reference, layout)
    of_manifest = needing("manifest")[::-1]
    flat = layout.sizes("flat_ref")  # of the few that there are
    for digest in plan.manifests:
        yield ev.PlannedArtifact(kind="manifest", subject=digest)
        if digest in flat:
            yield ev.PlannedArtifact(kind="flat_ref", subject=digest, bytes=flat[digest])
        for kind in of_manifest:
            yield from _file(kind, digest, layout)
    for diff_id in plan.layers:
        # Named even when its file is missing: naming it takes its record out of the index.
        size = files.measure(layout.artifact("layer", diff_id))
        manifests = plan.sharing_counts.get(diff_id, 1)
        yield ev.PlannedArtifact(kind="layer", subject=diff_id, bytes=size, manifests=manifests)


def _file(kind: ev.ArtifactKind, subject: str, layout: Layout) -> Iterator[ev.PlannedArtifact]:
    size = files.measure(layout.artifact(kind, subject))
    if size is not None:
        yield ev.PlannedArtifact(kind=kind, subject=subject, bytes=size)


def out_of_index(
    plan: Plan, state: IndexState, kind: ev.DeletionKind, only: Collection[str] | None = None
) -> list[NewEvent]:
    """Return the events that take what a plan deletes out of the index: images, then manifests.

    Args:
        plan: what goes.
        state: the index that it was made of.
        kind: why it goes.
        only: of these names and digests; None: of all.
    """
    events = []
    for name, digest in plan.references.items():
        if only is None or name in only:
            removed = ev.ImageRemoved(
                manifest_digest=digest,
                spelling=plan.naming.spelling(name),
                cause=kind,
                forced=kind == "remove" and digest in state.holders,
            )
            events.append(NewEvent(removed, plan.naming.reference(name)))
    events += [
        NewEvent(ev.ManifestDeleted(), digest) for digest in plan.manifests if only is None or digest in only
    ]
    return events


def deleted(artifact: ev.PlannedArtifact, size: int | None, *, recovered: bool = False) -> ev.ArtifactDeleted:
    """Return the event that says that a planned artifact is gone."""
    if artifact.kind == "layer":
        return ev.LayerDeleted(bytes=size, recovered=recovered, manifests=artifact.manifests)
    if artifact.kind == "flat":
        return ev.FlatDeleted(bytes=size, recovered=recovered, manifest_digest=artifact.manifest_digest)
    return ev.OUTCOMES[artifact.kind](bytes=size, recovered=recovered)


def check_confirmed(connection: sqlite3.Connection | None) -> None:
    """Refuse to collect files that an index does not name because its log was put back to a backup.

    Raises:
        LogError: no person has confirmed the restore yet.
    """
    if connection is not None and restored.unconfirmed(connection) is not None:
        raise LogError(
            "the log was put back to a backup, so images that came after it look like orphans: look at them "
            "with `msb-cache verify`, load or pull again what you need, then run "
            "`msb-cache restore-backup --confirm`"
        )


@contextmanager
def one_at_a_time(ledger: Ledger) -> Iterator[Operation]:
    """Begin a deletion's operation while no other deletion runs in this home; raises BusyError."""
    layout = ledger.layout

    def waiting() -> None:
        ledger.note(f"waiting for another deletion to end (operation {_running(layout)})")

    with Operation(layout) as operation, Lock(layout.prune_lock) as lock:
        if not lock.acquire(wait=_PRUNE_WAIT, say=waiting):
            raise BusyError(
                f"another deletion runs in {layout.home} (operation {_running(layout)}); try again later"
            )
        with files.ignoring_full_disk():  # it is for people who wait
            lock.write(operation.id)
        yield operation
        lock.write("")


def _running(layout: Layout) -> str:
    return layout.prune_lock.read_text(errors="replace")[:36] or "unknown"
