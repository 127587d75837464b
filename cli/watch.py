"""The watch command: what happens in a home, recorded and shown as it happens."""

from __future__ import annotations

import click

from msb_cache.cli.common import examples, open_cache, staying_logger, stopping
from msb_cache.cli.event_lines import print_as_they_come, print_cloudevents
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.privacy import Told, privacy_options

_FIELDS = (
    *("seq", "id", "type", "version", "subject", "operation"),
    *("occurred_at", "recorded_at", "actor", "data", "hash"),
)


@click.command(epilog=examples("msb-cache watch", "msb-cache watch --format jsonl"))
@shown_options("the events' positions, such as @5", tables=False, more=("cloudevents",))
@privacy_options(("cloudevents",))
@click.pass_context
def watch(ctx: click.Context, shown: Shown, told: Told) -> None:
    """Record and show what happens as it happens.

    Stays until Ctrl-C. With --format json, too, each event is one line. What is unusual is logged to stderr.
    """
    shown.expect(*_FIELDS)
    if ctx.find_root().params.get("log_level"):
        staying_logger()
    with stopping() as stopped, open_cache(ctx.obj, said=_log) as cache:
        events = cache.watch(stopped=stopped)
        if shown.kind == "cloudevents":
            print_cloudevents(cache, events, **told)
        else:
            print_as_they_come(events, shown)


def _log(sentence: str) -> None:
    staying_logger().warning("note", said=sentence)  # made now: most of what stays has nothing to say


COMMAND = watch
