"""The last-used command: how long each image has lain idle, and the event that says so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from msb_cache.cli import look, output
from msb_cache.cli.common import NOTHING_CACHED, examples, open_cache
from msb_cache.cli.describe import describe
from msb_cache.cli.formats import Shown, nothing, shown_options
from msb_cache.cli.tables import Cell, Column, show
from msb_cache.queries.told import who
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.queries.last_used import IdleImage


@click.command("last-used", epilog=examples('msb-cache last-used --idle-for "30 days"'))
@click.option(
    "--idle-for",
    "idle_for",
    metavar="DURATION",
    help='Only those idle for as long, such as "30 days", "12 hours" or "3 months".',
)
@shown_options("references")
@click.pass_obj
def last_used(home: str | None, idle_for: str | None, shown: Shown) -> None:
    """List images by how long they lay idle, longest first.

    With the event that says so: a load or pull, a use, or what was seen of msb. An image that sandboxes run
    from is not idle; one that they ran from, since the last of them ended.
    """
    with open_cache(home) as cache:
        found = cache.last_used(at_least=idle_for)
    sentence = "No such images." if idle_for else NOTHING_CACHED

    def table(images: Iterable[IdleImage]) -> None:
        show(COLUMNS, map(row, nothing(sentence, images)), of="last-used")

    shown.items(found, fields=jsonable, name=lambda image: image.reference, table=table)


COMMAND = last_used


COLUMNS = (
    Column("REFERENCE", "name"),
    Column("DIGEST", "digest", leave=3),
    Column("IDLE", "duration"),
    Column("LAST USED", "time"),
    Column("WHO", leave=2),
    Column("BECAUSE", leave=1),
)


def _because(image: IdleImage) -> str | None:
    if image.in_use_since_ns is not None:
        return output.in_use(image.in_use_by, look.absolute(image.in_use_since_ns))
    if image.event is None:
        return None
    line = describe(image.event)
    return f"{line.what} {line.details}".rstrip()


def row(image: IdleImage) -> tuple[Cell, ...]:
    """Return an image's cells in the table."""
    return (
        image.reference,
        image.manifest_digest,
        None if image.idle_since_ns is None else image.idle_ns,
        image.last_used_ns if image.in_use_since_ns is None else "now",
        None if image.event is None else who(image.event.actor),
        _because(image),
    )
