"""What several commands share: opening the cache, and options that mean the same everywhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from msb_cache.cli import output
from msb_cache.cli.look import on_terminal as on_terminal

if TYPE_CHECKING:
    from pathlib import Path

    from msb_cache.activity import Activity, Tell
    from msb_cache.cache import ImageCache
    from msb_cache.eventstore.store import Actor
    from msb_cache.waiting import Note


_MAKE_A_HOME = {"pull", "load", "pin", "import", "restore-backup", "policy init"}
"""The commands that may be given a home that is not there: they make it."""

_NEED_A_HOME = {"verify"}
"""The commands that say themselves that there is none, whoever named it."""

NOTHING_CACHED = "No cached images; `msb-cache pull python:3.12` or `msb-cache load FILE` adds one."
"""What a cache without images says of itself, and what to do first."""

F = TypeVar("F", bound=Callable[..., Any])


PATH = click.Path(readable=False)  # what cannot be read is said by what reads it


def open_cache(
    home: str | None,
    *,
    reason: str | None = None,
    quiet: bool = False,
    program: str = "msb-cache",
    said: Note | None = None,
) -> ImageCache:
    """Open the cache of ``--home`` (None: the environment's); the log keeps this program, reason and context.

    With ``quiet``, nothing but errors is said; ``said`` gets what is unusual, None: stderr.
    """
    from msb_cache.cache import ImageCache
    from msb_cache.cli import look, settings

    context = click.get_current_context()
    options = context.find_root().params
    say = None if quiet else said or note
    found = look.settled() or settings.load(home)
    claimed = settings.with_context(found, options.get("context"))
    if say is not None:
        for sentence in found.notes:
            say(sentence)
    _look_for_home(home, context, say)

    def who() -> Actor:
        from msb_cache.home.identity import current_actor  # what only reads records nothing

        return current_actor(program, reason, claimed)

    return ImageCache(
        home,
        actor=who,
        sync=not options.get("no_sync", False),
        note=say,
        progress=None if said is not None else doing(quiet=quiet),
        engine=options.get("engine"),
    )


def _look_for_home(named: str | None, context: click.Context, say: Note | None) -> None:
    """Refuse a home that ``--home`` names and that is not there; say it of one that ``MSB_HOME`` names."""
    command = context.command_path.partition(" ")[2]
    makes_one = command in _MAKE_A_HOME or (command == "replay" and context.params.get("log"))
    if makes_one or (named is None and not os.environ.get("MSB_HOME")):
        return
    from msb_cache.home.connect import is_missing

    home = _home_named(named)
    if not is_missing(home):
        return
    waits = command == "watch" or context.params.get("follow")
    if named is not None and not waits:
        from msb_cache.errors import HomeNotFoundError
        from msb_cache.queries.near import path_meant

        mends = path_meant(home) or "; give --home another one, or begin one there with `pull` or `load`"
        raise HomeNotFoundError(f"the home {home} does not exist{mends}")
    if say is not None and command not in _NEED_A_HOME:
        which = "" if named is not None else ", which MSB_HOME names,"
        so = "it is waited for" if waits else "it is an empty cache"
        say(f"the home {home}{which} does not exist: {so}")


def _home_named(named: str | None) -> str:
    if named is not None:
        return os.path.abspath(named)
    from msb_cache.msb.config import home_from_environment

    return home_from_environment()


def staying_logger(*, quiet: bool = False) -> Any:
    """Return what a command that stays logs to, as ``--log-level`` and ``--log-format`` say."""
    from msb_cache.cli.logging import staying

    options = click.get_current_context().find_root().params
    return staying(options.get("log_level"), options.get("log_format"), quiet=quiet)


class Stop:
    """Whether a signal has asked for an end, when it is called; and which."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        """Return whether one has."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """The exit code of a program that such a signal ended."""
        return 128 + (self.signal or 0)


@contextmanager
def stopping() -> Iterator[Stop]:
    """Catch SIGINT and SIGTERM in the block; what is given says whether one came, for a clean end."""
    import signal  # it makes enumerations of all signals, which no command needs that reads

    from msb_cache import waiting

    asked = Stop()

    def stop(number: int, frame: FrameType | None) -> None:
        asked.signal = asked.signal or number

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with waiting.ended_by(asked):
            yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if asked() and on_terminal(sys.stderr):
            output.line(err=True)  # behind what the terminal shows of Ctrl-C


def _shows_progress() -> bool:
    if not on_terminal(sys.stderr):
        return False
    from msb_cache.cli.showing import shows_progress

    return shows_progress()


def _doing(activity: Activity) -> None:
    from msb_cache.cli.progress import tell  # as a rule nothing takes long

    tell(activity)


def doing(*, quiet: bool = False) -> Tell | None:
    """Return what shows on a terminal what goes on; None: nobody looks."""
    return None if quiet or not _shows_progress() else _doing


def duration_ns(text: str) -> int:
    """Return how long a duration that was typed is, in ns; raises InvalidConfigError."""
    import time

    from msb_cache.queries.times import parse_duration  # with dateutil, which few options need

    return parse_duration(text, time.time_ns())


def fetching_options(command: F) -> F:
    """Add how registries are reached: ``--insecure``, ``--ca-certs PEM`` and ``-j/--jobs N``."""
    options = (
        click.option("--insecure", is_flag=True, help="Accept plain HTTP and any certificate."),
        click.option(
            "--ca-certs",
            metavar="PEM",
            type=PATH,
            callback=a_file,
            help="Trust these authorities too.",
        ),
        click.option(
            "-j",
            "--jobs",
            type=click.IntRange(1, 32),
            metavar="N",
            default=3,
            show_default=True,
            help="Layers fetched at a time.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def a_file(ctx: click.Context, parameter: click.Parameter, text: str | None) -> Path | None:
    """Return the path of a file that an option names; a click callback."""
    from pathlib import Path  # a list of images names none

    if text is not None and not Path(text).is_file():
        raise click.BadParameter(f"{text} is no file", param_hint=parameter.opts[0])
    return None if text is None else Path(text)


def max_age_option(command: F) -> F:
    """Add ``--max-age DURATION`` of what adds images."""
    return click.option(
        "--max-age",
        "max_age_ns",
        metavar="DURATION",
        callback=_max_age_ns,
        help="Read layers that are here already if that was last done longer ago; default: 30 days.",
    )(command)


def make_room_option(command: F) -> F:
    """Add ``--make-room`` of what adds images."""
    return click.option(
        "--make-room",
        is_flag=True,
        help="First delete, by the policy file, what it needs room for; see `msb-cache policy`.",
    )(command)


def _max_age_ns(ctx: click.Context, parameter: click.Parameter, text: str | None) -> int:
    from msb_cache.models import MAX_AGE_NS

    return MAX_AGE_NS if text is None else duration_ns(text)


def limit_option(command: F) -> F:
    """Add ``-n/--limit N``."""
    option = click.option("-n", "--limit", type=click.IntRange(1), metavar="N", help="Only the newest N.")
    return option(command)


def examples(*lines: str) -> str:
    """Return the end of a command's help: lines to type, kept as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def reason_option(command: F) -> F:
    """Add ``--reason TEXT``, kept in the log."""
    return click.option(
        "--reason", metavar="TEXT", callback=_short, help="Why; kept in the log with your name."
    )(command)


def _short(ctx: click.Context, parameter: click.Parameter, reason: str | None) -> str | None:
    if reason is not None:
        from msb_cache.home.identity import LONGEST_REASON  # most commands are given none

        if len(reason) > LONGEST_REASON:
            raise click.BadParameter(f"at most {LONGEST_REASON} characters are kept")
    return reason


def note(sentence: str) -> None:
    """Say something unusual that is no error, on stderr."""
    output.line(output.styled("note:", fg="yellow"), f" {sentence}", err=True)


def done(what: str, subject: str) -> None:
    """Say what was done, on stderr."""
    from msb_cache.cli.tables import hanging  # most commands say nothing of the kind

    hanging(subject, "  ", output.styled("✓", fg="green"), f" {what:<10} ", err=True)
