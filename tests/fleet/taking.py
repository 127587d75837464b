"""Taking exports into a fleet's file in a process that is killed: at a step, a moment, a system call."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from msb_cache import failpoints
from msb_cache.fleet.fleet import Fleet
from tests.engines.interrupting import killing_at
from tests.fleet.exports import Content, content
from tests.reliability.killing import forked

NOW_NS = 2 * 10**18
CHANGING = ("pwrite64", "fsync", "fdatasync", "ftruncate", "unlink")
"""The system calls by which a file and its journal are changed; the process is killed before one."""
ROOT = Path(__file__).resolve().parent.parent.parent


def take(db: Path, exports: Sequence[Path], taken: Callable[[], object] = lambda: None) -> None:
    """Take exports as at one moment, and tell of each that was."""
    for each in Fleet(db=db, clock=lambda: NOW_NS).take(exports):
        assert each.problem is None
        taken()


class Taking:
    """Exports that are taken into a file again and again, from the state in which it was.

    Args:
        folder: an empty one.
        exports: what is taken.
        before: the file as it is then; None: there is none.

    Attributes:
        states: what the file has before and after each export.
        steps: those that are reached by the way.
        seconds: how long it takes.
    """

    def __init__(self, folder: Path, exports: Sequence[Path], before: Path | None) -> None:
        self.db, self._exports, self._before = folder / "killed.db", exports, before
        self.fresh()
        self.states: list[Content] = [content(self.db) if before else {}]
        self.steps: list[str] = []
        failpoints.observer = self.steps.append
        began = time.monotonic()
        try:
            take(self.db, exports, lambda: self.states.append(content(self.db)))
        finally:
            failpoints.observer = None
        self.seconds = time.monotonic() - began

    def fresh(self) -> None:
        for path in self.db.parent.glob(f"{self.db.name}*"):
            path.unlink()
        if self._before is not None:
            shutil.copy(self._before, self.db)

    def at_step(self, number: int) -> int:
        """Kill it at the n-th step, from 1; return how many exports it had said to be taken."""
        return self._forked(killing_at(number), None)

    def at_moment(self, seconds: float) -> int:
        return self._forked(None, seconds)

    def _forked(self, observer: Callable[[str], None] | None, seconds: float | None) -> int:
        self.fresh()

        def work(acknowledge: Callable[[], object]) -> None:
            failpoints.observer = observer
            take(self.db, self._exports, acknowledge)

        taken, status = forked(work, seconds)
        assert os.WIFSIGNALED(status) or (status == 0 and seconds is not None)
        return taken

    def calls(self, strace: str) -> list[tuple[str, int]]:
        """Return each system call that changes the file, by its name and which of that name it is."""
        with TemporaryDirectory() as folder:
            done = self._traced(strace, CHANGING, "-o", f"{folder}/trace")
            assert done.returncode == 0, done.stderr
            names = re.findall(r"^(?:\d+ +)?(\w+)\(", Path(folder, "trace").read_text(), re.MULTILINE)
        return [(name, number) for name in sorted({*names}) for number in range(1, names.count(name) + 1)]

    def at_call(self, strace: str, call: str, number: int) -> int:
        done = self._traced(
            strace, (call,), "-o", os.devnull, "-e", f"inject={call}:signal=KILL:when={number}"
        )
        assert done.returncode != 0, (call, number)
        return len(done.stdout)

    def _traced(self, strace: str, calls: Sequence[str], *options: str) -> subprocess.CompletedProcess[str]:
        self.fresh()
        only = [word for name in ("", "-journal") for word in ("-P", f"{self.db}{name}")]
        options = ("-e", "signal=none", "-e", f"trace={','.join(calls)}", *only, *options)
        program = [sys.executable, "-m", "tests.fleet.taking", self.db, *self._exports]
        return subprocess.run(
            [strace, "-qq", "-f", *options, *program], cwd=ROOT, capture_output=True, text=True, timeout=120
        )

    def check(self, taken: int, where: str) -> None:
        """Each export is there whole or not at all, those that were said to be are, and taking goes on."""
        found = content(self.db) if self.db.exists() else {}
        assert found in self.states[taken : taken + 2], where
        take(self.db, self._exports)
        assert content(self.db) == self.states[-1], where
        assert [path.name for path in self.db.parent.glob(f"{self.db.name}*")] == [self.db.name], where


if __name__ == "__main__":
    take(Path(sys.argv[1]), [*map(Path, sys.argv[2:])], lambda: os.write(1, b"."))
