"""The hold command: an image that stays until its holder releases it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from msb_cache.cli import look
from msb_cache.cli.common import done, examples, note, open_cache
from msb_cache.cli.fields import IMAGE_FIELDS
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.models import HeldImage


@click.command(
    epilog=examples("msb-cache hold app:1 sandbox:dev", "msb-cache hold app:1 snapshot:base --until friday")
)
@click.argument("reference", metavar="REF")
@click.argument("holder", metavar="HOLDER")
@click.option("--until", metavar="TIME", help='When it ends, such as 2027-01-31, friday or "2 weeks".')
@shown_options("the digest", tables=False)
@click.pass_obj
def hold(home: str | None, reference: str, holder: str, until: str | None, shown: Shown) -> None:
    """Keep an image until its holder releases it.

    HOLDER is sandbox:NAME or snapshot:NAME (or its path).
    """
    shown.expect(*IMAGE_FIELDS, "holder", "enforced", "until")
    with open_cache(home, quiet=shown.quiet) as cache:
        held = cache.hold(reference, holder, until=until)
    shown.item(
        lambda: jsonable(held),
        names=lambda: [str(held.manifest_digest)],
        table=lambda: _print(held),
        paged=False,
    )
    if not (held.enforced or shown.quiet):
        note(
            "msb keeps this home, and its own `msb image prune` and `msb image rm` do not know this hold: "
            "use those of msb-cache"
        )


COMMAND = hold


def _print(held: HeldImage) -> None:
    ends = "" if held.until_ns is None else f" until {look.absolute(held.until_ns)}"
    done("Held", f"{held.reference} ({look.digest(held.manifest_digest, err=True)}) by {held.holder}{ends}")
