"""The info command: which engine a home has, and why, and how much there is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from msb_cache.cli import look, output, tables
from msb_cache.cli.common import examples, note, open_cache
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.leftovers import print_leftovers
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.queries.info import HomeInfo


@click.command(
    short_help="Show whose cache this is, and how much there is.",
    epilog=examples("msb-cache info", "msb-cache info --format '{engine}'"),
)
@shown_options("the home")
@click.pass_obj
def info(home: str | None, shown: Shown) -> None:
    """Show whose cache this is, what changes it, and how much there is.

    In a home that msb keeps, pull, load, remove and prune act through msb itself.
    """
    with open_cache(home, quiet=shown.quiet) as cache:
        found = cache.info()
    if found.msb_schema_note is not None and not shown.quiet:
        note(found.msb_schema_note)
    shown.item(lambda: jsonable(found), names=lambda: [str(found.home)], table=lambda: _print(found))


COMMAND = info


def _print(found: HomeInfo) -> None:
    tables.fields(_pairs(found), name_width=12)
    print_leftovers(found.leftovers)


def _pairs(found: HomeInfo) -> Iterator[tuple[str, str]]:
    yield "Home", str(found.home)
    yield "Engine", f"{found.engine} ({found.why})"
    if found.engine == "msb" and found.program is not None:
        yield "msb", f"{found.program_version or 'unknown version'} at {found.program}"
    if found.engine == "msb":
        yield "Last sync", look.in_full(found.synced_at)
        yield "Known since", look.in_full(found.known_since)
    yield "Log", str(found.database)
    if found.schema is None:
        yield "Events", "none yet"
        return
    yield "Events", f"{found.events:,} since {look.in_full(found.began_at)}, log {found.log_id}"
    yield "Images", f"{found.images:,} ({output.plural(found.manifests, 'manifest')})"
    yield "Layers", f"{found.layers:,}, {output.size(found.layer_bytes)} as EROFS images"
    if found.flat_roots:
        taken = f"{output.size(found.flat_allocated_bytes)} on disk"
        yield "Flat roots", f"{found.flat_roots:,}, {output.size(found.flat_bytes)}, {taken}"
    yield "Holds", f"{found.holds:,}"
    if found.pins:
        yield "Pins", f"{found.pins:,}"
    kept = output.size(found.reserve) if found.reserve else "no room is kept"
    yield "Reserve", f"{kept} for a deletion on a full disk"
    if found.restored_at is not None:
        lost = "" if found.events_lost is None else f", {output.plural(found.events_lost, 'event')} lost"
        yield (
            "Restored",
            f"{look.in_full(found.restored_at)}{lost}; no orphan goes until that is confirmed",
        )
    if found.unfinished:
        yield "Unfinished", f"{', '.join(found.unfinished)} (running, or for the next command that writes)"
    if found.leftovers:
        files = output.plural(len(found.leftovers), "file")
        size = output.size(sum(each.bytes for each in found.leftovers))
        yield "Left over", f"{files}, {size}; the next prune or remove tries again"
