"""The log command: what a person says about the log itself."""

from __future__ import annotations

import click

from msb_cache.cli import output
from msb_cache.cli.common import done, examples, format_option, note, open_cache
from msb_cache.cli.main import EXIT_USAGE


@click.group(invoke_without_command=True, epilog=examples("msb-cache log acknowledge"))
@click.pass_context
def log(ctx: click.Context) -> None:
    """Say something about the log itself."""
    if ctx.invoked_subcommand is None:
        output.document(f"{ctx.get_help()}\n", err=True)
        ctx.exit(EXIT_USAGE)


@log.command(epilog=examples("msb-cache log acknowledge"))
@format_option
@click.pass_obj
def acknowledge(home: str | None, format_: str) -> int:
    """Say that you know that the log was put back, or exchanged.

    Outside the home a note is kept of how far the log has come. A log that does not go on from it is told of
    by every command, and `verify` fails, until this command records in the log that you know; the note is of
    the log as it is from then on.
    """
    with open_cache(home) as cache:
        found = cache.acknowledge_log()
    if format_ == "json":
        output.json(
            {
                "acknowledged": found is not None,
                "problem": None if found is None else found.kind,
                "events": None if found is None else found.note.size,
            }
        )
    elif found is None:
        note("no note says that the log was put back or exchanged, so there is nothing to acknowledge")
    else:
        done("Acknowledged", f"that {found.sentence}")
    return 0 if found is not None else 1


COMMAND = log
