"""The checkpoint command: a note that fixes the log as it is, signed and cosigned if that is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from msb_cache.cli import output
from msb_cache.cli.common import examples, note, open_cache
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.signing import SigningOptions, signing_options
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.audit.checkpoints import Checkpoint

FIELDS = (
    *("origin", "size", "root", "log_id", "head", "recorded_at", "note"),
    *("signed_at", "signed_by", "cosigned", "asked", "problem"),
)


@click.command(
    short_help="Print a note that fixes the log as it is now.",
    epilog=examples(
        "msb-cache checkpoint > note.txt",
        "msb-cache checkpoint --sign log.key",
        "msb-cache checkpoint --sign log.key --policy policy.txt",
    ),
)
@click.option("--origin", metavar="NAME", help="The log's name in it; default: made of its id, or its key's.")
@signing_options
@shown_options("the note", tables=False)
@click.pass_obj
def checkpoint(home: str | None, origin: str | None, signing: SigningOptions, shown: Shown) -> int:
    """Print a note that fixes the log as it is now.

    Keep it where nobody who can write this home can write: `verify --against NOTE` proves later that the log
    still begins with all of what it says now. It is a checkpoint of C2SP, which other tools read, too.

    With --sign it is signed, after the events since the last signed one were checked, and kept in the home.
    With --witness or --policy witnesses cosign it: then nobody can show one log to you and another to others.
    If not all that are needed did, the note is printed all the same, and the exit code is 1.
    """
    shown.expect(*FIELDS)
    wanted = signing.read()
    with open_cache(home, quiet=shown.quiet) as cache:
        found = cache.checkpoint(origin=origin, sign=wanted)
    show(found, shown)
    if found.problem is None:
        return 0
    output.error(f"{found.problem}; the note is signed and kept, and can be submitted again")
    return 1


COMMAND = checkpoint


def show(found: Checkpoint, shown: Shown) -> None:
    """Print a checkpoint, and say of each witness that did not cosign it why."""
    from msb_cache.audit.witnesses import NotCosigned

    shown.item(
        lambda: jsonable(found),
        names=found.note.splitlines,
        table=lambda: output.document(found.note),
        paged=False,
    )
    for each in found.asked:
        if isinstance(each, NotCosigned) and each.problem != found.problem and not shown.quiet:
            note(each.problem)
