"""The events command: the log, all at once or as it grows."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import click

from msb_cache.cli.common import examples, open_cache, stopping
from msb_cache.cli.event_lines import print_as_they_come, print_cloudevents, show_events
from msb_cache.cli.filters import chosen, filter_options
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.posting import Delivery, deliver, posting_options
from msb_cache.cli.privacy import Told, privacy_options


@click.command(
    epilog=examples(
        "msb-cache events --since '1 hour ago' --type image.removed",
        "msb-cache events --follow --format json",
        "msb-cache events -n 10 --format '{seq} {type} {actor.user}'",
        "msb-cache events --follow --post https://hooks.example/events --post-secret-file FILE",
    )
)
@click.option(
    "--subject", multiple=True, metavar="REF", help="Only about this image, digest or operation; repeatable."
)
@filter_options
@shown_options("the events' positions, such as @5", more=("cloudevents",))
@posting_options
@privacy_options(("cloudevents",))
@click.pass_obj
def events(
    home: str | None,
    /,
    shown: Shown,
    follow: bool,
    delivery: Delivery | None,
    told: Told,
    **given: Any,
) -> int:
    """Show the event log.

    A reference may have wildcards, as in 'ghcr.io/acme/*'.

    TIME is ISO 8601, or such as 'yesterday 14:00', friday, '2 days ago', 1h30m; @5 is an event of the log.
    """
    with open_cache(home) as cache:
        if delivery is not None:
            return deliver(cache, delivery, chosen(given), follow=follow, quiet=shown.quiet, **told)
        with stopping() if follow else nullcontext() as stopped:
            filters = chosen(given)
            found = (
                cache.follow(stopped=stopped, **filters)
                if stopped is not None
                else cache.iter_events(**filters)
            )
            if shown.kind == "cloudevents":
                print_cloudevents(cache, found, **told)
            elif follow:
                print_as_they_come(found, shown)
            else:
                show_events(found, shown, recorded=given["recorded"])
        return 0


COMMAND = events
