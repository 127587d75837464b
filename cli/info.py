"""The info command: which engine a home has, and why, and how much there is."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from msb_cache.cli import output
from msb_cache.cli.common import format_option, note, open_cache
from msb_cache.cli.leftovers import leftover_cells, leftover_fields

if TYPE_CHECKING:
    from msb_cache.queries.info import HomeInfo

_TIMES = ("began_at", "known_since", "synced_at", "restored_at")


@click.command(short_help="Show whose cache this is, and how much there is.")
@format_option
@click.pass_obj
def info(home: str | None, format_: str) -> None:
    """Show whose cache this is, what changes it, and how much there is.

    In a home that msb keeps, pull, load, remove and prune act through msb itself.
    """
    with open_cache(home) as cache:
        found = cache.info()
    if found.msb_schema_note is not None:
        note(found.msb_schema_note)
    if format_ == "json":
        shown: dict[str, Any] = {
            field.name: _plain(field.name, getattr(found, field.name)) for field in fields(found)
        }
        output.json(shown | {"leftovers": [leftover_fields(each) for each in found.leftovers]})
    else:
        _print(found)


COMMAND = info


def _plain(name: str, value: Any) -> Any:
    if name in _TIMES:
        return output.rfc3339(value)
    if isinstance(value, tuple):
        return list(value)
    return value if value is None or isinstance(value, int) else str(value)


def _print(found: HomeInfo) -> None:
    def line(name: str, value: str) -> None:
        output.line(f"{name + ':':<12} {value}")

    line("Home", str(found.home))
    line("Engine", f"{found.engine} ({found.why})")
    if found.engine == "msb" and found.program is not None:
        line("msb", f"{found.program_version or 'unknown version'} at {found.program}")
    if found.engine == "msb":
        line("Last sync", output.local_time(found.synced_at))
        line("Known since", output.local_time(found.known_since))
    line("Log", str(found.database))
    if found.schema is None:
        line("Events", "none yet")
        return
    line("Events", f"{found.events:,} since {output.local_time(found.began_at)}, log {found.log_id}")
    line("Images", f"{found.images:,} ({output.plural(found.manifests, 'manifest')})")
    line("Layers", f"{found.layers:,}, {output.size(found.layer_bytes)} as EROFS images")
    if found.flat_roots:
        taken = f"{output.size(found.flat_allocated_bytes)} on disk"
        line("Flat roots", f"{found.flat_roots:,}, {output.size(found.flat_bytes)}, {taken}")
    line("Holds", f"{found.holds:,}")
    if found.pins:
        line("Pins", f"{found.pins:,}")
    kept = output.size(found.reserve) if found.reserve else "no room is kept"
    line("Reserve", f"{kept} for a deletion on a full disk")
    if found.restored_at is not None:
        lost = "" if found.events_lost is None else f", {output.plural(found.events_lost, 'event')} lost"
        line(
            "Restored",
            f"{output.local_time(found.restored_at)}{lost}; no orphan goes until that is confirmed",
        )
    if found.unfinished:
        line("Unfinished", f"{', '.join(found.unfinished)} (running, or for the next command that writes)")
    if found.leftovers:
        files = output.plural(len(found.leftovers), "file")
        size = output.size(sum(each.bytes for each in found.leftovers))
        line("Left over", f"{files}, {size}; the next prune or remove tries again")
        output.columns(leftover_cells(found.leftovers))
