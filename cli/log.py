"""The log command: what a person says about the log itself, and to go on with it under another id."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from msb_cache.cli import output
from msb_cache.cli.common import done, examples, note, open_cache, reason_option
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.look import on_terminal
from msb_cache.cli.main import EXIT_FAILED
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from pathlib import Path

    from msb_cache.audit.begin_anew import AnewReport
    from msb_cache.home.heads import Mismatch

_ANEW = ("log_id", "events", "head", "previous_log_id", "previous_head", "checkpoints", "set_aside")


@click.group(epilog=examples("msb-cache log acknowledge", "msb-cache log anew --yes"))
def log() -> None:
    """Say something about the log itself.

    Without a command of its own it shows the log, as `msb-cache events` does, and with a REF what happened to
    an image, as `msb-cache history` does.
    """


@log.command(epilog=examples("msb-cache log acknowledge"))
@shown_options("what was wrong", tables=False)
@click.pass_obj
def acknowledge(home: str | None, shown: Shown) -> int:
    """Say that you know that the log was put back, or exchanged.

    Outside the home a note is kept of how far the log has come. A log that does not go on from it is told of
    by every command, and `verify` fails, until this command records in the log that you know; the note is of
    the log as it is from then on.
    """
    shown.expect("acknowledged", "problem", "events")
    with open_cache(home, quiet=shown.quiet) as cache:
        found = cache.acknowledge_log()
    shown.item(
        lambda: {
            "acknowledged": found is not None,
            "problem": None if found is None else found.kind,
            "events": None if found is None else found.note.size,
        },
        names=lambda: [] if found is None else [found.kind],
        table=lambda: _print(found),
        paged=False,
    )
    return 0 if found is not None else 1


@log.command(
    epilog=examples("msb-cache log anew", 'msb-cache log anew --yes --reason "cloned from golden-7"')
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@reason_option
@shown_options("the new log's id", tables=False)
@click.pass_obj
def anew(home: str | None, yes: bool, reason: str | None, shown: Shown) -> int:
    """Go on with the log under a new id, as the log of a copied machine must.

    Copies of one home have the same log, and who collects logs cannot tell which of them went on how. Here
    event 1 is made anew: it says the new id, and the id, size and head of the log before. All other events
    stay, with hashes of the new chain, so the home has the images and answers that it had.

    The log before is set aside in the home's db folder. Checkpoints that were signed are of that one.
    """
    shown.expect(*_ANEW)
    with open_cache(home, reason=reason, quiet=shown.quiet) as cache:
        if not yes and not _agreed(cache.home):
            output.line("Nothing was changed.", err=True)
            return EXIT_FAILED
        report = cache.begin_log_anew()
    shown.item(
        lambda: jsonable(report),
        names=lambda: [report.log_id],
        table=lambda: _print_anew(report),
        paged=False,
    )
    return 0


COMMAND = log


def _agreed(home: Path) -> bool:
    if not on_terminal(sys.stdin):
        raise click.UsageError("nobody to ask: stdin is no terminal; use --yes")
    try:
        return click.confirm(f"Go on with the log of {home} under a new id?", err=True)
    except click.Abort:
        output.line(err=True)  # behind the question, and what the terminal shows of Ctrl-C
        raise


def _print_anew(report: AnewReport) -> None:
    events = output.plural(report.events, "event")
    done("Begun anew", f"log {report.log_id}: {events}, head {report.head.hex()[:12]}")
    note(f"the log before, {report.previous_log_id}, is in {report.set_aside}")
    if report.checkpoints:
        kept = output.plural(report.checkpoints, "signed checkpoint")
        note(f"{kept} of the log before went with it; sign the new one with a key of another name")


def _print(found: Mismatch | None) -> None:
    if found is None:
        note("no note says that the log was put back or exchanged, so there is nothing to acknowledge")
    else:
        done("Acknowledged", f"that {found.sentence}")
