"""The watch command: what happens in a home, recorded and shown as it happens."""

from __future__ import annotations

import click

from msb_cache.cli.common import format_option, open_cache, staying_logger, stopping
from msb_cache.cli.event_lines import print_as_they_come


@click.command()
@format_option
@click.pass_context
def watch(ctx: click.Context, format_: str) -> None:
    """Record and show what happens as it happens.

    Stays until Ctrl-C. With --format json one line for each event. What is unusual is logged to stderr.
    """
    if ctx.find_root().params.get("log_level"):
        staying_logger()
    with stopping() as stopped, open_cache(ctx.obj, said=_log) as cache:
        print_as_they_come(cache.watch(stopped=stopped), format_)


def _log(sentence: str) -> None:
    staying_logger().warning("note", said=sentence)  # made now: most of what stays has nothing to say


COMMAND = watch
