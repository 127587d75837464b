"""The pictures of a page, as shapes and texts that its templates write: no markup is made here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from msgspec import Struct

from msb_cache.report.facts import Block, CacheReport, DeletionMark, ImageLife, SizePoint, Span
from msb_cache.report.geometry import Rect, Scale, size_ticks, squarified, time_ticks
from msb_cache.report.sizes import kept
from msb_cache.wording import size

WIDTH = 1000
"""Of the wide pictures, in their own units."""
SIZES_HEIGHT = 260
_TOP, _BOTTOM = 16, 28
LEFT = 64
"""Where the time begins: before it stand words."""
TREEMAP_HEIGHT = 420
LIFE_WIDTH, LIFE_HEIGHT = 300, 9
_HEADING = 18.0
_CHARACTER = 7.1
"""How wide one is, as a rule."""
_MOST_POINTS = 400
_SMALLEST = 0.0004
"""A part of the whole that is less than that is put together with others."""


class Tick(Struct, frozen=True):
    """A mark at a line, and what stands there."""

    at: float
    text: str


class Mark(Struct, frozen=True):
    """A deletion on the line of sizes."""

    x: float
    y: float
    deletion: DeletionMark


class SizesPicture(Struct, frozen=True):
    """How large the cache was: an area, the line above it, marks and ticks."""

    area: str
    line: str
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    points: str
    """For the script: ``x bytes images`` of each point, x a coordinate."""
    largest: SizePoint
    smallest: SizePoint


def sizes_picture(report: CacheReport) -> SizesPicture | None:
    """Return the picture of a report's sizes; None: there is none to draw."""
    if not report.sizes:
        return None
    largest = max(report.sizes, key=_bytes)
    across = Scale(report.since_ns, report.at_ns, LEFT, WIDTH)
    ticks = size_ticks(largest.bytes)
    up = Scale(0, ticks[-1][0], SIZES_HEIGHT - _BOTTOM, _TOP)
    shown = kept([each.bytes for each in report.sizes], most=_MOST_POINTS)
    first, *rest = points = [report.sizes[at] for at in shown]
    steps = [f"M{across(first.at_ns):g} {up(first.bytes):g}"]
    steps += [f"H{across(point.at_ns):g}V{up(point.bytes):g}" for point in rest]
    line = "".join(steps) + f"H{WIDTH}"
    return SizesPicture(
        area=f"{line}V{up(0):g}H{across(first.at_ns):g}Z",
        line=line,
        across=tuple(Tick(across(at), text) for at, text in time_ticks(report.since_ns, report.at_ns)),
        up=tuple(Tick(up(at), text) for at, text in ticks),
        marks=tuple(_marks(report, across, up)),
        points=" ".join(f"{across(each.at_ns):g},{each.bytes},{each.images}" for each in points),
        largest=largest,
        smallest=min(report.sizes, key=_bytes),
    )


def _bytes(point: SizePoint) -> int:
    return point.bytes


def _marks(report: CacheReport, across: Scale, up: Scale) -> Iterable[Mark]:
    points = iter(report.sizes)
    at = next(points)
    coming = next(points, None)
    for deletion in report.deletions:
        while coming is not None and coming.seq <= deletion.seq:
            at, coming = coming, next(points, None)
        yield Mark(across(deletion.started_at_ns), up(at.bytes), deletion)


class Cell(Struct, frozen=True):
    """A block's rectangle, with the part of it that is its flat root, and what fits into it."""

    block: Block
    rect: Rect
    flat: Rect | None
    label: str
    """The end of a name says more than its beginning: what is cut is cut there."""
    amount: str


class Group(Struct, frozen=True):
    """Blocks of one kind, beside each other."""

    kind: str
    title: str
    bytes: int
    rect: Rect
    cells: tuple[Cell, ...]


_GROUPS = (
    ("image", "Images"),
    ("shared", "Shared layers"),
    ("leaked", "Leaked"),
    ("other", "Other files"),
)


def treemap(blocks: Sequence[Block], most: int = 100) -> tuple[Group, ...]:
    """Return what takes the disk as rectangles, by kind: of each ``most``, and what is smaller as one."""
    total = sum(map(_all, blocks))
    if not total:
        return ()
    kinds = [(kind, title, [each for each in blocks if each.kind == kind]) for kind, title in _GROUPS]
    kinds = [each for each in kinds if each[2]]
    kinds.sort(key=lambda each: -sum(map(_all, each[2])))
    whole = Rect(0, 0, WIDTH, TREEMAP_HEIGHT)
    rects = squarified([sum(map(_all, found)) for _, _, found in kinds], whole)
    return tuple(
        _group(kind, title, _merged(found, total, most), rect)
        for (kind, title, found), rect in zip(kinds, rects, strict=True)
    )


def _all(block: Block) -> int:
    return block.unique_bytes + block.flat_bytes


def _merged(blocks: Sequence[Block], total: int, most: int) -> list[Block]:
    """Return blocks, the small ones as one."""
    shown = [each for each in blocks[:most] if _all(each) >= total * _SMALLEST]
    rest = blocks[len(shown) :]
    if len(rest) > 1:
        unique, flat = sum(each.unique_bytes for each in rest), sum(each.flat_bytes for each in rest)
        what = "images" if rest[0].kind == "image" else "parts"
        shown.append(Block(rest[0].kind, f"{len(rest):,} smaller {what}", unique, flat))
    else:
        shown += rest
    return shown


