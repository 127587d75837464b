"""The holders command: which sandboxes and snapshots hold which images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from msb_cache.cli import output
from msb_cache.cli.common import examples, format_option, open_cache
from msb_cache.cli.fields import hold_fields
from msb_cache.cli.filters import as_of_option

if TYPE_CHECKING:
    from msb_cache.queries.as_of import Hold


@click.command(epilog=examples("msb-cache holders app:1", "msb-cache holders --as-of '2 days ago'"))
@click.argument("reference", metavar="[REF]", required=False)
@as_of_option
@format_option
@click.pass_obj
def holders(home: str | None, reference: str | None, as_of: str | None, format_: str) -> None:
    """Show who holds what, since when and by which reference.

    Of a sandbox of msb's also what it was when msb-cache last saw it, such as running, a root disk of an
    unusual kind, and those of its labels that MSB_CACHE_LABELS names (team,owner).

    REF is a reference, or a manifest's digest or its beginning; without one, all holders.
    """
    with open_cache(home) as cache:
        holds = cache.holds(reference, as_of=as_of)
        known = bool(holds) or as_of is None or cache.knows(as_of)
    if format_ == "json":
        output.json([hold_fields(hold) for hold in holds])
    elif holds:
        _print(holds)
    elif known:
        output.line("Nobody holds anything." if reference is None else "Nobody holds it.", err=True)


COMMAND = holders


def _print(holds: Sequence[Hold]) -> None:
    rows = [
        (
            hold.holder,
            (hold.status or "-").lower(),
            output.short(hold.manifest_digest),
            hold.reference or "-",
            output.local_time_with_offset(hold.since_ns),
            output.local_time_with_offset(hold.until_ns),
            _more(hold) or "-",
        )
        for hold in holds
    ]
    names = ("HOLDER", "STATUS", "DIGEST", "REFERENCE", "SINCE", "UNTIL", "MORE")
    # What only sandboxes of msb's have, or few holds, is left out where nothing has it.
    shown = [n for n in range(len(names)) if n not in (1, 5, 6) or any(row[n] != "-" for row in rows)]
    output.table([names[n] for n in shown], [[row[n] for n in shown] for row in rows])


def _more(hold: Hold) -> str:
    root = [f"{hold.root} root"] if hold.root else []
    return ", ".join([*root, *(f"{key}={value}" for key, value in sorted(hold.labels.items()))])
