"""Files that earlier deletions had to leave: as columns for people, and as fields for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msb_cache.cli import output
from msb_cache.queries.resolve import familiar

if TYPE_CHECKING:
    from msb_cache.engines.leftovers import Leftover


def leftover_cells(leftovers: Sequence[Leftover]) -> Iterator[tuple[str, str, str]]:
    """Yield for each what it is, of what, and why it was left."""
    for each in leftovers:
        subject = output.short(each.subject) if each.subject.startswith("sha256:") else familiar(each.subject)
        yield each.kind, subject, each.because


def leftover_fields(leftover: Leftover) -> dict[str, Any]:
    """Return one as fields."""
    return {
        "kind": leftover.kind,
        "subject": leftover.subject,
        "path": str(leftover.path),
        "bytes": leftover.bytes,
        "operation": leftover.operation,
        "reason": leftover.reason,
        "since": output.rfc3339(leftover.since),
    }
