"""The watch command: what happens in a home, recorded and shown as it happens."""

from __future__ import annotations

from functools import partial

import click

from msb_cache.cli.common import examples, open_cache, staying_logger, stopping
from msb_cache.cli.event_lines import print_as_they_come, print_cloudevents
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.privacy import Told, privacy_options
from msb_cache.cli.signing import StayingOptions, logging_to, staying_signing_options

_FIELDS = (
    *("seq", "id", "type", "version", "subject", "operation"),
    *("occurred_at", "recorded_at", "actor", "data", "hash"),
)


@click.command(
    epilog=examples(
        "msb-cache watch",
        "msb-cache watch --format jsonl",
        "msb-cache watch --sign log.key --sign-every 15m --sign-every 1000 --witness-policy policy.txt",
        "msb-cache watch --ship service=fleet",
    )
)
@staying_signing_options
@click.option(
    "--ship",
    metavar="[DSN]",
    is_flag=False,
    flag_value="",
    help="Send the log to this fleet's server meanwhile, as `ship` does; without DSN: $MSB_CACHE_FLEET.",
)
@shown_options("the events' positions, such as @5", tables=False, more=("cloudevents",))
@privacy_options(("cloudevents",))
@click.pass_context
def watch(ctx: click.Context, signing: StayingOptions, ship: str | None, shown: Shown, told: Told) -> None:
    """Record and show what happens as it happens.

    Stays until Ctrl-C. With --format json, too, each event is one line. What is unusual is logged to stderr.

    With --sign it signs the log, as `checkpoint` does, each time that is due and something new is in it, and
    delivers the note. What is in the way of that is a warning, and tried again.
    So it is with --ship.
    """
    shown.expect(*_FIELDS)
    signs = signing.signing.sign is not None
    logs = signs or ship is not None or ctx.find_root().params.get("log_level")
    logger = staying_logger() if logs else None
    plan = signing.plan(logging_to(logger))
    with stopping() as stopped, open_cache(ctx.obj, said=partial(_log, ctx)) as cache:
        events = cache.watch(stopped=stopped, sign=plan, ship=ship)
        if shown.kind == "cloudevents":
            print_cloudevents(cache, events, **told)
        else:
            print_as_they_come(events, shown)


def _log(ctx: click.Context, sentence: str) -> None:
    # What ships says so from its own thread, which knows nothing of the command's options.
    with ctx.scope(cleanup=False):
        staying_logger().warning("note", said=sentence)  # made now: most of what stays has nothing to say


COMMAND = watch
