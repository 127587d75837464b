"""Delete from the cache: decide in one transaction, then unlink file by file and record each outcome.

The decision is in the log, with every artifact and its size, before the first file goes. Each artifact
goes under its own lock, after asking the index once more whether somebody needs it now. So a deletion
that is cut short anywhere can be finished by the next process (see ``recovery``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from msb_cache import logs
from msb_cache.artifacts import files
from msb_cache.artifacts.layout import Layout, lock_path, make_private, sync_folder
from msb_cache.artifacts.locks import Lock
from msb_cache.errors import BusyError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.ledger import Ledger, Transaction
from msb_cache.operations import Operation
from msb_cache.plan import Plan
from msb_cache.projections import images
from msb_cache.projections.state import IndexState, load
from msb_cache.steps import reached

Planner = Callable[[IndexState, Plan | None], Plan]
"""Makes the plan from the index; the second argument restricts it to a plan that was shown."""

_OUTCOMES: dict[str, type[ev.ArtifactDeleted]] = {
    "metadata": ev.MetadataDeleted,
    "fsmeta": ev.FsmetaDeleted,
    "vmdk": ev.VmdkDeleted,
}
_PRUNE_WAIT = 10.0  # seconds: a single removal is over long before
_BATCH = 500
_PART = 10_000  # artifacts a deletion.started event takes; about 1.5 MB of its 4 MiB
_EMPTY = IndexState({}, {}, frozenset(), {})


@dataclass(frozen=True)
class Preview:
    """What a deletion would do now: the plan, and each artifact with its measured size in bytes."""

    plan: Plan
    artifacts: tuple[ev.PlannedArtifact, ...]

    @property
    def bytes(self) -> int | None:
        """The sum of the known sizes, None when none is known."""
        known = [artifact.bytes for artifact in self.artifacts if artifact.bytes is not None]
        return sum(known) if known else None

    @property
    def orphans(self) -> int:
        """How many files would go that no image names."""
        return len(self.orphaned())

    def orphaned(self) -> set[tuple[str, str]]:
        """Return the kind and subject of each file that would go and no image names."""
        plan = self.plan
        own: set[tuple[str, str]] = {("metadata", reference) for reference, _ in plan.references}
        own |= {(kind, digest) for digest in plan.manifests for kind in ("manifest", "fsmeta", "vmdk")}
        own |= {("layer", diff_id) for diff_id, _ in plan.layers}
        found: set[tuple[str, str]] = {(artifact.kind, artifact.subject) for artifact in self.artifacts}
        return found - own

    def count(self, kind: str) -> int:
        """Return how many artifacts of a kind would go."""
        return sum(artifact.kind == kind for artifact in self.artifacts)


Confirm = Callable[[Preview], bool]


def preview(ledger: Ledger, planner: Planner, *, orphans: bool = False) -> Preview:
    """Plan and measure; changes nothing and appends nothing."""
    with ledger.snapshot() as connection:
        state = _EMPTY if connection is None else load(connection)
    plan = planner(state, None)
    artifacts = list(_artifacts(ledger.layout, plan))
    if orphans:
        artifacts += _orphans(ledger.layout, state)
    return Preview(plan, tuple(artifacts))


def delete(
    ledger: Ledger,
    planner: Planner,
    *,
    kind: ev.DeletionKind,
    policy: dict[str, Any],
    orphans: bool = False,
    confirm: Confirm | None = None,
) -> tuple[str | None, Preview]:
    """Decide and delete.

    Args:
        ledger: the home.
        planner: what to delete.
        kind: the command, for the record.
        policy: its rules, for the record.
        orphans: delete files that the index does not name as well.
        confirm: asked with the preview before anything is decided; false ends it.

    Returns:
        The operation, None when there was nothing to delete or it was not confirmed; and what was
        shown before.

    Raises:
        BusyError: another deletion runs in this home.
    """
    layout = ledger.layout
    with _one_at_a_time(layout) as operation:
        shown = preview(ledger, planner, orphans=orphans)
        if (shown.plan.empty and not shown.artifacts) or (confirm is not None and not confirm(shown)):
            return None, shown
        reached("delete.planned")
        with ledger.transaction(operation.id) as transaction:
            artifacts = _decide(transaction, operation.id, planner, shown, kind, policy)
            reached("delete.deciding")
        if artifacts is None:
            return None, shown
        reached("delete.decided")
        logs.info("deletion.decided", operation=operation.id, kind=kind, artifacts=len(artifacts))
        execute(ledger, operation.id, artifacts)
        return operation.id, shown


def execute(
    ledger: Ledger,
    operation: str,
    artifacts: Sequence[ev.PlannedArtifact],
    *,
    recovering: bool = False,
    partial: bool = False,
) -> None:
    """Delete decided artifacts one by one, record each outcome, and finish the operation.

    Args:
        ledger: the home.
        operation: the operation, whose lock the caller holds.
        artifacts: those without an outcome yet.
        recovering: another process decided; a file that is absent was deleted by it.
        partial: an earlier part of this operation already kept something back.
    """
    outcomes: list[NewEvent] = []
    touched: set[str] = set()
    began = time.monotonic()
    for artifact in artifacts:
        event = _dispose(ledger, artifact, recovering=recovering)
        touched.add(artifact.kind)
        partial = partial or not isinstance(event, ev.ArtifactDeleted)
        outcomes.append(NewEvent(event, artifact.subject))
        logs.debug(event.type, kind=artifact.kind, subject=artifact.subject)
        reached("delete.unlinked")
        if len(outcomes) >= _BATCH or time.monotonic() - began > 1.0:
            _record(ledger, operation, outcomes, touched)
            outcomes, touched, began = [], set(), time.monotonic()
    outcome: Any = "partial" if partial else "completed"
    finished = ev.DeletionFinished(outcome=outcome, recovered=recovering)
    _record(ledger, operation, [*outcomes, NewEvent(finished, operation)], touched)
    reached("delete.finished")
    logs.info("deletion.finished", operation=operation, outcome=outcome)


def is_needed(ledger: Ledger, kind: str, subject: str) -> bool:
    """Return whether the index, as it is now, needs an artifact."""
    with ledger.snapshot() as connection:
        if connection is None:
            return False
        if kind == "layer":
            return images.has_layer(connection, subject)
        if kind != "metadata":
            return images.has_manifest(connection, subject)
        if images.has_image(connection, subject):
            return True
        path = ledger.layout.artifact(kind, subject)
        return path in _expected_metadata(ledger.layout, load(connection))


def _decide(
    transaction: Transaction,
    operation: str,
    planner: Planner,
    shown: Preview,
    kind: ev.DeletionKind,
    policy: dict[str, Any],
) -> list[ev.PlannedArtifact] | None:
    state = load(transaction.connection)
    plan = planner(state, shown.plan)
    artifacts = _still_wanted(plan, state, shown)
    if plan.empty and not artifacts:
        return None
    deleted_files = [artifact for artifact in artifacts if artifact.kind != "manifest"]
    kept = [ev.KeptBack(subject=k.subject, rule=k.rule, holders=k.by) for k in plan.kept]
    events = [NewEvent(event, operation) for event in _started(kind, policy, artifacts, kept)]
    for reference, digest in plan.references:
        forced = kind == "remove" and digest in state.holders
        events.append(NewEvent(ev.ImageRemoved(manifest_digest=digest, cause=kind, forced=forced), reference))
    events += [NewEvent(ev.ManifestDeleted(), digest) for digest in plan.manifests]
    transaction.append(events)
    return deleted_files


def _started(
    kind: ev.DeletionKind,
    policy: dict[str, Any],
    artifacts: Sequence[ev.PlannedArtifact],
    kept: Sequence[ev.KeptBack],
) -> Iterator[ev.DeletionStarted]:
    parts = max(1, -(-len(artifacts) // _PART), -(-len(kept) // _PART))
    for part in range(parts):
        chunk = slice(part * _PART, (part + 1) * _PART)
        yield ev.DeletionStarted(
            kind=kind,
            policy=policy,
            artifacts=tuple(artifacts[chunk]),
            kept=tuple(kept[chunk]),
            part=part + 1,
            parts=parts,
        )


def _artifacts(layout: Layout, plan: Plan) -> Iterator[ev.PlannedArtifact]:
    """Yield what a plan deletes, in the order in which it goes: what refers before what is referred to."""
    for reference, _ in plan.references:
        yield from _file("metadata", reference, layout)
    for digest in plan.manifests:
        yield ev.PlannedArtifact(kind="manifest", subject=digest)
        yield from _file("vmdk", digest, layout)
        yield from _file("fsmeta", digest, layout)
    for diff_id, manifests in plan.layers:
        # Named even when its file is missing: naming it takes its record out of the index.
        size = files.measure(layout.layer(diff_id))
        yield ev.PlannedArtifact(kind="layer", subject=diff_id, bytes=size, manifests=manifests)


def _file(kind: ev.ArtifactKind, subject: str, layout: Layout) -> Iterator[ev.PlannedArtifact]:
    size = files.measure(layout.artifact(kind, subject))
    if size is not None:
        yield ev.PlannedArtifact(kind=kind, subject=subject, bytes=size)


def _orphans(layout: Layout, state: IndexState) -> Iterator[ev.PlannedArtifact]:
    """Yield files that the index does not name and no process has locked."""
    needed_layers = {diff_id for layers in state.manifests.values() for diff_id in layers}
    metadata = _expected_metadata(layout, state)
    for kind, subject, path in layout.files():
        if (
            (kind == "layer" and (subject in needed_layers or subject in state.layers))
            or (kind in ("fsmeta", "vmdk") and subject in state.manifests)
            or (kind == "metadata" and path in metadata)
        ):
            continue
        lock = Lock(lock_path(path))
        if lock.acquire():
            lock.release()
            yield ev.PlannedArtifact(kind=kind, subject=subject, bytes=files.measure(path))


def _expected_metadata(layout: Layout, state: IndexState) -> set[os.PathLike[str]]:
    return {layout.metadata(reference) for reference in state.references}


def _still_wanted(plan: Plan, state: IndexState, shown: Preview) -> list[ev.PlannedArtifact]:
    """Return what of the shown artifacts goes: the decided plan's, and files the index still lacks."""
    references = {reference for reference, _ in plan.references}
    manifests, layers = set(plan.manifests), {diff_id for diff_id, _ in plan.layers}
    needed = {diff_id for found in state.manifests.values() for diff_id in found}
    wanted = []
    for artifact in shown.artifacts:
        kind, subject = artifact.kind, artifact.subject
        if kind == "metadata":
            keep = subject in state.references and subject not in references
        elif kind == "layer":
            keep = subject in needed and subject not in layers
        else:
            keep = subject in state.manifests and subject not in manifests
        if not keep:
            wanted.append(artifact)
    return wanted


