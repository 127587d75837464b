"""The use command: a use of an image, recorded."""

from __future__ import annotations

import click

from msb_cache.cli.common import done, examples, open_cache, quiet_option


@click.command(epilog=examples("msb-cache use app:1 --holder sandbox:dev"))
@click.argument("reference", metavar="REF")
@click.option("--holder", metavar="HOLDER", help="Who used it: sandbox:NAME or snapshot:NAME.")
@quiet_option("Print nothing but errors.")
@click.pass_obj
def use(home: str | None, reference: str, holder: str | None, quiet: bool) -> None:
    """Record that an image was used, now. That does not hold it."""
    with open_cache(home, quiet=quiet) as cache:
        handle = cache.use(reference, holder=holder)
    if not quiet:
        done("Used", handle.reference)


COMMAND = use
