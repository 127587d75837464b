"""Times things in turns, so that what else the machine does falls on all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

LAUNCH = str(Path(__file__).with_name("launch.py"))
_OF_PYTHON = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME")


class Run(NamedTuple):
    """Seconds that passed; of a command, the peak of its resident memory in bytes."""

    seconds: float
    memory: int | None = None


Contender = Callable[[], Run]


def timed(work: Callable[[], object]) -> Contender:
    """A contender that calls a function."""

    def run() -> Run:
        began = time.perf_counter()
        work()
        return Run(time.perf_counter() - began)

    return run


def cpu_seconds(work: Callable[[], object]) -> float:
    """Seconds of this process's CPU, which another busy one does not lengthen."""
    began = time.process_time()
    work()
    return time.process_time() - began


def process(*command: str, home: Path, msb: str | None = None) -> Contender:
    """A contender that runs a command from its start to its end, for one home."""

    def run() -> Run:
        done = subprocess.run(
            [sys.executable, "-I", "-S", LAUNCH, *command],
            env=environment(home, msb),
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        if done.returncode:
            raise SystemExit(f"{command[0]} failed: {done.stderr.decode(errors='replace')}")
        return Run(*json.loads(done.stdout))

    return run


def environment(home: Path, msb: str | None = None) -> dict[str, str]:
    """What a command runs with: this home and no other, programs that stay compiled, the msb that we run.

    To msb itself ``MSB_PATH`` means something else, so it gets none.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _OF_PYTHON and not name.startswith("MSB_")
    }
    chosen = {} if msb is None else {"MSB_PATH": msb}
    return {**kept, **chosen, "HOME": str(home), "MSB_HOME": str(home), "MSB_BACKEND": "local"}


def turns(contenders: Mapping[str, Contender], rounds: int, *, warm: bool = True) -> dict[str, list[Run]]:
    """Run the contenders in turns, so many rounds; before them one that only warms what all read."""
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    for turn in range(rounds + warm):
        for name, contender in contenders.items():
            run = contender()
            if turn >= warm:
                runs[name].append(run)
    return runs


def output(command: Sequence[str], home: Path) -> str:
    """What a command prints; nothing is timed."""
    done = subprocess.run(command, env=environment(home), stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout
