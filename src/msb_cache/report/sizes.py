"""How large the cache was over time, as the log says, in no more points than a line can show.

At each position it is what the index has there: the sizes of its layers, merged trees and disk descriptors as
they were when they came. Flat roots are not in it, for the log does not say when one is made.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from msb_cache.report.cut import Cut
from msb_cache.report.facts import SizePoint

MOST = 1000
"""Points of a line."""

_OF_DELETIONS = 900
"""So many of them at most go to what was there before and after deletions."""


def sizes(cut: Cut) -> tuple[SizePoint, ...]:
    """Return how large the cache was in the time shown, oldest first; first as it was when that began."""
    chronicle = cut.chronicle
    seqs, amounts, counts = chronicle.point_seqs, chronicle.point_bytes, chronicle.point_images
    end = bisect_right(seqs, cut.until)
    first = bisect_right(seqs, cut.after)
    begins_before = first > 0
    first -= begins_before
    found = amounts[first:end]
    drops = [
        (
            bisect_right(seqs, each.seq - 1) - 1 - first,
            bisect_right(seqs, min(each.last_seq, cut.until)) - 1 - first,
        )
        for each in chronicle.deletions.values()
        if cut.after < each.seq <= cut.until
    ]
    return tuple(
        SizePoint(
            max(cut.since_ns, chronicle.at_ns(seqs[first + at])),
            seqs[first + at],
            found[at],
            counts[first + at],
        )
        for at in kept(found, drops)
    )


def kept(amounts: Sequence[int], drops: Iterable[tuple[int, int]] = (), most: int = MOST) -> list[int]:
    """Return which points of a line stay, by their numbers, in order; at most ``most``.

    The first and the last, the greatest and the least stay, and the greatest and the least of each part of
    the line.

    Args:
        amounts: of each point.
        drops: pairs of points between which something went; the largest of these stay first.
        most: how many stay.
    """
    count = len(amounts)
    if count <= most:
        return [*range(count)]
    numbers = range(count)
    found = {0, count - 1, max(numbers, key=amounts.__getitem__), min(numbers, key=amounts.__getitem__)}
    inside = [(before, after) for before, after in drops if 0 <= before < after < count]
    inside.sort(key=lambda drop: amounts[drop[1]] - amounts[drop[0]])
    for drop in inside:
        if len(found) + 2 > most * _OF_DELETIONS // MOST:
            break
        found.update(drop)
    parts = max(1, (most - len(found)) // 2)
    for part in range(parts):
        within = range(part * count // parts, (part + 1) * count // parts)
        found.add(max(within, key=amounts.__getitem__))
        found.add(min(within, key=amounts.__getitem__))
    return sorted(found)
