"""The pins command: which images people keep."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from msb_cache.cli import output
from msb_cache.cli.common import examples, note, open_cache
from msb_cache.cli.fields import pin_subject
from msb_cache.cli.filters import as_of_option
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.tables import Column, show
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.queries.pins import Pin

COLUMNS = (
    Column("PINNED", "name"),
    Column("DIGEST", "digest", leave=3),
    Column("BY", leave=1),
    Column("SINCE", "time", leave=2),
    Column("UNTIL", "time"),
    Column("REASON", "prose"),
)


@click.command(epilog=examples("msb-cache pins", "msb-cache pins --as-of yesterday"))
@as_of_option
@shown_options("what is pinned")
@click.pass_obj
def pins(home: str | None, as_of: str | None, shown: Shown) -> None:
    """Show what is pinned, by whom, why and until when."""
    with open_cache(home) as cache:
        found = cache.pins(as_of=as_of)
        known = bool(found) or as_of is None or cache.knows(as_of)

    def table(_: Iterable[Pin]) -> None:
        if found:
            show(
                COLUMNS,
                (
                    (
                        pin_subject(pin),
                        pin.manifest_digest if pin.here else "not here",
                        pin.by,
                        pin.since_ns,
                        pin.until_ns,
                        pin.reason,
                    )
                    for pin in found
                ),
                of="pins",
            )
        elif known:
            output.line("Nothing is pinned.", err=True)

    shown.items(found, fields=jsonable, name=pin_subject, table=table)
    if found and not found[0].enforced and shown.as_table:
        note("msb keeps this home, and its own `msb image prune` and `msb image rm` do not know pins")


COMMAND = pins
