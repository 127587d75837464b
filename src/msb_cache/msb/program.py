"""Find microsandbox's own program, and run it for one home: what changes a cache of msb goes through it.

It gets the home and nothing of the caller's choice of a backend, so it acts on this cache and no other.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import IO, NamedTuple

from msb_cache import diagnostics
from msb_cache.errors import HomeOwnedByMicrosandboxError, MsbProgramError
from msb_cache.ownership import owner_of
from msb_cache.waiting import SAY_AFTER, Note, end_if_asked, told_to_end

_NOT_PASSED_ON = ("MSB_BACKEND", "MSB_PROFILE", "MSB_API_URL", "MSB_API_KEY", "MSB_PATH")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LOGIN = re.compile(r"//[^/@\s]*@")
_QUERY = re.compile(r"(https?://[^\s?]+)\?[^\s,;]*")
_LONGEST_REASON = 500
_MOST_OUTPUT = 4 * 1024 * 1024
_VERSION_SECONDS = 10.0
_LOOK_SECONDS = 0.2  # between two looks at what it does
_END_SECONDS = 0.5  # that a program which was told to end has for it


@dataclass(frozen=True)
class Finished:
    """How a run ended: its exit code, its standard output, and the lines it wrote for people."""

    code: int
    output: str
    lines: tuple[str, ...]

    @property
    def problem(self) -> str:
        """What msb says went wrong, without logins and without the queries of addresses."""
        said = [line.removeprefix("error: ") for line in self.lines if line.startswith("error: ")]
        said += self.lines[-1:] or [f"exit code {self.code}"]
        return _QUERY.sub(r"\1", _LOGIN.sub("//", said[0]))[:_LONGEST_REASON]


class MsbProgram:
    """The program, for one home; ``note`` is told when it takes longer than a second."""

    def __init__(self, path: Path, home: str, note: Note = lambda sentence: None) -> None:
        self.path = path
        self._home = home
        self._note = note

    def run(
        self,
        *arguments: str,
        source: Iterator[bytes] | None = None,
        seconds: float | None = None,
        inherits: Sequence[int] = (),
        watch: Callable[[], None] | None = None,
    ) -> Finished:
        """Run it to its end; where root works in another user's home, as that user.

        Args:
            arguments: the command line.
            source: what it reads from standard input, in pieces; None: nothing.
            seconds: how long it may take once it has read that; None: as long as it takes.
            inherits: open files that stay open as long as it runs, which is then to its end; else what ends
                this thread's waits ends it, too.
            watch: called about five times a second while it runs; it raises nothing.

        Returns:
            How it ended; of what it wrote, the first 4 MiB.

        Raises:
            MsbProgramError: it cannot be started, or does not end in time.
        """
        environment = {key: value for key, value in os.environ.items() if key not in _NOT_PASSED_ON}
        environment |= {"MSB_BACKEND": "local", "MSB_HOME": self._home, "NO_COLOR": "1"}
        if (user := _user_of(self._home)) is not None:
            # What leads to folders that are root's own would be in that user's way.
            for name in [name for name in environment if name == "TMPDIR" or name.startswith("XDG_")]:
                del environment[name]
            environment["HOME"] = user.folder
        # Files, not pipes: it can write as much as it likes while it is still being fed. In memory, because
        # the disk may be full.
        with _file("output") as output, _file("errors") as errors:
            try:
                process = subprocess.Popen(
                    [str(self.path), *arguments],
                    stdin=subprocess.DEVNULL if source is None else subprocess.PIPE,
                    bufsize=0,
                    stdout=output,
                    stderr=errors,
                    env=environment,
                    pass_fds=inherits,
                    user=None if user is None else user.uid,
                    group=None if user is None else user.gid,
                    extra_groups=None if user is None else user.groups,
                )
            except OSError as error:
                if user is not None and isinstance(error, PermissionError):
                    raise MsbProgramError(
                        f"{user.name}, to whom {self._home} belongs, cannot run {self.path}; "
                        f"name one with MSB_PATH that {user.name} can run, or run msb-cache as {user.name}"
                    ) from None
                raise MsbProgramError(f"cannot run {self.path}: {error.strerror or error}") from None
            said = " ".join(("msb", *takewhile(lambda argument: argument[0] != "-", arguments[:2])))
            awaited = f"`{said}`, process {process.pid}"
            try:
                with nullcontext() if inherits else told_to_end(process.terminate):
                    if source is not None:
                        self._feed(process, source, awaited)
                    self._wait(process, awaited, seconds, watch)
                if not inherits:
                    end_if_asked()
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise MsbProgramError(f"{self.path} has not ended after {seconds:g} seconds") from None
            except BaseException:
                self._end(process, awaited)
                raise
            finally:
                if process.stdin is not None:
                    process.stdin.close()
            said, text = _written(output), _ANSI.sub("", _written(errors))
        lines = tuple(line.strip() for line in text.splitlines() if line.strip())
        diagnostics.debug("msb.ran", command=arguments[0], code=process.returncode)
        return Finished(process.returncode, said, lines)

    @property
    def runs_as_another(self) -> bool:
        """Whether it runs as another user than this process: as the home's owner, where that is root."""
        return owner_of(self._home) is not None

    def _feed(self, process: subprocess.Popen[bytes], pieces: Iterator[bytes], awaited: str) -> None:
        assert process.stdin is not None  # noqa: S101
        os.set_blocking(process.stdin.fileno(), False)
        ready = select.poll()
        ready.register(process.stdin, select.POLLOUT)
        patience: float | None = SAY_AFTER * 1000
        with suppress(BrokenPipeError):  # it has seen enough, and says why
            for piece in pieces:
                left = memoryview(piece)
                while left:
                    if ready.poll(patience):
                        left = left[process.stdin.write(left) or 0 :]
                    else:
                        self._note(f"waiting for msb to read ({awaited})")
                        patience = None
        process.stdin.close()

    def _wait(
        self,
        process: subprocess.Popen[bytes],
        awaited: str,
        seconds: float | None,
        watch: Callable[[], None] | None,
    ) -> None:
        began, said = time.monotonic(), False
        while True:
            waited = time.monotonic() - began
            if waited >= SAY_AFTER and not said:
                self._note(f"waiting for msb to end ({awaited})")
                said = True
            if watch is not None:
                watch()
            stops = (
                None if seconds is None else max(0.0, seconds - waited),
                None if said else SAY_AFTER - waited,
                None if watch is None else _LOOK_SECONDS,
            )
            try:
                process.wait(min((stop for stop in stops if stop is not None), default=None))
                return
            except subprocess.TimeoutExpired:
                if seconds is not None and time.monotonic() - began >= seconds:
                    raise

    def _end(self, process: subprocess.Popen[bytes], awaited: str) -> None:
        """Tell it to end, and leave it if it does not: killed, it would leave half of what it does."""
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._note(f"msb has not ended yet ({awaited})")

    def version(self) -> str | None:
        """Return its version, such as ``0.7.11``; None when it does not say."""
        found = re.search(r"\d+\.\d+\.\d+\S*", self.run("--version", seconds=_VERSION_SECONDS).output)
        return found[0] if found else None


