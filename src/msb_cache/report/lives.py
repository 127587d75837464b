"""A line for each reference: when it was in the cache, what ran from it and held it, who kept it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

from msb_cache.report.chronicle import PULL, USE, Lasting, Life
from msb_cache.report.cut import Cut, shortened, spread
from msb_cache.report.facts import ImageLife, Span, SpanKind

MOST = 200
"""Spans of an image, and its pulls, its uses and its moves: so many of each are shown."""

_LONGEST = 200  # characters of who held it

_FAR = 2**63 - 1


def lives(cut: Cut) -> tuple[ImageLife, ...]:
    """Return the images that were there in the time shown; what takes most comes first."""
    weights = cut.chronicle.weights
    found = [life for life in (_life(cut, name, each) for name, each in cut.chronicle.lives.items()) if life]
    found.sort(key=lambda life: (-weights.get(life.manifest_digest, 0), life.reference))
    return tuple(found)


def _life(cut: Cut, name: str, life: Life) -> ImageLife | None:
    """Return an image's line; None: it was not there in the time shown."""
    here = [_span(cut, "here", each) for each in life.here if each.seq <= cut.until]
    here = [span for span in here if span.until_ns is None or span.until_ns >= cut.since_ns]
    if not here:
        return None
    points = [point for point in life.points if point[0] <= cut.until]
    others = [_span(cut, "run", each) for each in life.runs if each.seq <= cut.until]
    others += _of_manifests(cut, points, life)
    others += [
        _span(cut, "pin", each)
        for each in cut.chronicle.pins.get(life.reference, ())
        if each.seq <= cut.until
    ]
    others = [span for span in others if span.until_ns is None or span.until_ns >= cut.since_ns]
    others.sort(key=lambda span: span.since_ns)
    here_kept = here[-MOST:]
    others_kept = others[len(others) - min(len(others), MOST - len(here_kept)) :]
    spans = sorted((*here_kept, *others_kept), key=lambda span: span.since_ns)
    pulls, uses = _times(cut, life)
    moves = [cut.chronicle.at_ns(seq) for seq, _ in points[1:] if seq > cut.after and _is_move(life, seq)]
    there = len(here) + len(others) + len(pulls) + len(uses) + len(moves)
    pulls, uses, moves = spread(pulls, MOST), spread(uses, MOST), spread(moves, MOST)
    return ImageLife(
        life.shown,
        points[-1][1],
        here[-1].until_ns is None,
        tuple(spans),
        tuple(pulls),
        tuple(uses),
        tuple(moves),
        there - len(spans) - len(pulls) - len(uses) - len(moves),
    )


def _is_move(life: Life, seq: int) -> bool:
    """Return whether a reference that was here moved at a position, and did not come."""
    return all(here.seq != seq for here in life.here)


def _of_manifests(cut: Cut, points: list[tuple[int, str]], life: Life) -> Iterator[Span]:
    """Yield the holds and pins of what a reference pointed at, for as long as it was here and did."""
    chronicle = cut.chronicle
    for at, (seq, digest) in enumerate(points):
        found: list[tuple[SpanKind, Lasting]] = [("hold", each) for each in chronicle.holds.get(digest, ())]
        found += [("pin", each) for each in chronicle.pins.get(digest, ())]
        if not found:
            continue
        here = life.here[bisect_right(life.here, seq, key=lambda each: each.seq) - 1]
        since, until = (
            max(chronicle.at_ns(seq) if _is_move(life, seq) else 0, cut.began_ns(here)),
            cut.ended_ns(here),
        )
        if at + 1 < len(points):
            moved = chronicle.at_ns(points[at + 1][0])
            until = moved if until is None else min(until, moved)
        for kind, each in found:
            if each.seq <= cut.until and (span := _within(_span(cut, kind, each), since, until)):
                yield span


def _within(span: Span, since_ns: int, until_ns: int | None) -> Span | None:
    """Return the part of a span that is between two times; None: there is none."""
    since = max(span.since_ns, since_ns)
    until = min(_FAR if span.until_ns is None else span.until_ns, _FAR if until_ns is None else until_ns)
    if until < since:
        return None
    return Span(span.kind, since, None if until == _FAR else until, span.by)


def _span(cut: Cut, kind: SpanKind, lasting: Lasting) -> Span:
    by = cut.person(lasting.by) if isinstance(lasting.by, int) else lasting.by
    ended = kind == "here" and 0 < lasting.end_seq <= cut.until
    return Span(
        kind,
        cut.began_ns(lasting),
        cut.ended_ns(lasting),
        shortened(by, _LONGEST),
        cut.person(lasting.ended_by) if ended else "",
        lasting.ended_how if ended else "",
    )


def _times(cut: Cut, life: Life) -> tuple[list[int], list[int]]:
    """Return when an image was pulled, and used without a boot, in the time shown."""
    chronicle = cut.chronicle
    pulls: list[int] = []
    uses: list[int] = []
    for act in reversed(life.acts):
        seq = chronicle.act_seqs[act]
        if seq <= cut.after:
            break
        if seq <= cut.until:
            kind = chronicle.act_kinds[act]
            if kind in (PULL, USE):
                (pulls if kind == PULL else uses).append(cut.told(seq, chronicle.act_times[act]))
    return sorted(pulls), sorted(uses)
