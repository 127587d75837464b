"""What several commands share: opening the cache, and options that mean the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from msb_cache.cache import ImageCache
from msb_cache.ledger import current_actor

F = TypeVar("F", bound=Callable[..., Any])


def open_cache(home: str | None, *, reason: str | None = None) -> ImageCache:
    """Open the cache of ``--home`` (None: the environment's); the log keeps this program and the reason."""
    return ImageCache(home, actor=current_actor("msb-cache", reason))


def format_option(command: F) -> F:
    """Add ``--format table|json``."""
    option = click.option(
        "--format",
        "format_",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="Tables for people, JSON for programs.",
    )
    return option(command)


def reason_option(command: F) -> F:
    """Add ``--reason TEXT``, kept in the log."""
    return click.option("--reason", metavar="TEXT", help="Why; kept in the log with your name.")(command)


def quiet_option(text: str) -> Callable[[F], F]:
    """Add ``-q/--quiet`` with this help."""
    return click.option("-q", "--quiet", is_flag=True, help=text)


def note(sentence: str) -> None:
    """Say something unusual that is no error, on stderr."""
    click.echo(f"{click.style('note:', fg='yellow')} {sentence}", err=True)


def done(what: str, subject: str) -> None:
    """Say what was done, on stderr."""
    click.echo(f"  {click.style('✓', fg='green')} {what:<10} {subject}", err=True)
