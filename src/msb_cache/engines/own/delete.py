"""Delete from the cache: decide in one transaction, then unlink file by file and record each outcome.

The decision is in the log, with every artifact and its size, before the first file goes. Each artifact
goes under its own lock, after asking the index once more whether somebody needs it now. So a deletion
that is cut short anywhere can be finished by the next process (see ``recovery``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from msb_cache import diagnostics as logs
from msb_cache.artifacts import files
from msb_cache.artifacts.layout import Layout, is_metadata_name, lock_path, make_private, sync_folder
from msb_cache.artifacts.locks import SAY_AFTER, Lock, is_free
from msb_cache.engines.prune_plan import Kept, Plan
from msb_cache.errors import BusyError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.failpoints import reached
from msb_cache.home.ledger import Ledger, Transaction
from msb_cache.home.operation import Operation
from msb_cache.projections import deletions, images
from msb_cache.projections.state import EMPTY, IndexState, load

Planner = Callable[[IndexState, Plan | None], Plan]
"""Makes the plan from the index; the second argument restricts it to a plan that was shown."""

_OUTCOMES: dict[str, type[ev.ArtifactDeleted]] = {
    "manifest": ev.ManifestDeleted,
    "metadata": ev.MetadataDeleted,
    "fsmeta": ev.FsmetaDeleted,
    "vmdk": ev.VmdkDeleted,
}
_PRUNE_WAIT = 10.0  # seconds: a single removal is over long before
_BUSY_WAIT = 0.5  # seconds for each artifact that somebody had locked
_BATCH = 2000  # outcomes recorded together: each batch syncs the folders and the log once
_PART_BYTES = 3 * 1024 * 1024  # of the 4 MiB that one event's data may have
_HOLDERS = 20  # names kept of those that hold one image; of the others the number


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
        found: set[tuple[str, str]] = {(artifact.kind, artifact.subject) for artifact in self.artifacts}
        return found - names(self.plan)

    def count(self, kind: str) -> int:
        """Return how many artifacts of a kind would go."""
        return sum(artifact.kind == kind for artifact in self.artifacts)


Confirm = Callable[[Preview], bool]


class Delete(Protocol):
    """Decides and deletes: :func:`delete` here, and its counterpart for homes that msb keeps."""

    def __call__(
        self,
        ledger: Ledger,
        planner: Planner,
        *,
        kind: ev.DeletionKind,
        policy: dict[str, Any],
        orphans: bool = False,
        confirm: Confirm | None = None,
    ) -> tuple[str | None, Preview]:
        """Return the operation, None when nothing was deleted, and what was shown before."""


def names(plan: Plan) -> set[tuple[str, str]]:
    """Return the kind and subject of everything that a plan deletes."""
    found: set[tuple[str, str]] = {("metadata", reference) for reference in plan.references}
    found |= {(kind, digest) for digest in plan.manifests for kind in ("manifest", "fsmeta", "vmdk")}
    return found | {("layer", diff_id) for diff_id in plan.layers}


def preview(ledger: Ledger, planner: Planner, *, orphans: bool = False) -> Preview:
    """Plan and measure; changes nothing and appends nothing."""
    with ledger.snapshot() as connection:
        state = EMPTY if connection is None else load(connection)
        busy = set() if connection is None else set(deletions.left_busy(connection))
    plan = planner(state, None)
    artifacts = list(planned(ledger.layout, plan))
    if orphans or busy:
        known = {(artifact.kind, artifact.subject) for artifact in artifacts}
        for artifact in _unnamed(ledger.layout, state):
            # Files that an earlier deletion had to leave are made up for, without being asked.
            key = (artifact.kind, artifact.subject)
            if key not in known and (orphans or key in busy):
                artifacts.append(artifact)
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
    shown = preview(ledger, planner, orphans=orphans)
    if (shown.plan.empty and not shown.artifacts) or (confirm is not None and not confirm(shown)):
        return None, shown
    # Not before: a question that waits for its answer must not keep others from deleting.
    with one_at_a_time(ledger) as operation:
        reached("delete.planned")
        with ledger.transaction(operation.id) as transaction:
            artifacts = _decide(transaction, operation.id, planner, shown, kind, policy)
            reached("delete.deciding")
        if artifacts is None:
            return None, shown
        reached("delete.decided")
        logs.info("deletion.decided", operation=operation.id, kind=kind, artifacts=len(artifacts))
        execute(ledger, operation.id, artifacts)
        if orphans:
            _tidy_locks(ledger.layout)
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
    needs = Needs(ledger)
    outcomes: list[NewEvent] = []
    busy: list[ev.PlannedArtifact] = []
    began = time.monotonic()

    def settle(artifact: ev.PlannedArtifact, wait: float) -> None:
        nonlocal partial, outcomes, began
        event = _dispose(ledger, artifact, needs, wait=wait, recovering=recovering)
        if isinstance(event, ev.ArtifactKept) and event.reason == "busy" and not wait:
            busy.append(artifact)
            return
        partial = partial or not isinstance(event, ev.ArtifactDeleted)
        outcomes.append(NewEvent(event, artifact.subject))
        logs.debug(event.type, kind=artifact.kind, subject=artifact.subject)
        reached("delete.unlinked")
        if len(outcomes) >= _BATCH or time.monotonic() - began > 1.0:
            _record(ledger, operation, outcomes)
            outcomes, began = [], time.monotonic()

    for artifact in artifacts:
        settle(artifact, 0.0)
    for artifact in busy:  # whoever had the lock has often just finished
        settle(artifact, _BUSY_WAIT)
    outcome: Any = "partial" if partial else "completed"
    finished = ev.DeletionFinished(outcome=outcome, recovered=recovering)
    _record(ledger, operation, [*outcomes, NewEvent(finished, operation)])
    reached("delete.finished")
    logs.info("deletion.finished", operation=operation, outcome=outcome)


class Needs:
    """Asks the index, as it is now, whether it needs an artifact."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._metadata: set[Path] = set()
        self._position = -1

    def __call__(self, kind: str, subject: str) -> bool:
        """Return whether an artifact of this kind is needed."""
        if kind != "metadata" or not is_metadata_name(subject):
            with self._ledger.statement() as connection:
                return connection is not None and images.needs(connection, kind, subject)
        with self._ledger.snapshot() as connection:
            if connection is None:
                return False
            path = self._ledger.layout.artifact(kind, subject)
            # An orphan is known by its file's name only, a hash: compared with those of all references.
            head = self._ledger.store(connection).head()
            position = head.seq if head else 0
            if position != self._position:
                self._metadata = _expected_metadata(self._ledger.layout, load(connection))
                self._position = position
            return path in self._metadata


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
    artifacts = still_wanted(plan, state, shown)
    if plan.empty and not artifacts:
        return None
    deleted_files = [artifact for artifact in artifacts if artifact.kind != "manifest"]
    kept = [kept_back(each) for each in plan.kept]
    events = [NewEvent(event, operation) for event in started(kind, policy, artifacts, kept)]
    for reference, digest in plan.references.items():
        forced = kind == "remove" and digest in state.holders
        events.append(NewEvent(ev.ImageRemoved(manifest_digest=digest, cause=kind, forced=forced), reference))
    events += [NewEvent(ev.ManifestDeleted(), digest) for digest in plan.manifests]
    transaction.append(events)
    return deleted_files


