"""Where things stand in pictures: ticks of times and sizes, and rectangles of given areas. Pure."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from msgspec import Struct

DAY = 86400
_STEPS = (
    *(60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600),
    *(DAY, 2 * DAY, 7 * DAY, 14 * DAY, 30 * DAY, 61 * DAY, 91 * DAY, 183 * DAY, 365 * DAY),
)
"""Seconds between two ticks of times."""


_ROUND = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)


class Rect(Struct, frozen=True, gc=False):
    """A rectangle: its corner with the smallest coordinates, and its sides."""

    x: float
    y: float
    width: float
    height: float


class Scale(Struct, frozen=True):
    """Maps a range of values to a range of coordinates; values outside are brought to its ends."""

    first: float
    last: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the coordinate of a value, to a tenth."""
        length = self.last - self.first
        part = 0.0 if length <= 0 else (value - self.first) / length
        return round(self.begin + min(max(part, 0.0), 1.0) * (self.end - self.begin), 1)


def time_ticks(since_ns: int, until_ns: int, most: int = 8) -> list[tuple[int, str]]:
    """Return moments (ns since the epoch) at which a line of time has a mark, with what stands there, in UTC.

    Args:
        since_ns: where the line begins.
        until_ns: where it ends.
        most: how many marks there may be.
    """
    since, until = since_ns // 10**9, until_ns // 10**9
    step = next((each for each in _STEPS if (until - since) // each < most), (until - since) // most + 1)
    step = max(step, 1)
    if step < DAY:
        form = "%H:%M" if until - since < DAY else "%d %b %H:%M"
    else:
        form = "%d %b" if until - since < 365 * DAY else "%b %Y"
    first = -(-since // step) * step
    return [(at * 10**9, time.strftime(form, time.gmtime(at))) for at in range(first, until + 1, step)][:most]


def size_ticks(largest: int, most: int = 4) -> list[tuple[int, str]]:
    """Return sizes in bytes at which a line of sizes has a mark, with what stands there; 0 comes first.

    The last is not less than the largest. They are round in the unit that people read: 1, 2 or 5 times a
    power of ten of it.
    """
    unit, name = 1, "B"
    for size, longer in ((1 << 10, "KiB"), (1 << 20, "MiB"), (1 << 30, "GiB"), (1 << 40, "TiB")):
        if largest >= size:
            unit, name = size, longer
    rounds = _ROUND[unit == 1 :]  # there is no half of a byte
    factor = next((each for each in rounds if largest <= unit * each * most), largest / unit / most)
    count = max(1, math.ceil(largest / (unit * factor)))
    return [(math.ceil(unit * factor * at), f"{round(factor * at, 1):g} {name}") for at in range(count + 1)]


def squarified(sizes: Sequence[float], within: Rect) -> list[Rect]:
    """Return a rectangle for each size, of areas in proportion to them, as square as can be.

    The method of Bruls, Huizing and van Wijk, "Squarified Treemaps" (2000).

    Args:
        sizes: none is negative; largest first gives the best rectangles.
        within: the rectangle that they fill.
    """
    total = sum(sizes)
    if total <= 0 or within.width <= 0 or within.height <= 0:
        return [Rect(within.x, within.y, 0, 0) for _ in sizes]
    scale = within.width * within.height / total
    areas = [size * scale for size in sizes]
    found: list[Rect] = []
    at = 0
    while at < len(areas):
        end = _row(areas, at, min(within.width, within.height))
        rects, within = _laid(areas[at:end], within)
        found += rects
        at = end
    return found


def _row(areas: Sequence[float], at: int, side: float) -> int:
    """Return where a row along a side ends: as long as the worst of its rectangles becomes no worse."""
    end, total = at + 1, areas[at]
    worst = _worst(areas[at], areas[at], total, side)
    while end < len(areas):
        grown = total + areas[end]
        smallest, largest = min(areas[at : end + 1]), max(areas[at : end + 1])
        now = _worst(smallest, largest, grown, side)
        if now > worst:
            break
        worst, total, end = now, grown, end + 1
    return end


def _worst(smallest: float, largest: float, total: float, side: float) -> float:
    """Return the worst ratio of sides in a row of rectangles."""
    if total <= 0 or smallest <= 0 or side <= 0:
        return float("inf")
    return max(side * side * largest / (total * total), total * total / (side * side * smallest))


def _laid(areas: Sequence[float], within: Rect) -> tuple[list[Rect], Rect]:
    """Return the rectangles of a row along the shorter side, and what is left."""
    total = sum(areas)
    found = []
    if min(within.width, within.height) <= 0:
        return [Rect(within.x, within.y, 0, 0) for _ in areas], within
    if within.width >= within.height:
        width = min(within.width, total / within.height)
        y = within.y
        for area in areas:
            height = area / width if width else 0.0
            found.append(Rect(within.x, y, width, height))
            y += height
        return found, Rect(within.x + width, within.y, max(0.0, within.width - width), within.height)
    height = min(within.height, total / within.width)
    x = within.x
    for area in areas:
        width = area / height if height else 0.0
        found.append(Rect(x, within.y, width, height))
        x += width
    return found, Rect(within.x, within.y + height, within.width, max(0.0, within.height - height))
