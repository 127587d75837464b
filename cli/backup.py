"""The backup command: the log in one file, to be kept elsewhere."""

from __future__ import annotations

import click

from msb_cache.cli import output
from msb_cache.cli.common import PATH, done, examples, open_cache
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.shapes import jsonable

_FIELDS = ("path", "log_id", "events", "head", "bytes")


@click.command(epilog=examples("msb-cache backup /mnt/backups/msb-cache.db"))
@click.argument("path", type=PATH, metavar="FILE")
@shown_options("the path", tables=False)
@click.pass_obj
def backup(home: str | None, path: str, shown: Shown) -> None:
    """Copy the log into FILE, while others work.

    FILE is one database of its own, checked after it was written; one that is there is replaced by the
    whole copy. Copying the database by hand leaves out what is in its write-ahead log.

    The files of images are no part of it. `restore-backup` puts a backup back.
    """
    shown.expect(*_FIELDS)
    with open_cache(home, quiet=shown.quiet) as cache:
        report = cache.backup(path)
    head = report.head.hex()
    shown.item(
        lambda: {"path": path, **jsonable(report)},
        names=lambda: [path],
        table=lambda: done("Backed up", f"{output.plural(report.events, 'event')}, head {head[:12]}"),
        paged=False,
    )


COMMAND = backup
