"""The release command: the end of a holder's holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from msb_cache.cli import look, output
from msb_cache.cli.common import done, examples, open_cache
from msb_cache.cli.formats import Shown, shown_options

if TYPE_CHECKING:
    from msb_cache.cache import ImageCache


@click.command(epilog=examples("msb-cache release sandbox:dev"))
@click.argument("holder", metavar="HOLDER")
@shown_options("the digests", tables=False)
@click.pass_obj
def release(home: str | None, holder: str, shown: Shown) -> None:
    """End every hold of a holder."""
    shown.expect("holder", "digests")
    with open_cache(home, quiet=shown.quiet) as cache:
        digests = cache.release(holder)
        meant = "" if digests or not shown.as_table else holder_meant(holder, cache)
    shown.item(
        lambda: {"holder": holder, "digests": digests},
        names=lambda: digests,
        table=lambda: _print(holder, digests, meant),
        paged=False,
    )


COMMAND = release


def _print(holder: str, digests: Sequence[str], meant: str) -> None:
    if not digests:
        output.line(f"{holder} holds nothing{meant}.".replace("?.", "?"), err=True)
    for digest in digests:
        done("Released", f"{look.digest(digest, err=True)} by {holder}")


def holder_meant(typed: str, cache: ImageCache) -> str:
    """Return the end of a sentence that offers the holder that is most like what was typed, if one is."""
    from msb_cache.queries.near import meant

    return meant(typed, (hold.holder for hold in cache.holds()))
