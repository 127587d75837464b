"""A pager for what is longer than the terminal, as git has it: that of the settings, else ``less``."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

import click

from msb_cache.cli import look

if TYPE_CHECKING:
    from subprocess import Popen

_ENVIRONMENT = {"LESS": "FRX", "LV": "-c"}
"""What pagers are told as git tells them, where the person has told them nothing."""
_OFF = "msb_cache.no_pager"


def turn_off() -> None:
    """Use none in this command: ``--no-pager``."""
    click.get_current_context().meta[_OFF] = True


@contextmanager
def paging() -> Iterator[None]:
    """Show what is printed in the block with a pager, if the terminal that stdout is shows less at once."""
    program = _program()
    if program is None:
        yield
        return
    import shutil

    if shutil.which(program.split()[0]) is None:
        yield
        return
    size = shutil.get_terminal_size()
    terminal = sys.stdout
    paged = _Paged(terminal, program, size.columns, size.lines)
    sys.stdout = paged
    try:
        yield
    except BrokenPipeError:
        if not paged.is_left:
            raise
    finally:
        sys.stdout = terminal
        paged.end()


def _program() -> str | None:
    context = click.get_current_context(silent=True)
    if (context is not None and context.meta.get(_OFF)) or os.environ.get("TERM") == "dumb":
        return None
    said = look.pager()
    return ("less" if said else None) if isinstance(said, bool) else said


class _Paged(io.TextIOBase):
    """Stdout that keeps what the terminal can show at once, and starts the pager for more."""

    encoding = ""
    errors = "backslashreplace"

    def __init__(self, terminal: TextIO, program: str, columns: int, lines: int) -> None:
        self._terminal, self._program = terminal, program
        self.encoding = terminal.encoding
        self._columns, self._left = columns, lines - 1  # the shell's prompt has the last one
        self._kept: list[str] = []
        self._pager: Popen[str] | None = None
        self.is_left = False
        """The person has left the pager before the end."""

    def isatty(self) -> bool:
        """Return that a person reads it."""
        return True

    def writable(self) -> bool:
        """Return that it can be written to."""
        return True

    def write(self, text: str) -> int:
        """Keep the text, or give it to the pager."""
        if not isinstance(text, str):
            raise TypeError("this takes text")
        if self._pager is None:
            self._kept.append(text)
            self._left -= sum(
                1 + max(0, len(click.unstyle(line)) - 1) // self._columns for line in text.split("\n")[:-1]
            )
            if self._left >= 0:
                return len(text)
            self._start()
            text, self._kept = "".join(self._kept), []
        assert self._pager is not None  # noqa: S101
        assert self._pager.stdin is not None  # noqa: S101
        try:
            self._pager.stdin.write(text)
            self._pager.stdin.flush()
        except BrokenPipeError:
            self.is_left = True
            raise
        return len(text)

    def _start(self) -> None:
        import subprocess

        environment = {**_ENVIRONMENT, **os.environ}
        self._pager = subprocess.Popen(
            ["/bin/sh", "-c", self._program],
            stdin=subprocess.PIPE,
            stdout=self._terminal,
            text=True,
            encoding=self.encoding,
            errors=self.errors,
            env=environment,
        )

    def end(self) -> None:
        """Print what was kept, or wait until the person has read it."""
        if self._pager is None:
            self._terminal.write("".join(self._kept))
            self._terminal.flush()
            return
        assert self._pager.stdin is not None  # noqa: S101
        with suppress(BrokenPipeError):
            self._pager.stdin.close()
        while True:
            # Ctrl-C is the pager's: less ends a search with it.
            with suppress(KeyboardInterrupt):
                self._pager.wait()
                return
