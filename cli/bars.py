"""Bars and sparklines of characters, told from each other without colours."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Sequence
from typing import NamedTuple

from msb_cache.cli import look


class Glyphs(NamedTuple):
    """The characters of bars and sparklines.

    Attributes:
        parts: of a bar's parts, in their order.
        empty: of what is no part.
        levels: of a sparkline, from low to high.
        mark: what points at a place of it.
    """

    parts: str
    empty: str
    levels: str
    mark: str


UNICODE = Glyphs("█▒▓", "·", "▁▂▃▄▅▆▇█", "▲")
ASCII = Glyphs("#-=", ".", "_.-=+*#", "^")


def glyphs() -> Glyphs:
    """Return the characters that stdout can show."""
    if look.is_dumb():
        return ASCII
    try:
        name = codecs.lookup(sys.stdout.encoding or "ascii").name
    except LookupError:
        return ASCII
    return UNICODE if name.startswith("utf") else ASCII


def stacked(parts: Sequence[int], whole: int, width: int, shown: Glyphs) -> str:
    """Return a bar of parts beside each other.

    Args:
        parts: amounts, at most three; what is not nothing is not shown as nothing.
        whole: the amount for which all of the width stands.
        width: characters.
        shown: what they are made of.
    """
    if whole <= 0:
        return ""
    found, taken, amount = [], 0, 0
    for part, glyph in zip(parts, shown.parts, strict=False):
        amount += part
        end = min(width, round(width * amount / whole))
        length = max(end - taken, 1 if part and taken < width else 0)
        found.append(glyph * length)
        taken += length
    return "".join(found)


def legend(names: Sequence[str], shown: Glyphs) -> str:
    """Return what the parts of a bar are, each behind the character that it is made of."""
    return " ".join(f"{glyph} {name}" for glyph, name in zip(shown.parts, names, strict=False))


def sparkline(values: Sequence[int], shown: Glyphs) -> str:
    """Return a line of characters, one for each value, from nothing to the greatest."""
    most = max(values, default=0)
    top = len(shown.levels) - 1
    return "".join(shown.levels[-(-value * top // most) if most else 0] for value in values)


def spread(points: Sequence[tuple[int, int]], begin: int, end: int, width: int) -> list[int]:
    """Return the greatest value within each of so many equal parts of a line of time.

    Args:
        points: when a value began to hold, and the value; the first holds from the beginning of the line.
        begin: where the line begins.
        end: where it ends.
        width: into how many parts.
    """
    found: list[int] = []
    value = points[0][1] if points and points[0][0] <= begin else 0
    at = 0
    for part in range(width):
        since, until = (begin + (end - begin) * edge // width for edge in (part, part + 1))
        while at < len(points) and points[at][0] <= since:
            value = points[at][1]
            at += 1
        most = value
        while at < len(points) and (points[at][0] < until or part == width - 1):
            value = points[at][1]
            most = max(most, value)
            at += 1
        found.append(most)
    return found
