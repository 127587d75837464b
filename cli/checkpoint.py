"""The checkpoint command: a note that fixes the log as it is."""

from __future__ import annotations

import click

from msb_cache.cli import output
from msb_cache.cli.common import examples, open_cache
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.shapes import jsonable


@click.command(epilog=examples("msb-cache checkpoint > note.txt"))
@shown_options("the note", tables=False)
@click.pass_obj
def checkpoint(home: str | None, shown: Shown) -> None:
    """Print a note that fixes the log as it is now.

    Keep it where nobody who can write this home can write: `verify --against NOTE` proves later that the
    log still begins with all of what it says now.
    """
    with open_cache(home, quiet=shown.quiet) as cache:
        found = cache.checkpoint()
    shown.item(
        lambda: jsonable(found),
        names=found.note.splitlines,
        table=lambda: output.document(found.note),
        paged=False,
    )


COMMAND = checkpoint
