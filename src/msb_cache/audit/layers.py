"""Compare the bytes of layers on two hosts, by the digests that their logs have.

Layers are converted to the same bytes everywhere. Where one of both logs has another digest, the file was
altered there before it was first seen, or another program or release made it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from msb_cache.projections.replay import State
from msb_cache.projections.rows import DigestRow
from msb_cache.shapes import Result, Time


@dataclass(frozen=True)
class DifferingLayer(Result):
    """A layer of which two logs have different digests: what each says is known, and since which event."""

    diff_id: str
    here: DigestRow
    there: DigestRow

    def _shape(self) -> dict[str, Any]:
        return {"diff_id": self.diff_id, "here": _known(self.here), "there": _known(self.there)}


@dataclass(frozen=True)
class LayerComparison(Result):
    """Of how many layers both logs have a digest, and of which it is another."""

    both: int
    differing: list[DifferingLayer]

    def _shape(self) -> dict[str, Any]:
        return {"layers": self.both, "differing": self.differing}


def compare(here: State, there: State) -> LayerComparison:
    """Compare the ends of two logs; layers in the order of their diff IDs."""
    ours, theirs = _layers(here), _layers(there)
    both = sorted(ours.keys() & theirs.keys())
    return LayerComparison(
        len(both),
        [
            DifferingLayer(diff_id, ours[diff_id], theirs[diff_id])
            for diff_id in both
            if ours[diff_id].digest != theirs[diff_id].digest
        ],
    )


def _layers(state: State) -> dict[str, DigestRow]:
    rows = (DigestRow(*row) for row in state.tables.get(DigestRow.table, ()))
    return {row.subject: row for row in rows if row.kind == "layer"}


def _known(row: DigestRow) -> dict[str, Any]:
    return {"digest": row.digest, "how": row.how, "since": Time(row.since), "seq": row.seq}
