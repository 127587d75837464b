"""The unpin command: the end of a pin."""

from __future__ import annotations

import click

from msb_cache.cli.common import done, examples, open_cache, quiet_option, reason_option
from msb_cache.cli.fields import pin_name


@click.command(epilog=examples("msb-cache unpin app:1"))
@click.argument("reference", metavar="REF|DIGEST")
@reason_option
@quiet_option("Print nothing but errors.")
@click.pass_obj
def unpin(home: str | None, reference: str, reason: str | None, quiet: bool) -> None:
    """End a pin: prunes may take the image again."""
    with open_cache(home, reason=reason, quiet=quiet) as cache:
        found = cache.unpin(reference)
    if not quiet:
        done("Unpinned", pin_name(found))


COMMAND = unpin
