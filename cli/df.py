"""The df command: what a home takes of the disk, and what would come free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from msb_cache.cli import bars, look, output, tables
from msb_cache.cli.common import examples, note, open_cache
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.main import EXIT_BOUND, EXIT_FAILED
from msb_cache.cli.rules import bound_missed, policy_in
from msb_cache.cli.tables import Column, show
from msb_cache.wording import duration

if TYPE_CHECKING:
    from msb_cache.care.disk_usage import DiskCategory, DiskUsage, ImageUsage, LogUsage, PolicyUsage
    from msb_cache.cli.tables import Cell

_IMAGES = (
    Column("IMAGE", "name"),
    Column("SIZE", "size"),
    Column("UNIQUE", "size", leave=2),
    Column("SHARED", "size", leave=3),
    Column("FLAT", "size", leave=4),
    Column("RECLAIMABLE", "size"),
    Column("IN USE", "name", leave=1),
)

_KINDS = (
    Column("WHAT", "name"),
    Column("FILES", "count", leave=2),
    Column("LOGICAL", "size", leave=1),
    Column("ALLOCATED", "size"),
    Column("RECLAIMABLE", "size"),
)

_DISK_BAR = 30

_SHOWN = {
    "layer": "layers",
    "flat": "flat roots",
    "downloads": "partial downloads",
    "locks": "lock files",
    "total": "cache/ in all",
    "log": "log (db/msb-cache.db)",
    "index_copies": "copies of the index (db/snapshots)",
    "set_aside": "databases set aside (db/set-aside)",
    "reserve": "reserve (db/reserve)",
    "msb_database": "msb's database (db/msb.db)",
}
"""How categories are called, where that is not their name."""


@click.command(
    short_help="Show what the cache takes of the disk.",
    epilog=examples("msb-cache df", "msb-cache df --format json", "msb-cache df --check"),
)
@click.option("--check", is_flag=True, help="Fail with exit code 5 if a bound of the policy cannot be kept.")
@shown_options("all its bytes on the disk")
@click.pass_obj
def df(home: str | None, check: bool, shown: Shown) -> int:
    """Show what the cache takes of the disk, by image and by kind of file.

    Sizes are measured, and those of the cache add up to what `du` says. RECLAIMABLE is of an image what would
    come free if it alone were removed now, and of a kind of file what a prune would free.
    """
    with open_cache(home, quiet=shown.quiet) as cache:
        if check:
            policy_in(cache)  # without one there is nothing to check
        found = cache.disk_usage()
    for sentence in () if shown.quiet else found.notes:
        note(sentence)
    shown.item(lambda: _fields(found), names=lambda: [str(_total(found))], table=lambda: _print(found))
    return _problem(found) if check else 0


COMMAND = df


def _fields(found: DiskUsage) -> dict[str, Any]:
    from msgspec import to_builtins

    fields: dict[str, Any] = to_builtins(found)
    return fields


def _total(found: DiskUsage) -> int:
    return found.cache_total.allocated_bytes + sum(each.allocated_bytes for each in found.outside)


def _problem(found: DiskUsage) -> int:
    """Say why the policy's bounds cannot be kept, if they cannot, and return the exit code for it."""
    policy = found.policy
    if policy is None:
        return EXIT_FAILED  # a note says why
    if policy.refused is not None:
        output.error(policy.refused)
    elif policy.missing_bytes:
        output.error(bound_missed(policy.missing_for, policy.missing_bytes))
    else:
        return 0
    return EXIT_BOUND


def _print(found: DiskUsage) -> None:
    if found.log is None and not found.cache_total.files and not any(each.files for each in found.outside):
        output.line("Nothing of this home is on the disk yet.", err=True)
        return
    pictures = look.width() is not None and not look.is_dumb()
    if found.images:
        images = _IMAGES, [*map(_image, found.images)]
        show(*(_with_bars_of_images(*images, found.images) if pictures else images))
        output.line()
    kinds = _KINDS, [*_categories(found)]
    show(*(_with_bars_of_kinds(*kinds, found) if pictures else kinds))
    output.line()
    tables.fields([*(_disk(found) if pictures else ()), *_pairs(found)], name_width=13)


def _with_bars_of_images(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], images: Sequence[ImageUsage]
) -> tuple[Sequence[Column], Sequence[Sequence[Cell]]]:
    """Return the table of images with a bar for each: what is its own, what is shared, its flat root.

    A column of flat roots says nothing where there is none.
    """
    parts = [(each.unique_bytes, each.shared_bytes, each.flat_allocated_bytes) for each in images]
    names = ["UNIQUE", "SHARED", "FLAT"]
    if not any(each.flat_allocated_bytes for each in images):
        at = [column.header for column in columns].index(names.pop())
        columns = [*columns[:at], *columns[at + 1 :]]
        rows = [[*row[:at], *row[at + 1 :]] for row in rows]
    return _with_bars(columns, rows, names, parts)


