"""The release command: the end of a holder's holds."""

from __future__ import annotations

import click

from msb_cache.cli import output
from msb_cache.cli.common import done, examples, open_cache, quiet_option


@click.command(epilog=examples("msb-cache release sandbox:dev"))
@click.argument("holder", metavar="HOLDER")
@quiet_option("Print nothing but errors.")
@click.pass_obj
def release(home: str | None, holder: str, quiet: bool) -> None:
    """End every hold of a holder."""
    with open_cache(home, quiet=quiet) as cache:
        digests = cache.release(holder)
    if quiet:
        return
    if not digests:
        output.line(f"{holder} holds nothing.", err=True)
    for digest in digests:
        done("Released", f"{output.short(digest)} by {holder}")


COMMAND = release
