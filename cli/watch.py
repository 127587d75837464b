"""The watch command: what happens in a home, recorded and shown as it happens."""

from __future__ import annotations

import click

from msb_cache.cli.common import format_option, open_cache, stopping
from msb_cache.cli.event_lines import print_as_they_come


@click.command()
@format_option
@click.pass_obj
def watch(home: str | None, format_: str) -> None:
    """Record and show what happens as it happens.

    Stays until Ctrl-C. With --format json one line for each event.
    """
    with stopping() as stopped, open_cache(home) as cache:
        print_as_they_come(cache.watch(stopped=stopped), format_)


COMMAND = watch
