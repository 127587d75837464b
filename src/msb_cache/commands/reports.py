"""What a deletion has done, or would do, in counters."""

from __future__ import annotations

from msb_cache.engines.decision import Preview
from msb_cache.models import ImagePruneReport
from msb_cache.projections import deletions
from msb_cache.queries.deletions import DeletionReport
from msb_cache.queries.events import deletion_in_log
from msb_cache.session import Session


def of_preview(preview: Preview) -> ImagePruneReport:
    """Return what a deletion would report."""
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


def of_operation(session: Session, operation: str | None, shown: Preview) -> ImagePruneReport:
    """Return what a deletion has done; of one that was not decided, nothing."""
    if operation is None:
        return ImagePruneReport(0, 0, 0, 0, 0, None)
    with session.ledger.read() as connection:
        assert connection is not None  # noqa: S101
        (row,) = deletions.find(connection, operation)
    orphans = shown.orphaned()
    leftovers = {(each.kind, each.subject) for each in shown.leftovers}
    gone = again = 0
    # What became of each artifact takes a second read of the whole operation.
    for artifact in whole(session, operation).artifacts if orphans else ():
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


def whole(session: Session, operation: str) -> DeletionReport:
    """Return everything that a deletion did."""
    with session.ledger.read() as connection:
        assert connection is not None  # noqa: S101
        return deletion_in_log((connection, session.ledger.store(connection)), operation)
