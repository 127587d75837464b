"""Images that nothing uses, and what each would free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msb_cache.queries.last_used import Standing
from msb_cache.queries.resolve import seen
from msb_cache.report.cut import Cut, shortened
from msb_cache.report.facts import Block, IdleLine

_LONGEST = 300  # characters of a name


def idle(cut: Cut, standings: Iterable[Standing], blocks: Mapping[str, Block]) -> tuple[IdleLine, ...]:
    """Return the images that nothing uses, longest idle first; held ones are in use here.

    Args:
        cut: what is told of.
        standings: all images.
        blocks: what each takes, by name.
    """
    found = [each for each in standings if each.since_ns is not None and each.row.held_by == "[]"]
    found.sort(key=lambda each: (each.since_ns, each.row.name))
    return tuple(
        IdleLine(
            shortened(seen(each.row), _LONGEST),
            each.since_ns or 0,
            _last_by(cut, each.row.name),
            blocks[each.row.name].reclaimable_bytes,
            blocks[each.row.name].state == "pinned",
        )
        for each in found
    )


def idle_times(standings: Iterable[Standing], now_ns: int) -> dict[str, int]:
    """Return for how long images that nothing runs from are idle, by name, in ns."""
    return {each.row.name: max(0, now_ns - each.since_ns) for each in standings if each.since_ns is not None}


def _last_by(cut: Cut, name: str) -> str:
    """Return who used or pulled an image last, in words."""
    chronicle = cut.chronicle
    life = chronicle.lives.get(name)
    if life is None:
        return ""
    for act in reversed(life.acts):
        if chronicle.act_seqs[act] <= cut.until:
            who = cut.person(chronicle.act_people[act])
            holder = chronicle.act_holders.get(act)
            return shortened(who if holder is None else f"{holder}, {who}", _LONGEST)
    return ""