def _group(kind: str, title: str, blocks: Sequence[Block], rect: Rect) -> Group:
    inner = _inset(rect, 2)
    has_heading = inner.height > 3 * _HEADING and inner.width > 60
    if has_heading:
        inner = Rect(inner.x, inner.y + _HEADING, inner.width, inner.height - _HEADING)
    rects = squarified([_all(each) for each in blocks], inner)
    cells = tuple(_cell(block, each) for block, each in zip(blocks, rects, strict=True))
    taken = sum(map(_all, blocks))
    heading = ""
    if has_heading:
        heading = next((each for each in (f"{title}, {size(taken)}", title) if _fits(each, rect.width)), "")
    return Group(kind, heading, taken, rect, cells)


def _cell(block: Block, rect: Rect) -> Cell:
    inner = _inset(rect, 1)
    flat = None
    if block.flat_bytes:
        part = block.flat_bytes / _all(block)
        if inner.width >= inner.height:
            width = inner.width * part
            flat = Rect(inner.x + inner.width - width, inner.y, width, inner.height)
        else:
            height = inner.height * part
            flat = Rect(inner.x, inner.y + inner.height - height, inner.width, height)
    name = f"{block.images} images share" if block.kind == "shared" and block.images else block.name
    label = _fitting(name, inner.width - 12) if inner.height >= 22 else ""
    amount = size(_all(block)) if label and inner.height >= 37 and inner.width >= 76 else ""
    return Cell(block, inner, flat, label, amount)


def _inset(rect: Rect, by: float) -> Rect:
    by = min(by, rect.width / 4, rect.height / 4)
    return Rect(
        round(rect.x + by, 1),
        round(rect.y + by, 1),
        round(rect.width - 2 * by, 1),
        round(rect.height - 2 * by, 1),
    )


def _fitting(text: str, width: float) -> str:
    """Return as much of a name as fits; empty: that would say nothing.

    Of an image the registry and folders go first, as the end says more.
    """
    shown = text
    while not _fits(shown, width):
        _, slash, shown = shown.partition("/")
        if not slash:
            break
    else:
        return shown
    room = int(width / _CHARACTER)
    return f"…{text[1 - room :]}" if room >= 6 else ""


def _fits(text: str, width: float) -> bool:
    return len(text) * _CHARACTER <= width


class LifeLine(Struct, frozen=True):
    """An image's life as paths of strokes: in the cache, held or pinned, run; its pulls and uses."""

    here: str
    kept: str
    run: str
    pulls: str
    words: str


_MIDDLE, _ABOVE = 5, 1
"""Where the strokes stand; how thick they are is the style's."""


def life_line(life: ImageLife, scale: Scale) -> LifeLine:
    """Return an image's life; ``scale`` maps times to 0 … ``LIFE_WIDTH``. Its paths have no spaces."""
    needed = [span for span in life.spans if span.kind in ("hold", "pin")]
    ticks = [f"M{x},0v{LIFE_HEIGHT}" for x, _ in groupby(round(scale(at)) for at in life.pulls)]
    ticks += [f"M{x},3v4" for x, _ in groupby(round(scale(at)) for at in life.uses)]
    return LifeLine(
        here=_path((span for span in life.spans if span.kind == "here"), _MIDDLE, scale),
        kept=_path(needed, _ABOVE, scale),
        run=_path((span for span in life.spans if span.kind == "run"), _MIDDLE, scale),
        pulls="".join(ticks),
        words=_story(life),
    )


def life_ticks(report: CacheReport) -> tuple[Tick, ...]:
    """Return the ticks above the lives, but for those whose texts would not fit."""
    scale = Scale(report.since_ns, report.at_ns, 0, LIFE_WIDTH)
    ticks = (Tick(scale(at), text) for at, text in time_ticks(report.since_ns, report.at_ns, 6))
    return tuple(tick for tick in ticks if LIFE_WIDTH * 0.04 <= tick.at <= LIFE_WIDTH * 0.96)


def _path(spans: Iterable[Span], y: int, scale: Scale) -> str:
    found = []
    last = -1
    for span in spans:
        begin = max(last, round(scale(span.since_ns)))
        end = LIFE_WIDTH if span.until_ns is None else round(scale(span.until_ns))
        if end <= last:
            continue  # one that lies below another is not seen
        last = max(end, begin + 1)
        found.append(f"M{begin},{y}H{last}")
    return "".join(found)


def _story(life: ImageLife) -> str:
    """Return in a few words what the line shows."""
    here = [span for span in life.spans if span.kind == "here"]
    words = []
    for kind, word in (("run", "run"), ("hold", "held"), ("pin", "pinned")):
        by = {span.by: None for span in life.spans if span.kind == kind}
        if by:
            shown = ", ".join(name for name in [*by][:2] if name)
            more = f" and {len(by) - 2} more" if len(by) > 2 else ""
            words.append(f"{word} by {shown}{more}" if shown else word)
    if here and here[-1].by:
        words.insert(0, f"pulled by {here[-1].by}")
    return "; ".join(words)
