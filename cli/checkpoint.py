"""The checkpoint command: a note that fixes the log as it is."""

from __future__ import annotations

import click

from msb_cache.cli import output
from msb_cache.cli.common import examples, format_option, open_cache


@click.command(epilog=examples("msb-cache checkpoint > note.txt"))
@format_option
@click.pass_obj
def checkpoint(home: str | None, format_: str) -> None:
    """Print a note that fixes the log as it is now.

    Keep it where nobody who can write this home can write: `verify --against NOTE` proves later that the
    log still begins with all of what it says now.
    """
    with open_cache(home) as cache:
        found = cache.checkpoint()
    if format_ == "json":
        output.json(
            {
                "log_id": found.log_id,
                "size": found.size,
                "head": found.head.hex(),
                "recorded_at": output.rfc3339(found.recorded_at_ns),
                "note": found.note,
            }
        )
    else:
        output.document(found.note)


COMMAND = checkpoint
