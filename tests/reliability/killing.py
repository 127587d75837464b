"""Cut a scenario short: at a step, at a moment, at a system call; and say what was acknowledged before.

A process is forked where it is to be killed from within or by the clock. For system calls it is a new one
under strace, which counts the calls of each thread, and at one of them kills or stops the process, or lets
the call fail.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

from msb_cache import ImageCache, failpoints
from msb_cache.home import index_cache
from tests.engines.interrupting import killing_at
from tests.reliability.power import Mode, Recording, lay_out
from tests.reliability.scenarios import (
    RECOVERY,
    SCENARIOS,
    Index,
    check_whole,
    closer_snapshots,
    index_of,
    perform,
)

ROOT = Path(__file__).resolve().parent.parent.parent

CHANGING = [
    *("write", "pwrite64", "fsync", "fdatasync", "ftruncate", "fallocate", "flock"),
    *("rename", "unlink", "unlinkat", "rmdir", "link", "mkdir"),
]
"""System calls before each of which a process may be killed: those that change files, or lock them."""

WRITING = ["write", "pwrite64", "ftruncate", "fsync", "fdatasync", "rename", "link", "mkdir", "fallocate"]
"""System calls that fail when a disk is full."""

FEW_STOPS = "--seccomp-bpf"
"""Has strace stop a process only at the calls to be traced; those of Python's imports are a thousand."""


@dataclass(frozen=True)
class Cut:
    """How a run ended: how many commands it acknowledged, whether it was cut short, what it said."""

    acknowledged: int
    short: bool
    said: str = ""
    failed: bool = False
    """A system call failed, which need not have ended the command: a file may not have been deleted."""


