"""The use command: a use of an image, recorded."""

from __future__ import annotations

import click

from msb_cache.cli.common import done, examples, open_cache
from msb_cache.cli.fields import IMAGE_FIELDS
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.shapes import jsonable


@click.command(epilog=examples("msb-cache use app:1 --holder sandbox:dev"))
@click.argument("reference", metavar="REF")
@click.option("--holder", metavar="HOLDER", help="Who used it: sandbox:NAME or snapshot:NAME.")
@shown_options("the digest", tables=False)
@click.pass_obj
def use(home: str | None, reference: str, holder: str | None, shown: Shown) -> None:
    """Record that an image was used, now. That does not hold it."""
    shown.expect(*IMAGE_FIELDS, "holder")
    with open_cache(home, quiet=shown.quiet) as cache:
        handle = cache.use(reference, holder=holder)
    shown.item(
        lambda: {**jsonable(handle), "holder": holder},
        names=lambda: [str(handle.manifest_digest)],
        table=lambda: done("Used", handle.reference),
        paged=False,
    )


COMMAND = use