def kept_back(kept: Kept) -> ev.KeptBack:
    """Return what the log says of something that a plan keeps."""
    return ev.KeptBack(
        subject=kept.subject, rule=kept.rule, holders=kept.by[:_HOLDERS], more=max(0, len(kept.by) - _HOLDERS)
    )


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
    for reference in plan.references:
        yield from _file("metadata", reference, layout)
    for digest in plan.manifests:
        yield ev.PlannedArtifact(kind="manifest", subject=digest)
        yield from _file("vmdk", digest, layout)
        yield from _file("fsmeta", digest, layout)
    for diff_id in plan.layers:
        # Named even when its file is missing: naming it takes its record out of the index.
        size = files.measure(layout.artifact_file("layer", diff_id))
        manifests = plan.repeated.get(diff_id, 1)
        yield ev.PlannedArtifact(kind="layer", subject=diff_id, bytes=size, manifests=manifests)


def _file(kind: ev.ArtifactKind, subject: str, layout: Layout) -> Iterator[ev.PlannedArtifact]:
    size = files.measure(layout.artifact_file(kind, subject))
    if size is not None:
        yield ev.PlannedArtifact(kind=kind, subject=subject, bytes=size)


def _unnamed(layout: Layout, state: IndexState) -> Iterator[ev.PlannedArtifact]:
    """Yield files that the index does not name and no process has locked."""
    layers = state.named_layers()
    metadata = _expected_metadata(layout, state)
    for kind, subject, path in layout.files():
        if (
            (kind == "layer" and subject in layers)
            or (kind in ("fsmeta", "vmdk") and subject in state.manifests)
            or (kind == "metadata" and path in metadata)
        ):
            continue
        if is_free(lock_path(path)):
            yield ev.PlannedArtifact(kind=kind, subject=subject, bytes=files.measure(path))


