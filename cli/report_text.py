"""A report on a terminal, or as plain text: headings, a sparkline, and tables with bars."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from msb_cache.cli import bars, look, output, tables
from msb_cache.cli.tables import Cell, Column, show
from msb_cache.wording import duration, plural, size

if TYPE_CHECKING:
    from msb_cache.report.facts import Block, CacheReport

_MOST = 10
"""So many rows a table has."""
_WIDTH = 100
"""Columns of what is no terminal."""
_BAR = 20
_LABEL = 10  # a size

_BLOCKS = (Column("WHAT", "name"), Column("SIZE", "size"), Column("STATE", "word", leave=1))
_IDLE = (
    Column("IMAGE", "name"),
    Column("IDLE SINCE", "time"),
    Column("LAST BY", leave=1),
    Column("COMES FREE", "size"),
)
_PEOPLE = (
    Column("WHO", "name"),
    Column("PULLS", "count", leave=3),
    Column("FETCHED", "size", leave=2),
    Column("DELETIONS", "count", leave=4),
    Column("IMAGES", "count", leave=1),
    Column("FREED", "size"),
)
_DELETIONS = (
    Column("ID", "operation"),
    Column("WHEN", "time"),
    Column("KIND", "word", leave=2),
    Column("IMAGES", "count"),
    Column("FREED", "size"),
    Column("WHO", leave=1),
)


def print_report(report: CacheReport) -> None:
    """Print a report."""
    shown = bars.glyphs()
    tables.fields(_headline(report), name_width=10)
    for note in report.notes:
        tables.sentence("note: ", note)
    _section("Size of the cache", _line_of_sizes(report, shown))
    _section(f"What takes the disk: {_legend(shown)}")
    _table(_with_bars(report.blocks, shown), len(report.blocks))
    if report.idle:
        _section("Longest idle")
        rows = [
            (each.reference, each.idle_since_ns, each.last_by or None, each.reclaimable_bytes or None)
            for each in report.idle[:_MOST]
        ]
        _table((_IDLE, rows), len(report.idle))
    if report.people:
        _section("Who pulled and deleted how much")
        people = [
            (
                each.who,
                each.pulls or None,
                each.pulled_bytes or None,
                each.deletions or None,
                each.deleted_images or None,
                each.deleted_bytes or None,
            )
            for each in report.people[:_MOST]
        ]
        _table((_PEOPLE, people), len(report.people))
    if report.deletions:
        _section("Last removals and prunes")
        deletions = [
            (each.operation, each.started_at_ns, each.kind, each.images, each.bytes, each.who)
            for each in report.deletions[: -_MOST - 1 : -1]
        ]
        _table((_DELETIONS, deletions), len(report.deletions))


def _headline(report: CacheReport) -> Iterator[tuple[str, str]]:
    yield "Home", report.home
    yield "As of", f"{look.in_full(report.at_ns)}, event {report.seq}"
    yield "Takes", f"{size(report.bytes)} for {plural(report.image_count, 'image')}"
    if report.prune_bytes is not None:
        yield "Reclaimable", f"{size(report.prune_bytes)} by `msb-cache prune`"
    if report.free_bytes is not None:
        yield "Disk", f"{size(report.free_bytes)} free"
    if report.idle:
        longest = duration(report.at_ns - report.idle[0].idle_since_ns)
        yield "Idle", f"{plural(len(report.idle), 'image')}, the longest for {longest}"


def _section(title: str, lines: Iterable[str] = ()) -> None:
    output.line()
    tables.sentence(output.styled(title, bold=True))
    for line in lines:
        output.line(line)


def _table(found: tuple[Sequence[Column], Sequence[Sequence[Cell]]], count: int) -> None:
    columns, rows = found
    show(columns, rows)
    if count > len(rows):
        output.line(f"and {count - len(rows):,} more")
    elif not rows:
        output.line("nothing")


def _line_of_sizes(report: CacheReport, shown: bars.Glyphs) -> Iterator[str]:
    """Yield the sparkline, where deletions were, and when it begins and ends."""
    if not report.sizes:
        yield "nothing was in the cache in this time"
        return
    width = min(look.room() or _WIDTH, _WIDTH) - _LABEL - 2
    points = [(point.at_ns, point.bytes) for point in report.sizes]
    begin, end = report.since_ns, report.at_ns
    values = bars.spread(points, begin, end, width)
    yield f"{size(max(values)):>{_LABEL}}  {bars.sparkline(values, shown)}"
    marks = [" "] * width
    for deletion in report.deletions:
        part = (deletion.started_at_ns - begin) * width // max(1, end - begin)
        marks[min(max(part, 0), width - 1)] = shown.mark
    if report.deletions:
        label = "deleted"
        yield f"{label:>{_LABEL}}  {''.join(marks).rstrip()}"
    first, last = (time.strftime("%d %b %Y", time.localtime(ns // 10**9)) for ns in (begin, end))
    yield f"{'':{_LABEL}}  {first}{last:>{width - len(first)}}"


def _legend(shown: bars.Glyphs) -> str:
    pairs = zip(shown.parts, ("own", "shared", "flat root"), strict=True)
    return ", ".join(f"{glyph} {what}" for glyph, what in pairs)


def _with_bars(
    blocks: Sequence[Block], shown: bars.Glyphs
) -> tuple[Sequence[Column], Sequence[Sequence[Cell]]]:
    most = max((each.unique_bytes + each.flat_bytes for each in blocks), default=0)
    rows = []
    for each in blocks[:_MOST]:
        is_shared = each.kind == "shared"
        own, shared = (0, each.unique_bytes) if is_shared else (each.unique_bytes, 0)
        bar = bars.stacked((own, shared, each.flat_bytes), most, _BAR, shown)
        name = f"shared by {plural(each.images, 'image')}" if is_shared and each.images else each.name
        rows.append((name, each.unique_bytes + each.flat_bytes, each.state or each.kind, bar))
    return (*_BLOCKS, Column("", "word", leave=2)), rows
