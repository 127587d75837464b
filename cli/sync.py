"""The sync command: what msb did in a home that it keeps, recorded."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from msb_cache.cli import output
from msb_cache.cli.common import examples, note, open_cache
from msb_cache.cli.event_lines import print_events
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.tables import sentence
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.msb.sync import SyncReport


@click.command(epilog=examples("msb-cache sync", "msb-cache sync --force --format json"))
@click.option("--force", is_flag=True, help="Compare even if msb's database looks unchanged.")
@shown_options("the operation's id")
@click.pass_obj
def sync(home: str | None, force: bool, shown: Shown) -> None:
    """Record what msb did in this home since the last time.

    Every command that reads does so first, unless --no-sync is given. The first time, everything that is
    there is recorded as one operation.
    """
    shown.expect("operation", "adopted", "events", "notes")
    with open_cache(home, quiet=shown.quiet) as cache:
        report, theirs = cache.sync(force=force), cache.kept_by_msb
    for said in () if shown.quiet else report.notes:
        note(said)
    shown.item(
        lambda: jsonable(report),
        names=lambda: [] if report.operation is None else [report.operation],
        table=lambda: _print(report, is_theirs=theirs),
        paged=False,
    )


COMMAND = sync


def _print(report: SyncReport, *, is_theirs: bool) -> None:
    if report.adopted and report.operation is not None:
        _print_adopted(report)
    elif report.events:
        print_events(report.events)
    else:
        output.line("Nothing has changed." if is_theirs else "msb does not keep this home.", err=True)


def _print_adopted(report: SyncReport) -> None:
    counts = Counter(event.type for event in report.events)
    parts = [
        output.plural(counts["image.pulled"], "reference"),
        output.plural(counts["manifest.added"], "manifest"),
        output.plural(counts["image.held"], "hold"),
    ]
    sentence(f"Adopted what msb has here: {', '.join(parts)}.")
    sentence(f"`msb-cache events --operation {report.operation}` lists it.", err=True)
