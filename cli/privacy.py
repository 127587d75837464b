"""Options that say what strangers are told, the same in every command that writes for them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import wraps
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import click

if TYPE_CHECKING:
    from msb_cache.cli.formats import Shown

F = TypeVar("F", bound=Callable[..., Any])


class Told(TypedDict):
    """What is told, as methods of the library take it."""

    with_config: bool
    people: bool


def told_options(command: F) -> F:
    """Add ``--with-config`` and ``--no-people``; the command gets them as ``told``."""

    @click.option("--with-config", is_flag=True, help="Tell the values of environments and labels as well.")
    @click.option("--no-people", is_flag=True, help="Tell no users, hosts and reasons.")
    @wraps(command)
    def called(*arguments: Any, with_config: bool, no_people: bool, **given: Any) -> Any:
        told: Told = {"with_config": with_config, "people": not no_people}
        return command(*arguments, told=told, **given)

    return called  # type: ignore[return-value]


def privacy_options(formats: Collection[str]) -> Callable[[F], F]:
    """Add the same two options to a command that tells strangers in some formats only.

    It stands below ``shown_options``: with a format that they mean nothing for, they are refused.

    Args:
        formats: those that they are for.
    """

    def decorated(command: F) -> F:
        @told_options
        @wraps(command)
        def called(*arguments: Any, shown: Shown, told: Told, **given: Any) -> Any:
            if (told["with_config"] or not told["people"]) and shown.kind not in formats:
                name = "--with-config" if told["with_config"] else "--no-people"
                raise click.UsageError(f"{name} is for --format {', '.join(formats)}")
            return command(*arguments, shown=shown, told=told, **given)

        return called  # type: ignore[return-value]

    return decorated
