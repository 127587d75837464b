"""The import command: an exported log taken in where there is none."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from msb_cache.cli import output
from msb_cache.cli.common import PATH, done, examples, note, on_terminal, open_cache
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from pathlib import Path

    from msb_cache.audit.import_log import ImportReport

_FIELDS = ("log_id", "events", "head", "files", "files_missing")


@click.command("import", epilog=examples("msb-cache --home elsewhere import log.jsonl"))
@click.argument("path", type=PATH, metavar="FILE")
@shown_options("the log's id", tables=False)
@click.pass_obj
def import_(home: str | None, path: str, shown: Shown) -> None:
    """Take in an exported log where there is none.

    FILE is what `export` wrote; - reads stdin. The log keeps its ids, times and hashes. It is refused
    whole if anything in it is wrong.

    The files of images are no part of a log. `list` shows what the log says; pulling or loading an image
    again makes its files.
    """
    shown.expect(*_FIELDS)
    if path == "-" and (sys.stdin is None or on_terminal(sys.stdin)):
        raise click.UsageError("nothing to import: name a file, or pipe one in")
    with open_cache(home, quiet=shown.quiet) as cache:
        if path == "-":
            report = cache.import_log(sys.stdin.buffer)
        else:
            with open(path, "rb") as file:
                report = cache.import_log(file)
        here = cache.home
    shown.item(
        lambda: jsonable(report),
        names=lambda: [report.log_id],
        table=lambda: _print(report, here),
        paged=False,
    )


COMMAND = import_


def _print(report: ImportReport, here: Path) -> None:
    done("Imported", f"{output.plural(report.events, 'event')}, head {report.head.hex()[:12]}")
    if report.files_missing:
        note(
            f"{report.files_missing:,} of the {report.files:,} files that the log names are not in "
            f"{here}; `msb-cache verify` lists them, pulling or loading an image "
            "again makes its own"
        )
