"""The unpin command: the end of a pin."""

from __future__ import annotations

import click

from msb_cache.cli import look
from msb_cache.cli.common import done, examples, open_cache, reason_option
from msb_cache.cli.fields import PIN_FIELDS, pin_subject
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.shapes import jsonable


@click.command(epilog=examples("msb-cache unpin app:1"))
@click.argument("reference", metavar="REF|DIGEST")
@reason_option
@shown_options("what was pinned", tables=False)
@click.pass_obj
def unpin(home: str | None, reference: str, reason: str | None, shown: Shown) -> None:
    """End a pin: prunes may take the image again."""
    shown.expect(*PIN_FIELDS)
    with open_cache(home, reason=reason, quiet=shown.quiet) as cache:
        found = cache.unpin(reference)
    shown.item(
        lambda: jsonable(found),
        names=lambda: [pin_subject(found)],
        table=lambda: done("Unpinned", look.digest(pin_subject(found), err=True)),
        paged=False,
    )


COMMAND = unpin
