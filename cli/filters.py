"""Options that choose events and moments, the same in every command that has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from msb_cache.cli.common import limit_option

if TYPE_CHECKING:
    from msb_cache.queries.events import Filters

F = TypeVar("F", bound=Callable[..., Any])

_HOST = click.option("--host", metavar="HOST", help="Only what was done on this machine.")
hosts_option = click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="HOST",
    help="Only the log of this host: its name, its role, or the beginning of the log's id; repeatable.",
)
_OPTIONS = (
    click.option("--since", metavar="TIME|@SEQ", help="Only what occurred at or after this time."),
    click.option("--until", metavar="TIME|@SEQ", help="Only what occurred at or before this time."),
    click.option(
        "--recorded", is_flag=True, help="--since and --until mean when it was recorded; show that."
    ),
    click.option("--occurred", is_flag=True, hidden=True),  # what the two mean anyway
    click.option(
        "--type", "--types", "types", multiple=True, metavar="TYPE", help="Only this event type; repeatable."
    ),
    click.option(
        "--actor", metavar="WHO", help="Only what this user did (USER, USER@HOST), or who claimed this."
    ),
    _HOST,
    click.option("--holder", metavar="HOLDER", help="Only holds, releases and uses of this holder."),
    click.option("--digest", metavar="DIGEST", help="Only what names this manifest, layer or blob."),
    click.option("--operation", metavar="ID", help="Only events of this operation."),
    click.option("--grep", metavar="TEXT", help="Only with this text in subject, data or actor."),
    limit_option,
    click.option("--reverse", is_flag=True, help="Newest first."),
    click.option(
        "--follow", is_flag=True, help="Stay and show what comes; without --since after the last ten."
    ),
)


def filter_options(command: F) -> F:
    """Add the options that choose events; the command gets them by keyword, for ``chosen``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def fleet_filter_options(command: F) -> F:
    """Add the same options for the events of a fleet: there, hosts are whose logs are asked."""
    for option in reversed(_OPTIONS):
        command = (hosts_option if option is _HOST else option)(command)
    return command


def chosen(given: dict[str, Any]) -> Filters:
    """Return what those options ask for; ``follow`` is the command's own business."""
    filters: dict[str, Any] = {name: value for name, value in given.items() if value not in (None, ())}
    filters.pop("follow", None)
    filters.pop("occurred", None)
    if filters.pop("recorded", False):
        for name in {"since", "until"}.intersection(filters):
            filters[f"recorded_{name}"] = filters.pop(name)
    return filters  # type: ignore[return-value]


def as_of_option(command: F) -> F:
    """Add ``--as-of TIME|@SEQ``."""
    return click.option(
        "--as-of", metavar="TIME|@SEQ", help="As it was at this time, or after this event of the log."
    )(command)
