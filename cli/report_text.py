"""A report on a terminal, or as plain text: headings, a sparkline, and tables with bars."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from msb_cache.cli import bars, look, output, tables
from msb_cache.cli.output import Styled
from msb_cache.cli.tables import Cell, Column, show
from msb_cache.wording import duration, plural, size

if TYPE_CHECKING:
    from msb_cache.report.facts import Block, CacheReport, PersonLine

_MOST = 10
"""So many rows a table has."""
_WIDTH = 100
"""Columns of what is no terminal."""
_LABEL = 10  # a size
_DAYS = 2 * 86400 * 10**9
"""Of a time that is shorter than this, days alone say too little."""

_BLOCKS = (Column("WHAT", "name"), Column("SIZE", "size"), Column("STATE", "word", leave=3))
_IDLE = (
    Column("IMAGE", "name"),
    Column("IDLE SINCE", "time"),
    Column("LAST BY", leave=1),
    Column("COMES FREE", "size"),
)
_PEOPLE = (
    Column("WHO", "name"),
    Column("USES", "count", leave=4),
    Column("PULLS", "count", leave=3),
    Column("FETCHED", "size", leave=1),
    Column("DELETIONS", "count", leave=5),
    Column("IMAGES", "count", leave=2),
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
    legend = bars.legend(["its own,", "shared,", "flat root"], shown)
    _section(f"What takes the disk: {legend}")
    _blocks(report.blocks, shown)
    if report.idle:
        _section("Longest idle")
        rows = [
            (each.reference, each.idle_since_ns, each.last_by or None, each.reclaimable_bytes or None)
            for each in report.idle[:_MOST]
        ]
        _table(_IDLE, rows, len(report.idle))
    if report.people:
        _section("Who pulled and deleted how much")
        _people(report.people, shown)
    if report.deletions:
        _section("Last removals and prunes")
        deletions = [
            (each.operation, each.started_at_ns, each.kind, each.images, each.bytes, each.who)
            for each in report.deletions[: -_MOST - 1 : -1]
        ]
        _table(_DELETIONS, deletions, len(report.deletions))


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


def _section(title: str, lines: Iterable[Sequence[str | Styled]] = ()) -> None:
    output.line()
    tables.sentence(output.styled(title, bold=True))
    for line in lines:
        output.line(*line)


def _table(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], count: int, rest: int | None = None
) -> None:
    """Print a table, and how many rows it would have besides, with their bytes if these add up."""
    show(columns, rows)
    if count > len(rows):
        output.line(f"and {count - len(rows):,} more" + (f", {size(rest)}" if rest is not None else ""))
    elif not rows:
        output.line("nothing")


def _line_of_sizes(report: CacheReport, shown: bars.Glyphs) -> Iterator[Sequence[str | Styled]]:
    """Yield the sparkline, where deletions were, and when it begins and ends."""
    if not report.sizes:
        yield ("nothing was in the cache in this time",)
        return
    width = min(look.room() or _WIDTH, _WIDTH) - _LABEL - 2
    points = [(point.at_ns, point.bytes) for point in report.sizes]
    begin, end = report.since_ns, report.at_ns
    values = bars.spread(points, begin, end, width)
    most = f"{size(max(values)):>{_LABEL}}  "
    yield most, output.styled(bars.sparkline(values, shown), fg="cyan")
    marks = [" "] * width
    for deletion in report.deletions:
        part = (deletion.started_at_ns - begin) * width // max(1, end - begin)
        marks[min(max(part, 0), width - 1)] = shown.mark
    if report.deletions:
        label = "deleted"
        yield f"{label:>{_LABEL}}  ", "".join(marks)
    shape = "%d %b %Y" if end - begin >= _DAYS else "%d %b %Y %H:%M"
    first, last = (time.strftime(shape, time.localtime(ns // 10**9)) for ns in (begin, end))
    yield (f"{'':{_LABEL}}  {first}{last:>{width - len(first)}}",)


def _blocks(blocks: Sequence[Block], shown: bars.Glyphs) -> None:
    most = max((each.unique_bytes + each.flat_bytes for each in blocks), default=0)
    rows, parts = [], []
    for each in blocks[:_MOST]:
        is_shared = each.kind == "shared"
        parts.append((0, each.unique_bytes) if is_shared else (each.unique_bytes, 0, each.flat_bytes))
        name = f"shared by {plural(each.images, 'image')}" if is_shared and each.images else each.name
        rows.append((name, each.unique_bytes + each.flat_bytes, each.state or each.kind))
    rest = sum(each.unique_bytes + each.flat_bytes for each in blocks[_MOST:])
    drawn = tables.with_bars(
        _BLOCKS,
        rows,
        Column("", "bar", leave=1),
        lambda row, width: bars.stacked(parts[row], most, width, shown),
    )
    _table(*drawn, len(blocks), rest)


def _people(people: Sequence[PersonLine], shown: bars.Glyphs) -> None:
    most = max(each.pulled_bytes + each.deleted_bytes for each in people)
    rows = [
        (
            each.who,
            each.uses or None,
            each.pulls or None,
            each.pulled_bytes or None,
            each.deletions or None,
            each.deleted_images or None,
            each.deleted_bytes or None,
        )
        for each in people[:_MOST]
    ]
    drawn = tables.with_bars(
        _PEOPLE,
        rows,
        Column(bars.legend(["FETCHED", "FREED"], shown), "bar", leave=6),
        lambda row, width: bars.stacked(
            (people[row].pulled_bytes, people[row].deleted_bytes), most, width, shown
        ),
    )
    _table(*drawn, len(people))
