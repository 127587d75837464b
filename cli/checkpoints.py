"""The checkpoints command: those that were signed in this home, and one of them as a note."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from msb_cache.cli import output
from msb_cache.cli.checkpoint import FIELDS, show
from msb_cache.cli.common import done, examples, limit_option, open_cache
from msb_cache.cli.formats import Shown, nothing, shown_options
from msb_cache.cli.tables import Column
from msb_cache.cli.tables import show as show_table
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.audit.checkpoints import Checkpoint


@click.group(
    short_help="List the checkpoints that were signed here.",
    invoke_without_command=True,
    epilog=examples("msb-cache checkpoints", "msb-cache checkpoints show", "msb-cache checkpoints show 24"),
)
@limit_option
@shown_options("their numbers of events")
@click.pass_context
def checkpoints(ctx: click.Context, limit: int | None, shown: Shown) -> None:
    """List the signed checkpoints that this home keeps, newest first."""
    if ctx.invoked_subcommand is not None:
        return
    with open_cache(ctx.obj) as cache:
        found = cache.checkpoints(limit=limit)
    shown.items(found, fields=jsonable, name=lambda each: str(each.size), table=_print)


COLUMNS = (
    Column("EVENTS", "count"),
    Column("SIGNED", "time"),
    Column("AS", "name"),
    Column("COSIGNED BY", "prose", leave=1),
)


def _print(found: Iterable[Checkpoint]) -> None:
    show_table(
        COLUMNS,
        (
            (
                each.size,
                each.signed_at_ns,
                each.origin,
                ", ".join(sorted({witness.name for witness in each.cosigned})) or None,
            )
            for each in nothing("Nothing was signed here; `msb-cache checkpoint --sign KEY` does.", found)
        ),
        of="checkpoints",
    )


@checkpoints.command(
    "show",
    short_help="Print the note of one, the newest or that of so many events.",
    epilog=examples("msb-cache checkpoints show > monday.note", "msb-cache checkpoints show 24"),
)
@click.argument("events", metavar="[EVENTS]", type=click.IntRange(1), required=False)
@click.option("--origin", metavar="NAME", help="Of this name; default: of any.")
@shown_options("the note", tables=False)
@click.pass_obj
def show_one(home: str | None, events: int | None, origin: str | None, shown: Shown) -> None:
    """Print the note of a signed checkpoint, with the signatures of witnesses that came since.

    EVENTS is the number of events that it is of; without it, the newest is printed.
    """
    shown.expect(*FIELDS)
    with open_cache(home) as cache:
        found = cache.signed_checkpoint(events, origin=origin)
    show(found, shown)


@checkpoints.command(
    "forget",
    short_help="Forget one, such as one that somebody else put there.",
    epilog=examples("msb-cache checkpoints forget 24", "msb-cache checkpoints forget 24 --origin NAME"),
)
@click.argument("events", metavar="EVENTS", type=click.IntRange(0))
@click.option("--origin", metavar="NAME", help="Of this name; default: of any.")
@click.pass_obj
def forget(home: str | None, events: int, origin: str | None) -> None:
    """Forget the signed checkpoints of so many events, damaged ones, too.

    Only for one that is not yours, or of a log that you have put back: what this home has forgotten does not
    keep the key from signing another log. The note of it stays true for those who have it.
    """
    with open_cache(home) as cache:
        count = cache.forget_checkpoint(events, origin=origin)
    of = output.plural(events, "event")
    done("Forgot", f"{output.plural(count, 'signed checkpoint')} of {of}")


COMMAND = checkpoints
