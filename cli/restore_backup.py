"""The restore-backup command: the log as a backup has it, and the word that all is well with that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from msb_cache.cli import output
from msb_cache.cli.common import PATH, done, examples, note, open_cache
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.audit.restore import RestoreReport

_FIELDS = ("log_id", "events", "events_lost", "set_aside")


@click.command(
    epilog=examples(
        "msb-cache restore-backup /mnt/backups/msb-cache.db",
        "msb-cache restore-backup --discard-events 12 msb-cache.db",
        "msb-cache restore-backup --confirm",
    )
)
@click.argument("path", type=PATH, metavar="FILE", required=False)
@click.option(
    "--discard-events",
    "discard",
    type=click.IntRange(min=1),
    metavar="N",
    help="So many events of the present log may be lost.",
)
@click.option("--confirm", is_flag=True, help="Say that what a restore left has been looked at.")
@shown_options("the log's id", tables=False)
@click.pass_obj
def restore_backup(
    home: str | None, path: str | None, discard: int | None, confirm: bool, shown: Shown
) -> int:
    """Put the log back to a backup.

    FILE is what `backup` or `export` wrote. What was there is set aside in the home's db folder. If the
    present log has events that the backup lacks, they are lost, and --discard-events must say how many.

    Images that came after the backup are files that the index does not know then. None of them is deleted
    until --confirm: `verify` lists them, and loading or pulling an image again makes it known.
    """
    if confirm == (path is not None) or (confirm and discard is not None):
        raise click.UsageError("name a backup, or say --confirm alone when you have looked at what is there")
    if path is None:
        return _confirm(home, shown)
    shown.expect(*_FIELDS)
    with open_cache(home, quiet=shown.quiet) as cache:
        report = cache.restore_backup(path, discard_events=discard)
    shown.item(
        lambda: jsonable(report), names=lambda: [report.log_id], table=lambda: _print(report), paged=False
    )
    return 0


COMMAND = restore_backup


def _confirm(home: str | None, shown: Shown) -> int:
    shown.expect("confirmed")
    with open_cache(home, quiet=shown.quiet) as cache:
        confirmed = cache.confirm_restore()

    def say() -> None:
        if confirmed:
            done("Confirmed", "orphans may go again")
        else:
            note("no restore is waiting to be confirmed")

    shown.item(lambda: {"confirmed": confirmed}, names=lambda: (), table=say, paged=False)
    return 0 if confirmed else 1


def _print(report: RestoreReport) -> None:
    lost = "" if not report.events_lost else f"; {output.plural(report.events_lost, 'event')} lost"
    done("Restored", f"{output.plural(report.events, 'event')}{lost}")
    if report.set_aside is not None:
        note(f"what was there is in {report.set_aside}")
    note("look at `msb-cache verify`; no orphan is deleted until `msb-cache restore-backup --confirm`")
