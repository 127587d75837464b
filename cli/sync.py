"""Commands that record what msb does in a home that it keeps: sync, watch."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from msb_cache.cli import output
from msb_cache.cli.common import format_option, note, open_cache, stopping

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
        note(output.printable(sentence))
    if format_ == "json":
        from msb_cache.cli.describe import fields

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
        from msb_cache.cli.history import print_events

        print_events(report.events)
    else:
        click.echo("Nothing has changed." if theirs else "msb does not keep this home.", err=True)


@click.command()
@format_option
@click.pass_obj
def watch(home: str | None, format_: str) -> None:
    """Record and show what happens as it happens.

    Stays until Ctrl-C. With --format json one line for each event.
    """
    from msb_cache.cli.history import print_as_they_come

    with stopping() as stopped, open_cache(home) as cache:
        print_as_they_come(cache.watch(stopped=stopped), format_)


COMMANDS = (sync, watch)


def _print_adopted(report: SyncReport) -> None:
    counts = Counter(event.type for event in report.events)
    parts = [
        output.plural(counts["image.pulled"], "reference"),
        output.plural(counts["manifest.added"], "manifest"),
        output.plural(counts["image.held"], "hold"),
    ]
    click.echo(f"Adopted what msb has here: {', '.join(parts)}.")
    click.echo(f"`msb-cache events --operation {report.operation}` lists it.", err=True)
