"""The pin command: an image that a person keeps."""

from __future__ import annotations

import click

from msb_cache.cli import look
from msb_cache.cli.common import done, examples, note, open_cache, reason_option
from msb_cache.cli.fields import PIN_FIELDS, pin_subject
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.shapes import jsonable


@click.command(
    epilog=examples('msb-cache pin app:1 --reason "the demo"', "msb-cache pin app:1 --until friday")
)
@click.argument("reference", metavar="REF|DIGEST")
@click.option("--until", metavar="TIME", help='When it ends, such as 2027-01-31, friday or "2 weeks".')
@reason_option
@shown_options("what is pinned", tables=False)
@click.pass_obj
def pin(home: str | None, reference: str, until: str | None, reason: str | None, shown: Shown) -> None:
    """Keep an image from every prune, until it is unpinned.

    A reference is kept wherever it points, also after the next pull, and before the first one. A DIGEST keeps
    that manifest. `msb-cache remove` needs --force for it.
    """
    shown.expect(*PIN_FIELDS)
    with open_cache(home, reason=reason, quiet=shown.quiet) as cache:
        found = cache.pin(reference, until=until)
    name = look.digest(pin_subject(found), err=True)
    ends = "" if found.until_ns is None else f" until {look.absolute(found.until_ns)}"
    shown.item(
        lambda: jsonable(found),
        names=lambda: [pin_subject(found)],
        table=lambda: done("Pinned", f"{name}{ends}"),
        paged=False,
    )
    if shown.quiet:
        return
    if not found.here:
        note(f"{name} is not in the cache; it is kept once it is")
    if not found.enforced:
        note(
            "msb keeps this home, and its own `msb image prune` and `msb image rm` do not know this pin: "
            "use those of msb-cache"
        )


COMMAND = pin