def _dispose(ledger: Ledger, artifact: ev.PlannedArtifact, *, recovering: bool) -> ev.Event:
    kind, subject = artifact.kind, artifact.subject
    path = ledger.layout.artifact(kind, subject)
    lock = Lock(lock_path(path))
    try:
        if path.parent.is_dir():
            if not lock.acquire():
                return ev.ArtifactKept(kind=kind, reason="busy")
            if is_needed(ledger, kind, subject):
                return ev.ArtifactKept(kind=kind, reason="needed")
            size = files.delete(path)
        else:
            size = None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return ev.ArtifactDeleteFailed(kind=kind, errno=error.errno or 0, reason=reason)
    finally:
        lock.release(unlink=not os.path.lexists(path))
    recovered = recovering and size is None
    if recovered:
        size = artifact.bytes
    if kind == "layer":
        return ev.LayerDeleted(bytes=size, recovered=recovered, manifests=artifact.manifests)
    return _OUTCOMES[kind](bytes=size, recovered=recovered)


def _record(ledger: Ledger, operation: str, outcomes: list[NewEvent], kinds: Iterable[str]) -> None:
    for kind in kinds:
        folder = ledger.layout.folders[kind]  # type: ignore[index]
        if folder.is_dir():
            sync_folder(folder)
    reached("delete.recording")
    with ledger.transaction(operation) as transaction:
        transaction.append(outcomes)


@contextmanager
def _one_at_a_time(layout: Layout) -> Iterator[Operation]:
    make_private(layout.db)
    with Operation(layout) as operation, Lock(layout.prune_lock) as lock:
        if not lock.acquire(wait=_PRUNE_WAIT):
            running = layout.prune_lock.read_text(errors="replace")[:36] or "unknown"
            raise BusyError(f"another deletion runs in {layout.home} (operation {running}); try again later")
        lock.write(operation.id)
        yield operation
        lock.write("")
