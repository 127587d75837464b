"""The sync command: what msb did in a home that it keeps, recorded."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from msb_cache.cli import output
from msb_cache.cli.common import format_option, note, open_cache
from msb_cache.cli.describe import fields
from msb_cache.cli.event_lines import print_events

if TYPE_CHECKING:
    from msb_cache.msb.sync import SyncReport


@click.command()
@click.option("--force", is_flag=True, help="Compare even if msb's database looks unchanged.")
@format_option
@click.pass_obj
def sync(home: str | None, force: bool, format_: str) -> None:
    """Record what msb did in this home since the last time.

    Every command that reads does so first, unless --no-sync is given. The first time, everything that is
    there is recorded as one operation.
    """
    with open_cache(home) as cache:
        report, theirs = cache.sync(force=force), cache.kept_by_msb
    for sentence in report.notes:
        note(sentence)
    if format_ == "json":
        output.json(
            {
                "operation": report.operation,
                "adopted": report.adopted,
                "events": [fields(event) for event in report.events],
                "notes": list(report.notes),
            }
        )
    elif report.adopted and report.operation is not None:
        _print_adopted(report)
    elif report.events:
        print_events(report.events)
    else:
        output.line("Nothing has changed." if theirs else "msb does not keep this home.", err=True)


COMMAND = sync


def _print_adopted(report: SyncReport) -> None:
    counts = Counter(event.type for event in report.events)
    parts = [
        output.plural(counts["image.pulled"], "reference"),
        output.plural(counts["manifest.added"], "manifest"),
        output.plural(counts["image.held"], "hold"),
    ]
    output.line(f"Adopted what msb has here: {', '.join(parts)}.")
    output.line(f"`msb-cache events --operation {report.operation}` lists it.", err=True)
