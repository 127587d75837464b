"""What one prune or removal did, in full: for people, for programs, and as an exit code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msb_cache.cli import look, output
from msb_cache.cli.because import judged_because
from msb_cache.cli.event_lines import subject_of
from msb_cache.cli.tables import Cell, Column, fields, show
from msb_cache.queries.deletions import ArtifactReport, DeletionReport
from msb_cache.queries.resolve import as_typed, familiar
from msb_cache.queries.told import who_in_full

if TYPE_CHECKING:
    from msb_cache.eventstore.events import Judged
    from msb_cache.models import ImagePruneReport
    from msb_cache.projections.rows import UndoingRow


def failures(report: ImagePruneReport) -> list[int]:
    """Say what could not be deleted, if anything, and return the exit codes for it."""
    if not report.artifacts_failed:
        return []
    files = output.plural(report.artifacts_failed, "file")
    output.error(
        f"{files} could not be deleted; `msb-cache prunes show {report.operation}` says which and why, "
        "and the next prune or remove tries again"
    )
    return [1]


def operation_of(report: ImagePruneReport) -> list[str]:
    """Return the id of what a deletion did; of one that found nothing to do there is none."""
    return [] if report.operation is None else [report.operation]


def freed(size: int | None, flat_roots: int, flat_bytes: int) -> str:
    """Return what a deletion freed, for people: what msb would count, and of flat roots what they took."""
    if not flat_roots:
        return output.size(size)
    roots = f"{output.size(flat_bytes)} of {output.plural(flat_roots, 'flat root')}"
    return f"{output.size(size)} and {roots}" if size else roots


_IMAGES = (Column("REFERENCE", "name"), Column("DIGEST", "digest"), Column("BECAUSE", "prose"))
_ARTIFACTS = (
    Column("KIND", "word"),
    Column("OUTCOME", "word"),
    Column("SIZE", "size"),
    Column("SUBJECT", "name"),
    Column("NOTE", "prose"),
)
_BEHIND = 12  # columns: where values begin
_KEPT = (Column("SUBJECT", "name"), Column("BECAUSE", "prose"))


def print_deletion(report: DeletionReport) -> None:
    """Print a report in full: what went, what stayed and why."""
    fields(_summary(report), name_width=_BEHIND)
    going = {(each.subject, each.spelling): each for each in report.going}
    images = [
        (
            as_typed(reference, data.spelling),
            data.manifest_digest,
            _removed_because(report, going.get((reference, data.spelling)), forced=data.forced),
        )
        for reference, data in report.images
    ]
    artifacts: list[tuple[Cell, ...]] = [
        (
            artifact.kind,
            artifact.outcome or "unknown",
            artifact.bytes if artifact.outcome == "deleted" else artifact.planned_bytes,
            familiar(artifact.subject),
            _artifact_note(artifact),
        )
        for artifact in report.artifacts
    ]
    kept = [
        (subject_of(each.subject, each.spelling), judged_because(each, report.policy, goes=False))
        for each in report.kept
    ]
    _section("Images removed", _IMAGES, images)
    _section("Artifacts", _ARTIFACTS, artifacts)
    _section("Kept", _KEPT, kept)


def _section(name: str, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
    if rows:
        output.line()
        output.line(f"{name} ({len(rows):,})")
        show(columns, rows)


def _removed_because(report: DeletionReport, judged: Judged | None, *, forced: bool) -> str | None:
    if judged is not None:
        return judged_because(judged, report.policy, goes=True)
    return "forced" if forced else None


def _summary(report: DeletionReport) -> Iterator[tuple[str, str]]:
    row = report.counters
    yield "Operation", report.operation
    yield "Kind", row.kind
    if report.policy:
        yield "Policy", policy_in_words(report.policy)
    if row.engine == "msb":
        yield "Engine", "msb"
    yield "By", who_in_full(report.actor)
    yield "Started", look.in_full(row.started_at)
    yield "Finished", look.in_full(row.finished_at)
    yield "Outcome", (row.outcome or "unfinished") + (", finished by recovery" if row.recovered else "")
    for undoing in report.restores:
        yield "Undone by", _undone(undoing)
    yield "Freed", freed(row.bytes_reclaimed, row.flat_removed, row.flat_bytes_reclaimed)


def _undone(undoing: UndoingRow) -> str:
    when = look.in_full(undoing.finished_at or undoing.started_at)
    if undoing.finished_at is None:
        return f"restore {undoing.operation} since {when}, unfinished"
    of = output.plural(undoing.wanted, "image")
    return f"restore {undoing.operation} at {when}, {undoing.outcome}: {undoing.restored:,} of {of} asked for"


def _artifact_note(artifact: ArtifactReport) -> str:
    if artifact.recovered:
        return "found gone while recovering"
    by = f" by {', '.join(artifact.holders)}" if artifact.holders else ""
    return f"{artifact.reason or ''}{by}"


def policy_in_words(policy: Mapping[str, Any]) -> str:
    """Return what a deletion was asked for, as it was recorded; of a policy file's rules the names."""
    return ", ".join(f"{key}={_value(value)}" for key, value in policy.items() if key != "digest")


def _value(value: Any) -> str:
    if isinstance(value, list):
        names = [each.get("name", each) if isinstance(each, Mapping) else each for each in value]
        return " ".join(familiar(str(each)) for each in names)
    if isinstance(value, Mapping):
        return " ".join(f"{key} {_value(each)}" for key, each in value.items())
    return str(value).lower() if isinstance(value, bool) else str(value)
