"""Who pulled, used and deleted how much in the time shown."""

from __future__ import annotations

from collections.abc import Iterable

from msb_cache.report.chronicle import PULL, Deletion
from msb_cache.report.cut import Cut, person, shortened
from msb_cache.report.facts import PersonLine

_LONGEST = 200  # characters of a name


def people(cut: Cut, deletions: Iterable[Deletion]) -> tuple[PersonLine, ...]:
    """Return a line for each person, or program; those whose deletions freed most come first.

    Args:
        cut: the time shown.
        deletions: the deletions in it; each counts for those who decided it.
    """
    chronicle = cut.chronicle
    by_number: dict[int, list[int]] = {}
    acts = chronicle.acts(cut.after, cut.until)
    found: dict[str, dict[str, int]] = {}
    columns = (chronicle.act_people, chronicle.act_kinds, chronicle.act_bytes)
    for number, kind, fetched in zip(*(column[acts.start : acts.stop] for column in columns), strict=True):
        mine = by_number.setdefault(number, [0, 0, 0])
        if kind == PULL:
            mine[0] += 1
            mine[1] += fetched
        else:
            mine[2] += 1

    def add(who: str, **amounts: int) -> None:
        sums = found.setdefault(shortened(who, _LONGEST), {})
        for name, amount in amounts.items():
            sums[name] = sums.get(name, 0) + amount

    for number, (pulls, fetched, uses) in by_number.items():
        add(cut.person(number), pulls=pulls, pulled_bytes=fetched, uses=uses)
    for each in deletions:
        add(
            person(each.actor, cut.people),
            deletions=1,
            deleted_images=each.images,
            deleted_bytes=each.bytes or 0,
            forced=each.forced,
        )
    lines = [PersonLine(who, **sums) for who, sums in found.items()]
    lines.sort(key=lambda line: (-line.deleted_bytes, -line.deleted_images, -line.pulled_bytes, line.who))
    return tuple(lines)