def _with_bars_of_kinds(
    columns: Sequence[Column], rows: Sequence[Sequence[Cell]], found: DiskUsage
) -> tuple[Sequence[Column], Sequence[Sequence[Cell]]]:
    parts = [
        (each.allocated_bytes - each.reclaimable_bytes, each.reclaimable_bytes) for each in _there(found)
    ]
    return _with_bars(columns, rows, ["STAYS", "FREED"], parts)


def _with_bars(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    names: Sequence[str],
    parts: Sequence[Sequence[int]],
) -> tuple[Sequence[Column], Sequence[Sequence[Cell]]]:
    shown = bars.glyphs()
    most = max(map(sum, parts), default=0)
    column = Column(bars.legend(names, shown), "bar", leave=9)
    return tables.with_bars(
        columns, rows, column, lambda row, width: bars.stacked(parts[row], most, width, shown)
    )


def _disk(found: DiskUsage) -> Iterator[tuple[str, str]]:
    """Yield how full the disk is: this home's part, that of others, and what is free."""
    ours = _total(found)
    others = max(0, found.disk_bytes - found.disk_free_bytes - ours)
    shown = bars.glyphs()
    bar = bars.stacked((ours, others), found.disk_bytes, _DISK_BAR, shown)
    yield "Disk", f"{bar.ljust(_DISK_BAR, shown.empty)} {output.size(found.disk_bytes)}"
    names = [f"{output.size(ours)} this home,", f"{output.size(others)} others,"]
    yield "", f"{bars.legend(names, shown)} {shown.empty} {output.size(found.disk_free_bytes)} free"


def _pairs(found: DiskUsage) -> Iterator[tuple[str, str]]:
    if found.log is not None:
        yield "Log", _log(found.log)
    yield "Reclaimable", _reclaimable(found)
    if found.policy is not None:
        yield "By policy", _by_policy(found.policy)


def _by_policy(policy: PolicyUsage) -> str:
    if policy.refused is not None:
        return "nothing, because more images would go than it lets go at once"
    if not policy.images and not policy.missing_bytes:
        return f"nothing ({policy.file})"
    missing = f", {output.size(policy.missing_bytes)} too little" if policy.missing_bytes else ""
    images = output.plural(policy.images, "image")
    return f"{output.size(policy.reclaimable_bytes)} of {images}{missing} ({policy.file})"


def _image(image: ImageUsage) -> tuple[Cell, ...]:
    in_use = [output.plural(len(image.holders), "holder")] if image.holders else []
    in_use += [f"{image.running:,} running"] if image.running else []
    in_use += ["pinned"] if image.pinned else []
    return (
        image.reference or image.manifest_digest,
        image.allocated_bytes,
        image.unique_bytes,
        image.shared_bytes,
        image.flat_allocated_bytes or None,
        image.reclaimable_bytes,
        ", ".join(in_use) or None,
    )


def _categories(found: DiskUsage) -> Iterator[tuple[Cell, ...]]:
    for each in (*found.cache, found.cache_total):
        if each.files:
            yield *_amounts(each), each.reclaimable_bytes
    for each in found.outside:
        if each.files:
            yield *_amounts(each), None  # no command of ours frees it


def _there(found: DiskUsage) -> list[DiskCategory]:
    return [each for each in (*found.cache, found.cache_total, *found.outside) if each.files]


def _amounts(each: DiskCategory) -> tuple[Cell, ...]:
    return _SHOWN.get(each.name, each.name), each.files, each.logical_bytes, each.allocated_bytes


def _log(log: LogUsage) -> str:
    from msb_cache.care.disk_usage import MONTH_NS

    has = f"{output.size(log.allocated_bytes)}, {output.plural(log.events, 'event')}"
    if log.bytes_per_month is None:
        return f"{has}; it is too young to say how it grows"
    if log.counted_ns < MONTH_NS:
        period = f"the {duration(log.counted_ns)} since it began"
    else:
        period = f"the last {duration(log.counted_ns)} ({output.plural(log.counted_events, 'event')})"
    return f"{has}; it grows by about {output.size(log.bytes_per_month)} a month, as in {period}"


def _reclaimable(found: DiskUsage) -> str:
    plain = f"{output.size(found.prune_bytes)} by `msb-cache prune`"
    if not found.orphans_bytes:
        return plain
    return f"{plain}, {output.size(found.orphans_bytes)} more with `--orphans`"