def _expected_metadata(layout: Layout, state: IndexState) -> set[Path]:
    return {layout.metadata(reference) for reference in state.references}


def still_wanted(plan: Plan, state: IndexState, shown: Preview) -> list[ev.PlannedArtifact]:
    """Return what of the shown artifacts goes: the decided plan's, and files the index still lacks."""
    manifests, layers = set(plan.manifests), set(plan.layers)
    needed = {diff_id for found in state.manifests.values() for diff_id in found}
    wanted = []
    for artifact in shown.artifacts:
        kind, subject = artifact.kind, artifact.subject
        if kind == "metadata":
            keep = subject in state.references and subject not in plan.references
        elif kind == "layer":
            keep = subject in needed and subject not in layers
        else:
            keep = subject in state.manifests and subject not in manifests
        if not keep:
            wanted.append(artifact)
    return wanted


def _dispose(
    ledger: Ledger, artifact: ev.PlannedArtifact, needs: Needs, *, wait: float, recovering: bool
) -> ev.Event:
    kind, subject = artifact.kind, artifact.subject
    path = ledger.layout.artifact_file(kind, subject)
    lock = Lock(f"{path}.lock")
    size: int | None = None
    gone = False
    try:
        if artifact.bytes is not None or os.path.isdir(os.path.dirname(path)):
            if not lock.acquire(wait=wait):
                return ev.ArtifactKept(kind=kind, reason="busy")
            if ledger.owned_by_msb:
                # It came while we were at it, and its index is not ours to ask.
                return ev.ArtifactKept(kind=kind, reason="owned")
            if needs(kind, subject):
                return ev.ArtifactKept(kind=kind, reason="needed")
            size = files.delete(path)
            gone = True
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return ev.ArtifactDeleteFailed(kind=kind, errno=error.errno or 0, reason=reason)
    finally:
        lock.release(unlink=gone or not os.path.lexists(path))
    recovered = recovering and size is None
    if recovered:
        size = artifact.bytes
    return deleted(artifact, size, recovered=recovered)


def deleted(artifact: ev.PlannedArtifact, size: int | None, *, recovered: bool = False) -> ev.ArtifactDeleted:
    """Return the event that says that a planned artifact is gone."""
    if artifact.kind == "layer":
        return ev.LayerDeleted(bytes=size, recovered=recovered, manifests=artifact.manifests)
    return _OUTCOMES[artifact.kind](bytes=size, recovered=recovered)


def _record(ledger: Ledger, operation: str, outcomes: list[NewEvent]) -> None:
    for folder in ledger.layout.folders.values():
        if folder.is_dir():
            sync_folder(folder)
    reached("delete.recording")
    with ledger.attest(operation) as transaction:
        transaction.append(outcomes)


def _tidy_locks(layout: Layout) -> None:
    """Delete lock files whose artifact is gone, such as those of a load that was killed early."""
    for path in layout.lone_locks():
        lock = Lock(path)
        if lock.acquire():
            lock.release(unlink=not os.path.lexists(path.with_suffix("")))


@contextmanager
def one_at_a_time(ledger: Ledger) -> Iterator[Operation]:
    """Begin a deletion's operation while no other deletion runs in this home; raises BusyError."""
    layout = ledger.layout
    make_private(layout.db)
    with Operation(layout) as operation, Lock(layout.prune_lock) as lock:
        if not lock.acquire(wait=SAY_AFTER):
            ledger.note(f"waiting for another deletion to end (operation {_running(layout)})")
            if not lock.acquire(wait=_PRUNE_WAIT - SAY_AFTER):
                raise BusyError(
                    f"another deletion runs in {layout.home} (operation {_running(layout)}); try again later"
                )
        lock.write(operation.id)
        yield operation
        lock.write("")


def _running(layout: Layout) -> str:
    return layout.prune_lock.read_text(errors="replace")[:36] or "unknown"
