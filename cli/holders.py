"""The holders command: which sandboxes and snapshots hold which images."""

from __future__ import annotations

import click

from msb_cache.cli import output
from msb_cache.cli.common import examples, format_option, open_cache
from msb_cache.cli.fields import hold_fields
from msb_cache.cli.filters import as_of_option


@click.command(epilog=examples("msb-cache holders app:1", "msb-cache holders --as-of '2 days ago'"))
@click.argument("reference", metavar="[REF]", required=False)
@as_of_option
@format_option
@click.pass_obj
def holders(home: str | None, reference: str | None, as_of: str | None, format_: str) -> None:
    """Show who holds what, since when and by which reference.

    REF is a reference, or a manifest's digest or its beginning; without one, all holders.
    """
    with open_cache(home) as cache:
        holds = cache.holds(reference, as_of=as_of)
        known = bool(holds) or as_of is None or cache.knows(as_of)
    if format_ == "json":
        output.json([hold_fields(hold) for hold in holds])
    elif holds:
        rows = [
            (
                hold.holder,
                output.short(hold.manifest_digest),
                hold.reference or "-",
                output.local_time_with_offset(hold.since_ns),
            )
            for hold in holds
        ]
        output.table(("HOLDER", "DIGEST", "REFERENCE", "SINCE"), rows)
    elif known:
        output.line("Nobody holds anything." if reference is None else "Nobody holds it.", err=True)


COMMAND = holders
