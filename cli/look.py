"""How output looks, decided in one place: whether a person reads it, how wide, in which colours and times."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import IO

import click

from msb_cache.cli.settings import Settings, with_environment

_CHOSEN = "msb_cache.look"
_settled: Settings | None = None
"""Those of the command that runs; errors are shown when its context is gone."""

_NARROWEST = 20  # columns; a terminal that says less is not believed


class Chosen:
    """What was asked for on the command line."""

    def __init__(self, *, absolute: bool = False, no_trunc: bool = False) -> None:
        self.absolute, self.no_trunc = absolute, no_trunc


def choose(*, absolute: bool, no_trunc: bool) -> None:
    """Keep for this command what was asked for."""
    click.get_current_context().meta[_CHOSEN] = Chosen(absolute=absolute, no_trunc=no_trunc)


def _chosen() -> Chosen:
    context = click.get_current_context(silent=True)
    found: Chosen = Chosen() if context is None else context.meta.get(_CHOSEN, Chosen())
    return found


def settle(found: Settings | None) -> None:
    """Let what is shown from here on look as these settings say; None: as the environment does."""
    global _settled
    _settled = found


def settled() -> Settings | None:
    """Return the settings of the command that runs; None: they cannot be read."""
    return _settled


def _settings() -> Settings:
    return _settled or with_environment(Settings())


def pager() -> bool | str:
    """Return the pager's command; True: one is used, and which is not said; False: none."""
    return _settings().pager


def columns(command: str) -> tuple[str, ...] | None:
    """Return which columns the table of a command shall have, in order; None: nobody has said."""
    return _settings().columns.get(command)


def source(name: str) -> str:
    """Return where a setting comes from."""
    return _settings().source(name)


def on_terminal(stream: IO[str] | None) -> bool:
    """Return whether a standard stream is a terminal; a closed one is not."""
    return stream is not None and stream.isatty()


def is_dumb() -> bool:
    """Return whether the terminal says that it shows nothing but lines."""
    return os.environ.get("TERM") in ("dumb", "unknown")


def stream(*, err: bool = False) -> IO[str] | None:
    """Return stdout, or stderr."""
    return sys.stderr if err else sys.stdout


def width(*, err: bool = False) -> int | None:
    """Return how many columns a terminal has on which this is read; None: in a pipe or file."""
    if not on_terminal(stream(err=err)):
        return None
    import shutil  # its archive formats load six modules

    return max(_NARROWEST, shutil.get_terminal_size().columns)


def room(*, err: bool = False) -> int | None:
    """Return how wide a table may be; None: nothing is shortened, in a pipe or with ``--no-trunc``."""
    return None if _chosen().no_trunc else width(err=err)


def color() -> bool | None:
    """Return whether to use colours, as the settings say; None: on terminals only."""
    return {"always": True, "never": False}.get(_settings().color)


def moments(*, err: bool = False) -> Callable[[int], str]:
    """Return what shows a time (ns since the epoch) as tables have it.

    On a terminal how long ago it is, ``3 days ago``; elsewhere, and with ``--absolute``, as ``absolute``.
    """
    asked = _chosen().absolute or _settings().times == "absolute"
    if asked or not on_terminal(stream(err=err)):
        return absolute
    from msb_cache.wording import ago

    now = time.time_ns()
    return lambda ns: ago(now - ns)


def moment(ns: int | None, *, err: bool = False) -> str:
    """Return a time (ns since the epoch) as tables have it."""
    return "-" if ns is None else moments(err=err)(ns)


def in_full(ns: int | None) -> str:
    """Return a time (ns since the epoch) as what is about one thing has it.

    That is as ``absolute``, and on a terminal how long ago: ``2026-11-23 13:57:52 +0100 (3 days ago)``.
    """
    when, said = absolute(ns), moment(ns)
    return when if said == when else f"{when} ({said})"


def digest(text: str | None, *, err: bool = False) -> str:
    """Return a digest as tables have it: on a terminal its first twelve digits."""
    if text is None:
        return "-"
    return text[7:19] if text.startswith("sha256:") and room(err=err) is not None else text


def operation(text: str) -> str:
    """Return an operation's id as tables have it: on a terminal its first thirteen characters."""
    return text if room() is None else text[:13]


def name(text: str) -> str:
    """Return a digest or an operation's id as tables have it."""
    return digest(text) if text.startswith("sha256:") else operation(text)


def absolute(ns: int | None) -> str:
    """Return a time (ns since the epoch) in the local zone with its offset: ``2026-11-23 13:57:52 +0100``."""
    return "-" if ns is None else time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(ns // 10**9))
