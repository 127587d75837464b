"""Delete from a cache of ours: decide in one transaction, then unlink file by file and record each outcome.

The decision is in the log, with every artifact and its size, before the first file goes. Each artifact
goes under its own lock, after asking the index once more whether an image needs it now. So a deletion
that is cut short anywhere can be finished by the next process (see ``engines.recover``).
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from msb_cache import diagnostics
from msb_cache.artifacts import files
from msb_cache.artifacts.durable import Changes
from msb_cache.artifacts.kinds import FLAT, ArtifactKind
from msb_cache.artifacts.layout import Layout, lock_path
from msb_cache.artifacts.locks import Lock, is_free
from msb_cache.artifacts.measured import MeasuredFiles
from msb_cache.engines import flat_roots, leftovers
from msb_cache.engines.decision import (
    DECIDING,
    MEASURING,
    Confirm,
    DeletionCut,
    Planner,
    Preview,
    Progress,
    Report,
    changes,
    check_confirmed,
    deleted,
    freed_by,
    goes_with,
    one_at_a_time,
    out_of_index,
    planned,
    reporting,
    started,
)
from msb_cache.engines.leftovers import Leftover
from msb_cache.engines.named_files import NamedFiles
from msb_cache.engines.own.needs import Needs
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.failpoints import reached
from msb_cache.home.ledger import Ledger, Transaction
from msb_cache.projections import deletions, restored
from msb_cache.projections.images import has_manifest
from msb_cache.projections.state import EMPTY, IndexState, load, load_to_judge
from msb_cache.retention.plan import Plan
from msb_cache.waiting import end_if_asked
from msb_cache.wording import plural

_BUSY_WAIT = 0.5  # seconds for each artifact that another process had locked
_BATCH = 2000  # outcomes recorded together: each batch syncs the folders and the log once


def preview(ledger: Ledger, planner: Planner, *, orphans: bool = False, facts: bool = True) -> Preview:
    """Plan and measure; changes nothing and appends nothing.

    Args:
        ledger: the home.
        planner: what to delete.
        orphans: also what the index does not name.
        facts: read how long images were idle also where the plan does not ask, for a person who looks at it.
    """
    layout = ledger.layout
    with ledger.read() as connection:
        state = EMPTY
        if connection is not None:
            state = load_to_judge(connection, facts=facts or planner.facts, labels=planner.labels)
        left = [] if connection is None else left_over(layout, connection, state)
        if orphans:
            check_confirmed(connection)
        elif connection is not None and restored.unconfirmed(connection) is not None:
            left = []  # an image that came after the backup may need them
    busy = flat_roots.in_use(layout, [each.planned for each in left])
    left = [each for each in left if is_free(lock_path(each.path)) and (each.kind, each.subject) not in busy]
    others = [each.planned for each in left]
    if orphans:
        paths = {each.path for each in left}
        found = [
            ev.PlannedArtifact(kind=kind, subject=subject, bytes=files.measure_artifact(kind, path))
            for kind, subject, path in unnamed(layout, state)
            if path not in paths and is_free(lock_path(path))
        ]
        busy = flat_roots.in_use(layout, found)
        others += (each for each in found if (each.kind, each.subject) not in busy)
    files_ = MeasuredFiles(layout)
    files_.going_anyway_bytes = freed_by(files_, others) if others else 0
    plan = planner(state, None, files_)
    artifacts = flat_roots.completed(layout, [*planned(layout, plan, files_), *others])
    return Preview(plan, tuple(artifacts), files_, tuple(left), state, planner.policy)


def left_over(
    layout: Layout, connection: sqlite3.Connection, state: IndexState | None = None
) -> list[Leftover]:
    """Return what earlier deletions had to leave; ``state`` is the index if it was read already."""
    found = leftovers.on_disk(layout, connection)
    if not found:
        return found  # as a rule: then nothing else is read
    return leftovers.unnamed(found, NamedFiles.of(layout, state or load(connection)))


def unnamed(layout: Layout, state: IndexState) -> Iterator[tuple[ArtifactKind, str, Path]]:
    """Yield the kind, subject and path of each artifact on disk that the index does not name."""
    named = NamedFiles.of(layout, state)
    return (found for found in layout.files() if not named.has(found[0], found[1]))


def delete(
    ledger: Ledger,
    planner: Planner,
    *,
    kind: ev.DeletionKind,
    policy: dict[str, Any],
    orphans: bool = False,
    confirm: Confirm | None = None,
    report: Report | None = None,
) -> tuple[str | None, Preview]:
    """Decide and delete; parameters, result and errors as for ``Engine.delete``."""
    with ledger.doing(MEASURING):
        shown = preview(ledger, planner, orphans=orphans, facts=confirm is not None)
    if (shown.plan.empty and not shown.artifacts) or (confirm is not None and not confirm(shown)):
        return None, shown
    # Not before: a question that waits for its answer must not keep others from deleting.
    with ledger.drawing_on_reserve(changes(shown)), one_at_a_time(ledger) as operation:
        reached("delete.planned")
        if report is not None:
            report(Progress(0, sum(each.kind != "manifest" for each in shown.artifacts)))
        with ledger.doing(DECIDING), ledger.write(operation.id) as transaction:
            artifacts = _decide(transaction, operation.id, planner, shown, kind, policy)
            reached("delete.deciding")
        if artifacts is None:
            return None, shown
        diagnostics.info("deletion.decided", operation=operation.id, kind=kind, artifacts=len(artifacts))
        try:
            reached("delete.decided")
            with reporting(ledger, report, "files", len(artifacts)) as told:
                execute(ledger, operation.id, artifacts, report=told)
        except KeyboardInterrupt:
            if report is not None:
                report(Progress(0, len(artifacts), stopped=True))
            ledger.note(_stopped(ledger.layout, operation.id, artifacts))
            raise DeletionCut(operation.id) from None
        if orphans:
            tidy_locks(ledger.layout)
        return operation.id, shown


def _stopped(layout: Layout, operation: str, artifacts: Sequence[ev.PlannedArtifact]) -> str:
    """Return what is left of a deletion that a person stopped, and what finishes it."""
    left = sum(os.path.lexists(layout.artifact(each.kind, each.subject)) for each in artifacts)
    return (
        f"stopped with {left:,} of {plural(len(artifacts), 'file')} not deleted yet; the next command that "
        f"writes finishes operation {operation[:13]}"
    )


def resume(ledger: Ledger, operation: str) -> None:
    """Finish a deletion whose process is gone; the caller holds its lock."""
    with ledger.read() as connection:
        assert connection is not None  # noqa: S101
        (row,) = deletions.find(connection, operation)
        found = deletions.pending(connection, ledger.store(connection), operation)
    # A manifest is no file. Earlier releases planned one that was gone from the index by the decision.
    pending = [artifact for artifact in found if artifact.kind != "manifest"]
    with ledger.drawing_on_reserve(len(pending)):
        execute(ledger, operation, pending, recovering=True, partial=bool(row.kept or row.failed))


def execute(
    ledger: Ledger,
    operation: str,
    artifacts: Sequence[ev.PlannedArtifact],
    *,
    recovering: bool = False,
    partial: bool = False,
    report: Report | None = None,
) -> None:
    """Delete decided artifacts one by one, record each outcome, and finish the operation.

    Args:
        ledger: the home.
        operation: the operation, whose lock the caller holds.
        artifacts: those without an outcome yet.
        recovering: another process decided; a file that is absent was deleted by it.
        partial: an earlier part of this operation already kept something back.
        report: told how far it is.

    Raises:
        DeletionCut: it was ended between two files; what went until then is recorded.
    """
    needs = Needs(ledger)
    changes = Changes()
    outcomes: list[NewEvent] = []
    busy: list[ev.PlannedArtifact] = []
    began = time.monotonic()
    done = 0

    def settle(artifact: ev.PlannedArtifact, wait: float) -> None:
        nonlocal partial, began, done
        end_if_asked()
        event = _dispose(ledger, artifact, needs, changes, wait=wait, recovering=recovering)
        if isinstance(event, ev.ArtifactKept) and event.reason == "busy" and not wait:
            busy.append(artifact)
            return
        partial = partial or not isinstance(event, ev.ArtifactDeleted)
        outcomes.append(NewEvent(event, artifact.subject))
        done += 1
        if report is not None:
            report(Progress(done, len(artifacts)))
        diagnostics.debug(event.type, kind=artifact.kind, subject=artifact.subject)
        reached("delete.unlinked")
        if len(outcomes) >= _BATCH or time.monotonic() - began > 1.0:
            record()
            began = time.monotonic()

    def record(*last: NewEvent) -> None:
        nonlocal outcomes
        some, outcomes = outcomes, []  # once: it may be broken off when they are committed
        _record(ledger, operation, [*some, *last], changes)

    try:
        for artifact in artifacts:
            if artifact.kind not in FLAT:
                settle(artifact, 0.0)
        for artifact in busy:  # the process that had the lock has often just finished
            settle(artifact, _BUSY_WAIT)
        for some in flat_roots.delete(ledger, artifacts, lambda: _judge(ledger), recovering=recovering):
            partial = partial or not all(isinstance(each.event, ev.ArtifactDeleted) for each in some)
            outcomes += some
            done += len(some)
            if report is not None:
                report(Progress(done, len(artifacts)))
        outcome: Any = "partial" if partial else "completed"
        record(NewEvent(ev.DeletionFinished(outcome=outcome, recovered=recovering), operation))
    except KeyboardInterrupt:
        with suppress(KeyboardInterrupt):  # a second one: then recovery finds what went
            if outcomes:
                record()
        raise DeletionCut(operation) from None
    reached("delete.finished")
    diagnostics.info("deletion.finished", operation=operation, outcome=outcome)


def _judge(ledger: Ledger) -> flat_roots.Judge:
    if ledger.owned_by_msb:
        return lambda digest: "owned"

    def judge(digest: str | None) -> Literal["needed"] | None:
        with ledger.statement() as connection:
            needed = digest is not None and connection is not None and has_manifest(connection, digest)
        return "needed" if needed else None

    return judge


def _decide(
    transaction: Transaction,
    operation: str,
    planner: Planner,
    shown: Preview,
    kind: ev.DeletionKind,
    policy: dict[str, Any],
) -> list[ev.PlannedArtifact] | None:
    state = load_to_judge(transaction.connection, facts=planner.facts, labels=planner.labels)
    plan = planner(state, shown.plan, shown.files)
    artifacts = still_wanted(plan, state, shown)
    if plan.empty and (kind == "remove" or not artifacts):
        return None  # of a removal: its reference points elsewhere by now, and another plan is made
    deleted_files = [artifact for artifact in artifacts if artifact.kind != "manifest"]
    events = [NewEvent(event, operation) for event in started(kind, policy, artifacts, plan)]
    transaction.append([*events, *out_of_index(plan, state, kind)])
    return deleted_files


def still_wanted(plan: Plan, state: IndexState, shown: Preview) -> list[ev.PlannedArtifact]:
    """Return what of the shown artifacts goes: the decided plan's, and files the index still lacks."""
    manifests, layers = set(plan.manifests), set(plan.layers)
    needed = {diff_id for found in state.manifests.values() for diff_id in found}
    named = state.canonical()
    wanted = []
    for artifact in shown.artifacts:
        kind, subject = goes_with(artifact)
        if kind == "metadata":
            keep = subject in named and subject not in plan.metadata
        elif artifact.kind == "manifest":
            keep = subject not in manifests  # one that another deletion took is no part of this one
        elif kind == "layer":
            keep = subject in needed and subject not in layers
        else:
            keep = subject in state.manifests and subject not in manifests
        if not keep:
            wanted.append(artifact)
    return wanted


