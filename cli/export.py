"""The export command: the log as JSON Lines."""

from __future__ import annotations

import os
import sys

import click

from msb_cache.cli import output
from msb_cache.cli.common import PATH, done, examples, open_cache
from msb_cache.cli.formats import Shown, shown_options


@click.command(epilog=examples("msb-cache export -o log.jsonl", "msb-cache export --since-seq 1200"))
@click.option("-o", "--output", "path", type=PATH, help="The file; without it, stdout.")
@click.option(
    "--since-seq", type=click.IntRange(0), default=0, metavar="N", help="Only events behind this position."
)
@shown_options("the file's path", tables=False)
@click.pass_obj
def export(home: str | None, path: str | None, since_seq: int, shown: Shown) -> None:
    """Write the log as JSON Lines.

    One event a line, with every column and the hash, so that anybody can check it. `import` reads it.
    """
    if path is not None and not path:
        raise click.BadParameter("it is empty", param_hint="--output")
    if path is None and shown.kind != "table":
        raise click.UsageError("--format says how to tell what was written to a file; name one with -o FILE")
    shown.expect("path", "events", "bytes")
    with open_cache(home, quiet=shown.quiet) as cache:
        count = cache.export(sys.stdout.buffer if path is None else path, since_seq=since_seq)
    if path is None:
        return
    shown.item(
        lambda: {"path": path, "events": count, "bytes": os.path.getsize(path)},
        names=lambda: [path],
        table=lambda: done("Exported", f"{path}  {output.plural(count, 'event')}"),
        paged=False,
    )


COMMAND = export
