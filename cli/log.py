"""The log command: what a person says about the log itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from msb_cache.cli.common import done, examples, note, open_cache
from msb_cache.cli.formats import Shown, shown_options

if TYPE_CHECKING:
    from msb_cache.home.heads import Mismatch


@click.group(epilog=examples("msb-cache log acknowledge"))
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


COMMAND = log


def _print(found: Mismatch | None) -> None:
    if found is None:
        note("no note says that the log was put back or exchanged, so there is nothing to acknowledge")
    else:
        done("Acknowledged", f"that {found.sentence}")
