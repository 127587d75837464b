"""The release command: the end of a holder's holds."""

from __future__ import annotations

from collections.abc import Sequence

import click

from msb_cache.cli import look, output
from msb_cache.cli.common import done, examples, open_cache
from msb_cache.cli.formats import Shown, shown_options


@click.command(epilog=examples("msb-cache release sandbox:dev"))
@click.argument("holder", metavar="HOLDER")
@shown_options("the digests", tables=False)
@click.pass_obj
def release(home: str | None, holder: str, shown: Shown) -> None:
    """End every hold of a holder."""
    shown.expect("holder", "digests")
    with open_cache(home, quiet=shown.quiet) as cache:
        digests = cache.release(holder)
    shown.item(
        lambda: {"holder": holder, "digests": digests},
        names=lambda: digests,
        table=lambda: _print(holder, digests),
        paged=False,
    )


COMMAND = release


def _print(holder: str, digests: Sequence[str]) -> None:
    if not digests:
        output.line(f"{holder} holds nothing.", err=True)
    for digest in digests:
        done("Released", f"{look.digest(digest, err=True)} by {holder}")
