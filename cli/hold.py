"""The hold command: an image that stays until its holder releases it."""

from __future__ import annotations

import click

from msb_cache.cli import output
from msb_cache.cli.common import done, examples, open_cache, quiet_option


@click.command(epilog=examples("msb-cache hold app:1 sandbox:dev"))
@click.argument("reference", metavar="REF")
@click.argument("holder", metavar="HOLDER")
@quiet_option("Print nothing but errors.")
@click.pass_obj
def hold(home: str | None, reference: str, holder: str, quiet: bool) -> None:
    """Keep an image until its holder releases it.

    HOLDER is sandbox:NAME or snapshot:NAME (or its path).
    """
    with open_cache(home, quiet=quiet) as cache:
        handle = cache.hold(reference, holder)
    if not quiet:
        done("Held", f"{handle.reference} ({output.short(handle.manifest_digest)}) by {holder}")


COMMAND = hold