class _User(NamedTuple):
    name: str
    uid: int
    gid: int
    groups: list[int]
    folder: str


def _user_of(home: str) -> _User | None:
    """Return whose msb runs in a home, if it is not this process's own: what root's makes locks them out."""
    owner = owner_of(home)
    if owner is None:
        return None
    import pwd

    try:
        known = pwd.getpwuid(owner[0])
    except KeyError:
        return _User(f"user {owner[0]}", *owner, [owner[1]], "/")
    groups = os.getgrouplist(known.pw_name, owner[1])
    return _User(known.pw_name, *owner, groups, known.pw_dir)


def _file(name: str) -> IO[bytes]:
    return os.fdopen(os.memfd_create(f"msb-{name}"), "w+b")


def _written(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(_MOST_OUTPUT).decode(errors="replace")


def find_program(home: str, note: Note = lambda sentence: None) -> MsbProgram | None:
    """Return the program: ``MSB_PATH``, else ``msb`` on the PATH, else what the microsandbox package ships.

    Raises:
        MsbProgramError: ``MSB_PATH`` names no program.
    """
    named = os.environ.get("MSB_PATH")
    if named:
        if not os.access(named, os.X_OK) or os.path.isdir(named):
            raise MsbProgramError("MSB_PATH names no program that can be run")
        # Absolute, because a bare name would be looked for on the PATH.
        return MsbProgram(Path(named).absolute(), home, note)
    found = shutil.which("msb") or _bundled()
    return None if found is None else MsbProgram(Path(found).absolute(), home, note)


def require_program(home: str, note: Note) -> MsbProgram:
    """Return the program, without which a home that msb keeps is only read.

    Raises:
        HomeOwnedByMicrosandboxError: there is none.
    """
    program = find_program(home, note)
    if program is None:
        raise HomeOwnedByMicrosandboxError(
            f"{home} is kept by msb, which is not installed here, so it is only read; "
            "install microsandbox, or name the program with MSB_PATH"
        )
    return program


def _bundled() -> str | None:
    try:
        spec = find_spec("microsandbox")
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = os.path.join(folder, "_bundled", "bin", "msb")
        if os.access(path, os.X_OK):
            return path
    return None


def per_argument(finished: Finished, arguments: Sequence[str], done: str) -> list[str | None]:
    """Return what msb said of each argument, in their order: None where it was done, else what was wrong.

    Args:
        finished: the run.
        arguments: what it was asked to work on, one after the other.
        done: the word with which it says that one is done, such as ``Removed``.
    """
    said: list[str | None] = []
    for line in finished.lines:
        if line.startswith(f"✓ {done}"):
            said.append(None)
        elif line.startswith("error: "):
            said.append(line.removeprefix("error: "))
    if len(said) == len(arguments) + 1 and finished.code:
        said.pop()  # its last line says that some failed
    if len(said) != len(arguments):
        return [finished.problem if finished.code else None] * len(arguments)
    return said
