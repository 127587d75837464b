"""The rebuild command: the index folded again from the log."""

from __future__ import annotations

import click

from msb_cache.cli import output
from msb_cache.cli.common import format_option, open_cache
from msb_cache.cli.differences import difference_fields, print_differences


@click.command()
@format_option
@click.pass_obj
def rebuild(home: str | None, format_: str) -> int:
    """Fold the whole log again into the index.

    Prints any difference there was. There must never be one; if there is, it is mended and the exit
    code is 1.
    """
    with open_cache(home) as cache:
        differences = cache.rebuild()
    if format_ == "json":
        output.json([difference_fields(difference) for difference in differences])
    elif differences:
        print_differences(differences)
        click.echo(
            f"{output.plural(len(differences), 'row')} differed and are now as the log says.", err=True
        )
    else:
        click.echo("The index is exactly what the log says.")
    return 1 if differences else 0


COMMAND = rebuild
