"""The backup command: the log in one file, to be kept elsewhere."""

from __future__ import annotations

import click

from msb_cache.cli import output
from msb_cache.cli.common import PATH, done, examples, format_option, open_cache


@click.command(epilog=examples("msb-cache backup /mnt/backups/msb-cache.db"))
@click.argument("path", type=PATH, metavar="FILE")
@format_option
@click.pass_obj
def backup(home: str | None, path: str, format_: str) -> None:
    """Copy the log into FILE, while others work.

    FILE is one database of its own, checked after it was written; one that is there is replaced by the
    whole copy. Copying the database by hand leaves out what is in its write-ahead log.

    The files of images are no part of it. `restore-backup` puts a backup back.
    """
    with open_cache(home) as cache:
        report = cache.backup(path)
    if format_ == "json":
        output.json(
            {
                "log_id": report.log_id,
                "events": report.events,
                "head": report.head.hex(),
                "bytes": report.bytes,
            }
        )
        return
    done("Backed up", f"{output.plural(report.events, 'event')}, head {report.head.hex()[:12]}")


COMMAND = backup
