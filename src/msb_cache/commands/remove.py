"""Remove references, and prune: what is refused, and the report of what went.

What goes is decided in ``engines.prune_plan``, and the engine that the home has deletes it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from msb_cache.engines.decision import Confirm, Preview
from msb_cache.engines.prune_plan import UNKNOWN, Bounds, Plan, plan_prune, plan_remove
from msb_cache.errors import (
    BusyError,
    HomeOwnedByMicrosandboxError,
    ImageInUseError,
    ImageNotFoundError,
    MsbProgramError,
)
from msb_cache.models import ImagePruneReport
from msb_cache.projections import deletions, images
from msb_cache.projections.images import HandleRow
from msb_cache.projections.state import IndexState
from msb_cache.queries import resolve
from msb_cache.queries.events import deletion_in_log
from msb_cache.queries.resolve import seen
from msb_cache.session import Session

_ATTEMPTS = 5


def remove(session: Session, reference: str, *, force: bool) -> ImagePruneReport:
    """Remove a reference; parameters, result and errors as for ``ImageCache.remove``."""
    session.begin_writing()
    with session.index() as connection:
        row = resolve.reference(connection, reference)
        if force and connection is not None and session.kept_by_msb:
            _check_msb_knows_a_holder(connection, row)
    name = row.name

    def planner(state: IndexState, shown: Plan | None) -> Plan:
        if name not in state.references:
            raise ImageNotFoundError(f"image not found: {seen(row)}")
        holders = state.holders_of(name)
        if holders and not force:
            raise _in_use(session, row, holders)
        _check_reachable(state, row)
        return plan_remove(state, [name], force=force, shown=shown)

    policy = {"references": [row.reference], "force": force}
    for _ in range(_ATTEMPTS):
        operation, shown = session.engine().delete(planner, kind="remove", policy=policy)
        if operation is not None:
            report = _report(session, operation, shown)
            if not report.image_refs_removed:
                _raise_refused(session, operation, row)
            return report
        # It moved to another image between plan and decision: plan again.
    raise BusyError(f"{seen(row)} keeps changing; try again")


def prune(session: Session, *, orphans: bool, confirm: Confirm | None) -> ImagePruneReport:
    """Remove what has no holder; parameters, result and errors as for ``ImageCache.prune``."""
    session.begin_writing()
    policy: dict[str, object] = {"rule": "unused"}
    if orphans:
        policy["orphans"] = True
    operation, shown = session.engine().delete(
        _unused, kind="prune", policy=policy, orphans=orphans, confirm=confirm
    )
    return _report(session, operation, shown)


def preview_prune(session: Session, *, orphans: bool) -> Preview:
    """Return what a prune would delete and keep now."""
    session.observe()
    return session.engine().plan(_unused, orphans=orphans)


def as_report(preview: Preview) -> ImagePruneReport:
    """Return what a prune would report."""
    plan = preview.plan
    return ImagePruneReport(
        image_refs_removed=len(plan.references),
        manifests_removed=len(plan.manifests),
        layers_removed=len(plan.layers),
        fsmeta_removed=preview.count("fsmeta"),
        vmdk_removed=preview.count("vmdk"),
        bytes_reclaimed=preview.bytes,
        orphans_removed=preview.orphans,
        flat_removed=preview.count("flat"),
        flat_bytes_reclaimed=preview.flat_bytes,
    )


def _unused(state: IndexState, shown: Plan | None) -> Plan:
    return plan_prune(state, shown=shown)


def _check_msb_knows_a_holder(connection: sqlite3.Connection, row: HandleRow) -> None:
    """Refuse to have msb drop a reference whose manifest only holds of ours keep: it would delete that."""
    digest = row.manifest_digest
    holders = images.holders(connection, digest)
    known = any(images.is_held_in_msb(connection, digest, holder) for holder in holders)
    if holders and not known and row.name not in images.unknown_to_msb(connection):
        raise ImageInUseError(
            f"{seen(row)} is held by {_listed(holders)}, which msb does not know, so it would delete what is "
            f"held; `msb-cache release {holders[0]}` lets it go"
        )


def _check_reachable(state: IndexState, row: HandleRow) -> None:
    """Refuse to remove what msb, which keeps the home, does not know or would take from others."""
    kept = Bounds(state)(row.name, state.references[row.name])
    if kept is not None:
        why = (
            "msb keeps this home, and its index cannot be read as a whole, so what it needs cannot be told"
            if kept.rule == UNKNOWN
            else "msb, which keeps this home, would delete layers of images that it does not know; "
            "`msb-cache hand-over` makes them known to it"
        )
        raise HomeOwnedByMicrosandboxError(f"{seen(row)} is not removed: {why}")


def _in_use(session: Session, row: HandleRow, holders: Sequence[str]) -> ImageInUseError:
    by = f" by {_listed(holders)}" if holders else ""
    error = ImageInUseError(f"{seen(row)} is in use{by}")
    error.seen_in_msb = session.engine().name == "msb"
    return error


def _raise_refused(session: Session, operation: str, row: HandleRow) -> None:
    """Say why a reference that msb was asked to remove is still there."""
    name = seen(row)
    for artifact in _artifacts(session, operation):
        if (artifact.kind, artifact.subject) != ("metadata", row.reference):
            continue
        if artifact.outcome == "kept" and artifact.holders:
            raise _in_use(session, row, artifact.holders)
        if artifact.outcome == "kept" and artifact.reason == "busy":
            raise _in_use(session, row, ["another process that works with it"])
        if artifact.outcome == "kept":
            raise MsbProgramError(f"msb said nothing against it, but {name} is still there; try again")
        if artifact.outcome == "failed":
            raise MsbProgramError(f"msb could not remove {name}: {artifact.reason}")


def _report(session: Session, operation: str | None, shown: Preview) -> ImagePruneReport:
    if operation is None:
        return ImagePruneReport(0, 0, 0, 0, 0, None)
    with session.ledger.read() as connection:
        assert connection is not None  # noqa: S101
        (row,) = deletions.find(connection, operation)
    orphans = shown.orphaned()
    leftovers = {(each.kind, each.subject) for each in shown.leftovers}
    gone = again = 0
    # What became of each artifact takes a second read of the whole operation.
    for artifact in _artifacts(session, operation) if orphans else ():
        found = (artifact.kind, artifact.subject)
        gone += artifact.outcome == "deleted" and found in orphans
        again += artifact.outcome == "failed" and found in leftovers
    return ImagePruneReport(
        image_refs_removed=row.image_refs_removed,
        manifests_removed=row.manifests_removed,
        layers_removed=row.layers_removed,
        fsmeta_removed=row.fsmeta_removed,
        vmdk_removed=row.vmdk_removed,
        bytes_reclaimed=row.bytes_reclaimed,
        skipped_in_use=len(shown.plan.references) - row.image_refs_removed,
        orphans_removed=gone,
        artifacts_failed=row.failed,
        leftovers_failed=again,
        flat_removed=row.flat_removed,
        flat_bytes_reclaimed=row.flat_bytes_reclaimed,
        operation=operation,
    )


def _artifacts(session: Session, operation: str) -> Sequence[deletions.ArtifactReport]:
    """Return what became of each artifact of a deletion."""
    with session.ledger.read() as connection:
        assert connection is not None  # noqa: S101
        return deletion_in_log((connection, session.ledger.store(connection)), operation).artifacts


def _listed(names: Sequence[str], most: int = 3) -> str:
    text = ", ".join(names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"
