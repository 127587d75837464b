"""The rebuild command: all that is derived made anew from the log."""

from __future__ import annotations

import click

from msb_cache.cli import output
from msb_cache.cli.common import format_option, open_cache
from msb_cache.cli.differences import (
    difference_fields,
    print_differences,
    schema_fields,
    schema_sentence,
)


@click.command()
@format_option
@click.pass_obj
def rebuild(home: str | None, format_: str) -> int:
    """Make anew all that is made of the log.

    That is the index, the copies of it that answer questions about the past, and the database's schema with
    the triggers that keep the log append-only. Prints what was not as it must be. There must never be any; if
    there is, it is mended and the exit code is 1. The log itself is never changed.
    """
    with open_cache(home) as cache:
        mended = cache.rebuild()
    from msb_cache.projections.live import Difference

    differences = [each for each in mended if isinstance(each, Difference)]
    problems = [each for each in mended if not isinstance(each, Difference)]
    if format_ == "json":
        fields = {
            "schema": [schema_fields(problem) for problem in problems],
            "differences": [difference_fields(difference) for difference in differences],
        }
        output.json(fields)
        return 1 if mended else 0
    for problem in problems:
        output.line(schema_sentence(problem))
    print_differences(differences)
    if problems:
        parts = output.plural(len(problems), "part")
        output.line(f"{parts} of the schema differed; now it is as msb-cache makes it.", err=True)
    if differences:
        rows = output.plural(len(differences), "row")
        output.line(f"{rows} differed and are now as the log says.", err=True)
    if not mended:
        output.line("The index is exactly what the log says.")
    return 1 if mended else 0


COMMAND = rebuild
