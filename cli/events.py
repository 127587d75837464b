"""The events command: the log, all at once or as it grows."""

from __future__ import annotations

from typing import Any

import click

from msb_cache.cli.common import examples, open_cache, stopping
from msb_cache.cli.event_lines import print_as_they_come, show_events
from msb_cache.cli.filters import chosen, filter_options
from msb_cache.cli.formats import Shown, shown_options


@click.command(
    epilog=examples(
        "msb-cache events --since '1 hour ago' --type image.removed",
        "msb-cache events --follow --format json",
        "msb-cache events -n 10 --format '{seq} {type} {actor.user}'",
    )
)
@click.option(
    "--subject", multiple=True, metavar="REF", help="Only about this image, digest or operation; repeatable."
)
@filter_options
@shown_options("the events' positions, such as @5")
@click.pass_obj
def events(home: str | None, /, shown: Shown, follow: bool, **given: Any) -> None:
    """Show the event log.

    A reference may have wildcards, as in 'ghcr.io/acme/*'.

    TIME is ISO 8601, or such as 'yesterday 14:00', friday, '2 days ago', 1h30m; @5 is an event of the log.
    """
    with open_cache(home) as cache:
        if follow:
            with stopping() as stopped:
                print_as_they_come(cache.follow(stopped=stopped, **chosen(given)), shown)
            return
        show_events(cache.iter_events(**chosen(given)), shown, recorded=given["recorded"])


COMMAND = events