def _dispose(
    ledger: Ledger,
    artifact: ev.PlannedArtifact,
    needs: Needs,
    changes: Changes,
    *,
    wait: float,
    recovering: bool,
) -> ev.Event:
    kind, subject = artifact.kind, artifact.subject
    path = ledger.layout.artifact(kind, subject)
    lock = Lock(f"{path}.lock")
    size: int | None = None
    gone = False
    try:
        if artifact.bytes is not None or os.path.isdir(path.parent):
            if not lock.acquire(wait=wait):
                return ev.ArtifactKept(kind=kind, reason="busy")
            if ledger.owned_by_msb:
                # It came while we were at it, and its index is not ours to ask.
                return ev.ArtifactKept(kind=kind, reason="owned")
            if needs(kind, subject):
                return ev.ArtifactKept(kind=kind, reason="needed")
            size = changes.delete(path)
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


def _record(ledger: Ledger, operation: str, outcomes: list[NewEvent], changes: Changes) -> None:
    changes.sync()
    reached("delete.recording")
    with ledger.write(operation, owner="any") as transaction:
        transaction.append(outcomes)


def tidy_locks(layout: Layout) -> None:
    """Delete lock files whose artifact is gone, such as those of a load that was killed early."""
    for path in layout.lone_locks():
        lock = Lock(path)
        if lock.acquire():
            lock.release(unlink=not os.path.lexists(path.with_suffix("")))
