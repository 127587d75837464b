"""The pin command: an image that a person keeps."""

from __future__ import annotations

import click

from msb_cache.cli import output
from msb_cache.cli.common import done, examples, format_option, note, open_cache, quiet_option, reason_option
from msb_cache.cli.fields import pin_fields, pin_name


@click.command(
    epilog=examples('msb-cache pin app:1 --reason "the demo"', "msb-cache pin app:1 --until friday")
)
@click.argument("reference", metavar="REF|DIGEST")
@click.option("--until", metavar="TIME", help='When it ends, such as 2027-01-31, friday or "2 weeks".')
@reason_option
@format_option
@quiet_option("Print nothing but errors.")
@click.pass_obj
def pin(
    home: str | None, reference: str, until: str | None, reason: str | None, format_: str, quiet: bool
) -> None:
    """Keep an image from every prune, until it is unpinned.

    A reference is kept wherever it points, also after the next pull, and before the first one. A DIGEST keeps
    that manifest. `msb-cache remove` needs --force for it.
    """
    with open_cache(home, reason=reason, quiet=quiet) as cache:
        found = cache.pin(reference, until=until)
    if format_ == "json":
        output.json(pin_fields(found))
    elif not quiet:
        ends = "" if found.until_ns is None else f" until {output.local_time_with_offset(found.until_ns)}"
        done("Pinned", f"{pin_name(found)}{ends}")
    if quiet:
        return
    if not found.here:
        note(f"{pin_name(found)} is not in the cache; it is kept once it is")
    if not found.enforced:
        note(
            "msb keeps this home, and its own `msb image prune` and `msb image rm` do not know this pin: "
            "use those of msb-cache"
        )


COMMAND = pin
