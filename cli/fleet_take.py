"""The command ``fleet take``: exports of many hosts into a fleet's file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from msb_cache.cli import output
from msb_cache.cli.common import PATH, done, examples
from msb_cache.cli.fleet import of_fleet
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.main import EXIT_FAILED
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.fleet.fleet import Fleet
    from msb_cache.fleet.take import Taken

_FIELDS = ("path", "log_id", "host", "events", "new", "size", "problem")


@click.command(
    "take",
    epilog=examples("msb-cache fleet --db fleet.db take exports", "msb-cache fleet --db fleet.db hosts"),
)
@click.argument("paths", metavar="EXPORT|FOLDER...", nargs=-1, required=True, type=PATH)
@shown_options("the logs' ids", tables=False)
@of_fleet
def take_(fleet: Fleet, paths: tuple[str, ...], shown: Shown) -> int:
    """Take exports of many hosts into a file.

    EXPORT is what `export` wrote, or a database of msb-cache; of a FOLDER are taken files that end in .jsonl
    and databases, also in folders below it. The file that --db names is made, and has all that the fleet's
    other commands ask for.

    Of a log that is there already only what is new is taken. An export that is damaged, or has other events
    than the fleet has of its log, is refused; the others are taken all the same.
    """
    shown.expect(*_FIELDS)
    refused: list[Taken] = []

    def each() -> Iterator[Taken]:
        for taken in fleet.take(paths):
            if taken.problem is not None:
                output.error(taken.problem)
                refused.append(taken)
            yield taken

    shown.items(each(), fields=jsonable, name=lambda taken: taken.log_id, table=_print, paged=False)
    return EXIT_FAILED if refused else 0


def _print(found: Iterable[Taken]) -> None:
    for taken in found:
        if taken.problem is None:
            what = f"{output.plural(taken.new, 'event')} of" if taken.new else "nothing new of"
            done("Took", f"{what} {taken.host}  {taken.path}")