class Bench:
    """One scenario, prepared once and run from that state again and again."""

    def __init__(self, name: str, folder: Path, prepared: Callable[[Path], object] | None = None) -> None:
        self.name = name
        self._calls: dict[str, int] | None = None
        self._pristine, self._work = folder / "pristine", folder / "work"
        self._work.mkdir(parents=True)
        SCENARIOS[name].prepare(self._work)  # here, for disk descriptors name their home
        if prepared is not None:
            prepared(self._work)
        shutil.copytree(self._work, self._pristine)
        # Of older schemas too, so not by opening what is to be migrated.
        copy = folder / "copy"
        shutil.copytree(self._pristine, copy)
        self.states: list[Index] = [index_of(copy / "home")]
        shutil.rmtree(copy)
        self.steps: list[str] = []
        failpoints.observer = self.steps.append
        began = time.monotonic()
        try:
            perform(name, self._work, lambda number: self.states.append(index_of(self._work / "home")))
        finally:
            failpoints.observer = None
        self.seconds = time.monotonic() - began
        check_whole(self._work / "home", bare=SCENARIOS[name].bare)

    def fresh(self) -> Path:
        """Begin from the prepared state again."""
        shutil.rmtree(self._work, ignore_errors=True)
        shutil.copytree(self._pristine, self._work)
        return self._work

    def check(self, cut: Cut, where: str) -> None:
        """What was acknowledged is there, nothing half, the next writers make it whole, and all goes on.

        The next writers are one that only records, and one that deletes: it takes up what failed before.

        Raises:
            AssertionError: naming where it was cut.
        """
        home, scenario = self._work / "home", SCENARIOS[self.name]
        try:
            possible = self.states[cut.acknowledged : cut.acknowledged + 2]
            assert index_of(home) in possible, "before recovery"
            with ImageCache(home) as cache:
                cache.release("sandbox:nobody")  # any command that writes
                if scenario.wrong:
                    cache.rebuild()
                    possible = [state for state in possible if state != self.states[0]]
                if (
                    scenario.step < index_cache.STEP
                ):  # a snapshot that was not finished goes with the next one
                    with closer_snapshots(scenario.step):
                        for _ in range(2 * scenario.step):
                            cache.use("one:1")
            assert index_of(home) in possible, "after recovery"
            if cut.failed:
                with ImageCache(home) as cache:
                    cache.load(self._work / "lone.tar", tag="again:1")
                    cache.remove("again:1")
            check_whole(home, bare=scenario.bare)
            with ImageCache(home) as cache:
                cache.load(self._work / "lone.tar", tag="again:1")
                cache.confirm_restore()
                cache.prune(orphans=True)
            check_whole(home, bare=scenario.bare)
        except Exception as error:
            raise AssertionError(f"{self.name}, cut at {where} ({cut}): {error}") from error

    # -- forked -------------------------------------------------------------------------------------------

    def at_step(self, number: int) -> Cut:
        """Kill the process at the n-th step that it reaches, from 1."""
        return self._forked(killing_at(number), None)

    def at_moment(self, seconds: float) -> Cut:
        """Kill the process after so many seconds."""
        return self._forked(None, seconds)

    def _forked(self, observer: Callable[[str], None] | None, seconds: float | None) -> Cut:
        self.fresh()

        def work(acknowledge: Callable[[], object]) -> None:
            failpoints.observer = observer
            perform(self.name, self._work, lambda number: acknowledge())

        acknowledged, status = forked(work, seconds)
        assert status == 0 or os.WIFSIGNALED(status), f"{self.name} failed by itself: {status}"
        return Cut(acknowledged, status != 0)

    # -- under strace -------------------------------------------------------------------------------------

    def calls(self, strace: str, wanted: list[str]) -> dict[str, int]:
        """How often one thread makes each of these calls of CHANGING, at most; it is counted once."""
        if self._calls is None:
            self._calls = self._counted(strace)
        return {call: count for call, count in self._calls.items() if call in wanted}

    def _counted(self, strace: str) -> dict[str, int]:
        with TemporaryDirectory() as folder:
            self._traced(strace, CHANGING, [FEW_STOPS, "-ff", "-o", f"{folder}/trace"])
            most: dict[str, int] = {}
            for trace in Path(folder).iterdir():
                found = re.findall(r"^(\w+)\(", trace.read_text(errors="replace"), re.MULTILINE)
                for call in set(found):
                    most[call] = max(most.get(call, 0), found.count(call))
        return most

    def at_call(self, strace: str, call: str, number: int) -> Cut:
        """Kill the process before a thread's n-th system call of this name."""
        return self._injected(strace, call, f"signal=KILL:when={number}")

    def failing(self, strace: str, call: str, number: int, error: str) -> Cut:
        """Let a thread's n-th system call of this name, and all later ones, fail."""
        return self._injected(strace, call, f"error={error}:when={number}+")

    def failing_once(self, strace: str, call: str, number: int, error: str) -> Cut:
        """Let a thread's n-th system call of this name fail, and none after it."""
        return replace(self._injected(strace, call, f"error={error}:when={number}"), failed=True)

    # -- power losses -------------------------------------------------------------------------------------

    def recorded(self, strace: str) -> Recording:
        """Run the scenario and return what it did to its folder."""
        self.fresh()
        recording = Recording(self._work)
        done = recording.run(strace, self._program())
        assert done.returncode == 0, done.stderr
        recording.check()
        return recording

    def recorded_recovery(self, strace: str, at: int | tuple[str, int]) -> tuple[Recording, int]:
        """Kill the scenario, recover, and return what both did to the folder, and where the recovery began.

        Args:
            strace: the program.
            at: a step, or a system call and which of them in one thread.
        """
        recording = self._recorded_until(strace, at)
        begin = len(recording.operations)
        done = recording.run(strace, self._program(RECOVERY))
        assert done.returncode == 0, done.stderr
        recording.check()
        return recording, begin

    def _recorded_until(self, strace: str, at: int | tuple[str, int]) -> Recording:
        steps, kill = ([str(at)], None) if isinstance(at, int) else ([], at)
        # Where another thread is killed within a system call, nothing says what that has done: once more.
        for attempt in range(10):
            self.fresh()
            recording = Recording(self._work)
            killed = recording.run(strace, [*self._program(), *steps], kill=kill)
            assert killed.returncode == -signal.SIGKILL, killed
            with suppress(AssertionError) if attempt < 9 else nullcontext():
                recording.check()
                break
        return recording

    def after(self, recording: Recording, cut: int, mode: Mode, chance: random.Random) -> Cut:
        """Put the folder into a state that a power loss after so many operations can leave."""
        shutil.rmtree(self._work)
        self._work.mkdir()
        lay_out(recording.crash(cut, mode, chance), self._work)
        return Cut(recording.acknowledged(cut), True)

    def stopping(self, strace: str, call: str, number: int, meanwhile: Callable[[Path], None]) -> Cut:
        """Stop the process before a thread's n-th system call of this name, until ``meanwhile`` is done.

        Where the call is not reached, nothing is done meanwhile. Other threads that come to their n-th call
        afterwards stop the process again, and it goes on at once.
        """
        self.fresh()
        trace = self._work.parent / "trace"
        trace.unlink(missing_ok=True)
        tracer = subprocess.Popen(
            [
                *(strace, "-f", "-o", trace, "-e", f"trace={call}"),
                *("-e", f"inject={call}:signal=STOP:when={number}"),
                *self._program(),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        met = 0
        deadline = time.monotonic() + 120
        try:
            while tracer.poll() is None and time.monotonic() < deadline:
                stops = re.findall(r"^(\d+) +--- stopped by SIGSTOP", _text(trace), re.MULTILINE)
                if len(stops) > met:
                    try:
                        if met == 0:
                            meanwhile(self._work / "home")
                    finally:
                        for thread in stops[met:]:
                            with suppress(
                                ProcessLookupError
                            ):  # it was let go on for another one, and has ended
                                os.kill(int(thread), signal.SIGCONT)
                    met = len(stops)
                time.sleep(0.01)
            said, error = tracer.communicate(timeout=10)
        finally:
            tracer.kill()
        return Cut(len(said), tracer.returncode != 0, error)

    def _injected(self, strace: str, call: str, what: str) -> Cut:
        # Told to stop at few calls only, strace lets them fail but does not kill.
        stops = [] if what.startswith("signal=") else [FEW_STOPS]
        return self._traced(strace, [call], [*stops, "-f", "-o", os.devnull, "-e", f"inject={call}:{what}"])

    def _traced(self, strace: str, calls: list[str], options: list[str]) -> Cut:
        self.fresh()
        done = subprocess.run(
            [
                *(strace, "-qq", "-f", "-e", f"trace={','.join(calls)}", "-e", "signal=none"),
                *options,
                *self._program(),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Cut(len(done.stdout), done.returncode != 0, done.stderr)

    def _program(self, name: str | None = None) -> list[str]:
        return [sys.executable, "-m", "tests.reliability.scenarios", name or self.name, str(self._work)]


def forked(work: Callable[[Callable[[], object]], object], seconds: float | None) -> tuple[int, int]:
    """Work in a forked process, which is killed after so many seconds (None: if it kills itself).

    Returns:
        How often it called what it was given, to acknowledge something, and its wait status.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # others' threads do not matter to the child
        child = os.fork()
    if child == 0:
        try:
            work(lambda: os.write(writing, b"."))
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    with os.fdopen(reading, "rb") as pipe:
        return len(pipe.read()), status


@contextmanager
def stopped_at(strace: str, call: str, number: int, command: Sequence[str | Path]) -> Iterator[int]:
    """Run a program that stands still behind a thread's n-th system call of this name; gives its process id.

    It is killed at the end, unless it was let go on and has ended.
    """
    with NamedTemporaryFile("r") as log:
        options = ["-qq", "-f", "-o", log.name, "-e", "signal=STOP", "-e", f"trace={call}"]
        inject = ["-e", f"inject={call}:signal=STOP:when={number}"]
        child = 0
        process = subprocess.Popen(
            [strace, *options, *inject, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while not child:
                found = re.search(r"^(\d+) +--- stopped by SIGSTOP ---$", Path(log.name).read_text(), re.M)
                child = int(found[1]) if found else 0
                assert found or process.poll() is None, (
                    f"it ended with {process.returncode}, and never stopped"
                )
                time.sleep(0.01)
            yield child
        finally:
            for each in filter(None, (child, process.pid)):
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            process.wait()


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def spread(count: int, most: int, chance: random.Random) -> list[int]:
    """Numbers from 1 to ``most``: all of them if there are no more than ``count``, else so many by chance."""
    return list(range(1, most + 1)) if most <= count else sorted(chance.sample(range(1, most + 1), count))
