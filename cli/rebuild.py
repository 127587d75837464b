"""The rebuild command: all that is derived made anew from the log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from msb_cache.cli import output
from msb_cache.cli.common import examples, open_cache
from msb_cache.cli.differences import print_differences, schema_sentence
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.tables import sentence
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.audit.schema import SchemaProblem
    from msb_cache.projections.live import Difference


@click.command(epilog=examples("msb-cache rebuild"))
@shown_options("errors", tables=False)
@click.pass_obj
def rebuild(home: str | None, shown: Shown) -> int:
    """Make anew all that is made of the log.

    That is the index, the copies of it that answer questions about the past, the hashes that are kept of the
    log's tree, and the database's schema with the triggers that keep the log append-only. Prints what was not
    as it must be. There must never be any; if there is, it is mended and the exit code is 1. The log itself
    is never changed.
    """
    shown.expect("schema", "differences", "subtrees")
    with open_cache(home, quiet=shown.quiet) as cache:
        mended = cache.rebuild()
    from msb_cache.audit.schema import SchemaProblem
    from msb_cache.eventstore.subtrees import SubtreeProblem
    from msb_cache.projections.live import Difference

    differences = [each for each in mended if isinstance(each, Difference)]
    problems = [each for each in mended if isinstance(each, SchemaProblem)]
    hashes = [each for each in mended if isinstance(each, SubtreeProblem)]
    shown.item(
        lambda: {
            "schema": jsonable(problems),
            "differences": jsonable(differences),
            "subtrees": jsonable(hashes),
        },
        names=lambda: (),
        table=lambda: _print(problems, differences, len(hashes)),
        paged=False,
    )
    return 1 if mended else 0


COMMAND = rebuild


def _print(problems: Sequence[SchemaProblem], differences: Sequence[Difference], hashes: int) -> None:
    for problem in problems:
        sentence(schema_sentence(problem))
    print_differences(differences)
    if problems:
        parts = output.plural(len(problems), "part")
        sentence(f"{parts} of the schema differed; now it is as msb-cache makes it.", err=True)
    if differences:
        rows = output.plural(len(differences), "row")
        output.line(f"{rows} differed and are now as the log says.", err=True)
    if hashes:
        kept = output.plural(hashes, "kept hash", "kept hashes")
        output.line(f"{kept} of the log's tree differed and are now as its events make them.", err=True)
    if not problems and not differences and not hashes:
        output.line("The index is exactly what the log says.")
