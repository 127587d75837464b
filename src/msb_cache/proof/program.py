"""A program that is given something on standard input, without a shell: what signs, what keeps a checkpoint.

It is bounded in time and in what it prints, and what it leaves running is not waited for. Its words may hold
secrets, so nothing here ever says more of them than the program's name.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

from msgspec import Struct

from msb_cache.errors import InvalidConfigError
from msb_cache.waiting import TURN_SECONDS, end_if_asked
from msb_cache.wording import printable, reason_of

_TAIL = 4096
"""So many bytes of its errors are kept, the last ones, and of an output that has no bound."""
_LONGEST_LINE = 300


class Ended(Struct, frozen=True):
    """How a program ended: its exit status, or minus a signal; its output; and the end of its errors."""

    status: int
    output: bytes
    errors: bytes

    @property
    def how(self) -> str:
        """The end of a sentence on one that failed, with the last line of what it said."""
        how = (
            f"failed with exit code {self.status}"
            if self.status > 0
            else f"was ended by signal {-self.status}"
        )
        return f"{how}{self.last_line}"

    @property
    def last_line(self) -> str:
        """The end of a sentence: the last line of what it said; empty if it said nothing."""
        lines = [line.strip() for line in self.errors.decode("utf-8", "replace").splitlines() if line.strip()]
        return f": {printable(lines[-1][:_LONGEST_LINE])}" if lines else ""


class Program:
    """A program and its arguments, quoted as for a shell, which is not asked.

    Args:
        command: the words.
        purpose: what it is to do, as messages say it, such as ``to sign``.
        error: the error that says that it did not.

    Raises:
        InvalidConfigError: the command has no program, or a quote has no end.
    """

    def __init__(self, command: str, purpose: str, error: Callable[[str], Exception]) -> None:
        self._words = _words(command, f"the command that is {purpose}")
        self._who = f"{self.name}, which is {purpose},"
        self._error = error

    @property
    def name(self) -> str:
        """The program's, as it was written."""
        return self._words[0]

    def run(self, given: bytes, *, seconds: float, most: int | None) -> Ended:
        """Run it, and return how it ended.

        Args:
            given: what it can read.
            seconds: how long it may take.
            most: bytes that it may print; None: any number, of which the last ones are kept.

        Raises:
            Exception: the one that was chosen: it cannot be run, prints too much, or takes too long.
            KeyboardInterrupt: what ends this thread's waits does so; the program is killed.
        """
        # A file, not a pipe: some programs ask for its size, and none has to read it.
        with os.fdopen(os.memfd_create("given"), "w+b") as source:
            source.write(given)
            source.seek(0)
            try:
                process = subprocess.Popen(
                    self._words, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
                )
            except OSError as error:
                raise self._error(f"{self._who} cannot be run: {reason_of(error)}") from None
        with process:
            try:
                output, errors = self._read(process, seconds, most)
                return Ended(process.returncode, output, errors)
            finally:
                process.kill()

    def _read(
        self, process: subprocess.Popen[bytes], seconds: float, most: int | None
    ) -> tuple[bytes, bytes]:
        """Return what a process prints, and the end of its errors, once it has ended.

        What it leaves running in the background, with its output still open, is not waited for.
        """
        if process.stdout is None or process.stderr is None:  # never: both are pipes
            raise AssertionError
        output, errors = process.stdout.fileno(), process.stderr.fileno()
        found, still_open = {output: b"", errors: b""}, {output, errors}
        ready, until = select.poll(), time.monotonic() + seconds
        for descriptor in still_open:
            ready.register(descriptor, select.POLLIN)
        while True:
            end_if_asked()
            if time.monotonic() >= until:
                raise self._error(f"{self._who} did not end within {seconds:.0f} seconds")
            if not still_open:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(TURN_SECONDS)
            ended = process.poll() is not None  # then what is there now is all
            some = ready.poll(0 if ended or not still_open else TURN_SECONDS * 1000)
            if ended and not some:
                return found[output], found[errors]
            for descriptor, _ in some:
                data = os.read(descriptor, 65536)
                found[descriptor] += data
                if not data:
                    ready.unregister(descriptor)
                    still_open.remove(descriptor)
            if most is None:
                found[output] = found[output][-_TAIL:]
            elif len(found[output]) > most:
                raise self._error(f"{self._who} prints more than {most:,} bytes")
            found[errors] = found[errors][-_TAIL:]


def _words(command: str, what: str) -> list[str]:
    import shlex  # most commands that are run start none

    try:
        words = shlex.split(command)
    except ValueError:
        words = []
        whole = False
    else:
        whole = "\0" not in command
    if not whole:
        raise InvalidConfigError(f"{what} is cut off: a quote or a backslash has no end")
    if not words or not words[0]:
        raise InvalidConfigError(f"{what} is empty; it begins with a program")
    if "=" in words[0]:
        raise InvalidConfigError(f"{what} begins with a variable, and no shell runs it; begin it with `env`")
    return words
