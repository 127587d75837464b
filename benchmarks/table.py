"""The table of what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from timing import Run

HEADER = "| work | ours | floor | msb | ratio | target | rounds | memory | msb's | |"
RULE = "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |"


class Measured(NamedTuple):
    """One line: medians of the seconds, peaks of the memory; ``target`` is the largest ratio that passes.

    ``ratio`` is to the floor; where there is none, to msb; None when that is not here to be measured.
    """

    work: str
    ours: Run
    floor: Run | None
    msb: Run | None
    ratio: float | None
    target: float
    rounds: int

    @property
    def missed(self) -> bool:
        return self.ratio is not None and self.ratio > self.target


def measured(work: str, runs: Mapping[str, Sequence[Run]], target: float) -> Measured:
    """Sum up the runs of ``ours``, ``floor`` and ``msb``; the ratio is the median of those by round."""
    ours = runs["ours"]
    against = runs.get("floor") or runs.get("msb")
    ratio = None
    if against:
        pairs = zip(ours, against, strict=True)
        ratio = statistics.median(mine.seconds / theirs.seconds for mine, theirs in pairs)
    floor, msb = (_sum_up(runs[name]) if name in runs else None for name in ("floor", "msb"))
    return Measured(work, _sum_up(ours), floor, msb, ratio, target, len(ours))


def _sum_up(runs: Sequence[Run]) -> Run:
    memory = [run.memory for run in runs if run.memory is not None]
    return Run(statistics.median(run.seconds for run in runs), max(memory, default=None))


def line(row: Measured) -> str:
    verdict = "" if row.ratio is None else "**not**" if row.missed else "pass"
    cells = [
        row.work,
        *map(_time, (row.ours, row.floor, row.msb)),
        "" if row.ratio is None else f"{row.ratio:.2f}",
        f"{row.target:.2f}",
        str(row.rounds),
        *map(_memory, (row.ours, row.msb)),
        verdict,
    ]
    return f"| {' | '.join(cells)} |"


def _time(run: Run | None) -> str:
    if run is None:
        return ""
    if run.seconds < 0.001:
        return f"{run.seconds * 1e6:.1f} µs"
    return f"{run.seconds * 1000:.1f} ms" if run.seconds < 1 else f"{run.seconds:.2f} s"


def _memory(run: Run | None) -> str:
    return "" if run is None or run.memory is None else f"{run.memory / 2**20:.0f} MiB"
