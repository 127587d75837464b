"""The ship command: the log sent to a fleet's server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from msb_cache.cli.common import done, examples, open_cache, stopping
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.shapes import jsonable
from msb_cache.wording import plural, short_log_id

if TYPE_CHECKING:
    from msb_cache.fleet.ship import Shipped

_FIELDS = ("log_id", "events", "seq", "size")


@click.command(
    short_help="Send the log to a fleet's server.",
    epilog=examples(
        "msb-cache ship --to postgresql://runner-17@db.example/fleet",
        "msb-cache ship --to service=fleet --follow",
    ),
)
@click.option(
    "--to",
    metavar="DSN",
    help="The server, as libpq takes it.  [default: $MSB_CACHE_FLEET]",
)
@click.option("--follow", is_flag=True, help="Stay, and send what comes, until Ctrl-C.")
@shown_options("how many events were sent", tables=False)
@click.pass_obj
def ship(home: str | None, to: str | None, follow: bool, shown: Shown) -> int:
    """Send the log to a fleet's server: what it does not have yet.

    The server says how far the log is there, so it may be run at any time, and by several at once. Events are
    sent whole, so images' environment variables are, too.

    With --follow, what is in the way is said once, and tried again. A password is best left to libpq's
    password file, or to a service file: a DSN in a command can be read by other users.
    """
    shown.expect(*_FIELDS)
    with stopping() as stopped, open_cache(home, quiet=shown.quiet) as cache:
        shipped = cache.ship(to, follow=follow, stopped=stopped)
    shown.item(
        lambda: jsonable(shipped),
        names=lambda: [str(shipped.events)],
        table=lambda: done("Shipped", _said(shipped)),
        paged=False,
    )
    return stopped.exit_code if stopped() and not follow else 0


def _said(shipped: Shipped) -> str:
    if shipped.log_id is None:
        return "nothing: this home has no log yet"
    if not shipped.size:
        return f"nothing: the fleet has taken no event of log {short_log_id(shipped.log_id)}"
    end = plural(shipped.size, "event")
    return (
        f"{plural(shipped.events, 'event')} of log {short_log_id(shipped.log_id)}; the server has {end} of it"
    )


COMMAND = ship
