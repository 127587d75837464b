"""The command that folds what a fleet's hosts have shipped, so that it can be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from msb_cache.cli.common import done, examples, note, stopping
from msb_cache.cli.fleet import of_fleet
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.shapes import jsonable
from msb_cache.wording import plural, short_log_id

if TYPE_CHECKING:
    from msb_cache.fleet.fleet import Fleet
    from msb_cache.fleet.fold import Folded

_ALL = "\0"  # no host has that name
_FIELDS = ("events", "logs", "stopped")
_NAMED = 5  # stopped logs, in sentences


@click.command(
    "fold",
    short_help="Fold what hosts have shipped, so that it can be asked.",
    epilog=examples(
        "msb-cache fleet fold",
        "msb-cache fleet fold --follow",
        "msb-cache fleet fold --rebuild build-1",
    ),
)
@click.option("--follow", is_flag=True, help="Stay, and fold what comes, until Ctrl-C.")
@click.option(
    "--rebuild",
    metavar="[HOST]",
    is_flag=False,
    flag_value=_ALL,
    help="First forget what was folded of HOST, or of all, and fold it anew from its events.",
)
@shown_options("how many events were folded", tables=False)
@of_fleet
def fold_(fleet: Fleet, follow: bool, rebuild: str | None, shown: Shown) -> int:
    """Fold what hosts have shipped and is not folded yet.

    Every event is checked against the chain again, and admitted as `import` does. Any number of these may
    run at once, on any machines: they share the logs. It needs a role that was enrolled with --as folder.

    A log that cannot be folded on, such as one with events of a newer release, stops by itself: it is named
    here and in `msb-cache fleet hosts`, and tried again by every run. Then the exit code is 1.
    """
    shown.expect(*_FIELDS)
    with stopping() as stopped:
        anew = None if rebuild is None else () if rebuild == _ALL else (rebuild,)
        found = fleet.fold(rebuild=anew, follow=follow, stopped=stopped, said=note)
    shown.item(
        lambda: jsonable(found),
        names=lambda: [str(found.events)],
        table=lambda: done("Folded", _said(found)),
        paged=False,
    )
    for log in found.stopped[:_NAMED]:
        note(f"{log.host} ({short_log_id(log.log_id)}) is folded up to event {log.folded_seq}: {log.problem}")
    if len(found.stopped) > _NAMED:
        note(f"{len(found.stopped) - _NAMED} more cannot be folded on; see `msb-cache fleet hosts`")
    if stopped() and not follow:
        return stopped.exit_code
    return 1 if found.stopped else 0


def _said(found: Folded) -> str:
    if not found.events:
        return "nothing: all that was shipped is folded"
    return f"{plural(found.events, 'event')} of {plural(found.logs, 'log')}"
