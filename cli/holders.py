"""The holders command: which sandboxes and snapshots hold which images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from msb_cache.cli import look, output
from msb_cache.cli.common import examples, open_cache
from msb_cache.cli.filters import as_of_option
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.tables import Cell, Column, show
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.queries.as_of import Hold


@click.command(epilog=examples("msb-cache holders app:1", "msb-cache holders --as-of '2 days ago'"))
@click.argument("reference", metavar="[REF]", required=False)
@as_of_option
@shown_options("the holders' names")
@click.pass_obj
def holders(home: str | None, reference: str | None, as_of: str | None, shown: Shown) -> None:
    """Show who holds what, since when and by which reference.

    Of a sandbox of msb's also what it was when msb-cache last saw it, such as running, a root disk of an
    unusual kind, and those of its labels that MSB_CACHE_LABELS names (team,owner).

    REF is a reference, or a manifest's digest or its beginning; without one, all holders.
    """
    with open_cache(home) as cache:
        holds = cache.holds(reference, as_of=as_of)
        known = bool(holds) or as_of is None or cache.knows(as_of)

    def table(_: Iterable[Hold]) -> None:
        if holds:
            _print(holds)
        elif known:
            output.line("Nobody holds anything." if reference is None else "Nobody holds it.", err=True)

    names = {hold.holder: hold for hold in reversed(holds)}  # one can hold several
    shown.items(
        holds,
        fields=jsonable,
        name=lambda hold: hold.holder if names[hold.holder] is hold else None,
        table=table,
    )


COMMAND = holders

COLUMNS = (
    Column("HOLDER", "name"),
    Column("STATUS", "word", leave=2),
    Column("DIGEST", "digest", leave=3),
    Column("REFERENCE", "name"),
    Column("SINCE", "time"),
    Column("UNTIL", "time", leave=1),
    Column("MORE", leave=4),
)
_OF_SOME = ("STATUS", "UNTIL", "MORE")
"""What only sandboxes of msb's have, or few holds: left out where nothing has it."""


def _print(holds: Sequence[Hold]) -> None:
    rows = [row(hold) for hold in holds]
    empty = {n for n, column in enumerate(COLUMNS) if all(cells[n] is None for cells in rows)}
    if look.columns("holders") is None and any(COLUMNS[n].header in _OF_SOME for n in empty):
        shown = [n for n, column in enumerate(COLUMNS) if n not in empty or column.header not in _OF_SOME]
        show([COLUMNS[n] for n in shown], ([cells[n] for n in shown] for cells in rows))
    else:
        show(COLUMNS, rows, of="holders")


def row(hold: Hold) -> tuple[Cell, ...]:
    """Return a hold's cells in the table."""
    return (
        hold.holder,
        hold.status and hold.status.lower(),
        hold.manifest_digest,
        hold.reference,
        hold.since_ns,
        hold.until_ns,
        _more(hold) or None,
    )


def _more(hold: Hold) -> str:
    root = [f"{hold.root} root"] if hold.root else []
    return ", ".join([*root, *(f"{key}={value}" for key, value in sorted(hold.labels.items()))])
