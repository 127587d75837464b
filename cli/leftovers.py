"""Files that earlier deletions had to leave, as columns for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msb_cache.cli import output
from msb_cache.cli.tables import Column, rendered
from msb_cache.queries.resolve import familiar

if TYPE_CHECKING:
    from msb_cache.engines.leftovers import Leftover


_COLUMNS = (Column("", "word"), Column("", "name"), Column("", "prose"))


def print_leftovers(leftovers: Sequence[Leftover], *, err: bool = False) -> None:
    """Print for each what it is, of what, and why it was left."""
    rows = ((each.kind, familiar(each.subject), each.because) for each in leftovers)
    output.lines(rendered(_COLUMNS, rows, header=False, err=err), err=err)
