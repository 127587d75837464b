"""The export command: the log as JSON Lines."""

from __future__ import annotations

import sys

import click

from msb_cache.cli import output
from msb_cache.cli.common import PATH, done, examples, open_cache, quiet_option


@click.command(epilog=examples("msb-cache export -o log.jsonl", "msb-cache export --since-seq 1200"))
@click.option("-o", "--output", "path", type=PATH, help="The file; without it, stdout.")
@click.option(
    "--since-seq", type=click.IntRange(0), default=0, metavar="N", help="Only events behind this position."
)
@quiet_option("Print nothing but errors.")
@click.pass_obj
def export(home: str | None, path: str | None, since_seq: int, quiet: bool) -> None:
    """Write the log as JSON Lines.

    One event a line, with every column and the hash, so that anybody can check it. `import` reads it.
    """
    if path is not None and not path:
        raise click.BadParameter("it is empty", param_hint="--output")
    with open_cache(home) as cache:
        count = cache.export(sys.stdout.buffer if path is None else path, since_seq=since_seq)
    if not quiet and path is not None:
        done("Exported", f"{path}  {output.plural(count, 'event')}")


COMMAND = export
