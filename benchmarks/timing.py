"""Times things in turns: functions in this process, and commands, each in an empty home."""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

MSB_CACHE = str(Path(sys.executable).with_name("msb-cache"))


class Run(NamedTuple):
    """Seconds that passed, seconds of all cores, and the peak of resident memory in bytes."""

    wall: float
    cpu: float
    memory: int


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the input is, or is put")
    parser.add_argument("--msb", help="the program to compare with")
    parser.add_argument("--rounds", type=int, default=10)
    return parser.parse_args()


class Paired(NamedTuple):
    """Medians of seconds, and of the ratios by round: what else the machine does falls on both of a pair."""

    ours: float
    floor: float
    ratio: float
    rounds: int


def paired(ours: Callable[[], object], floor: Callable[[], object], rounds: int) -> Paired:
    """Time two things in turns, after one round that only warms what both read."""
    pairs = [(_seconds(ours), _seconds(floor)) for _ in range(rounds + 1)][1:]
    return medians(pairs)


def medians(pairs: Sequence[tuple[float, float]]) -> Paired:
    ratios = [ours / floor for ours, floor in pairs]
    ours, floor = (statistics.median(each) for each in zip(*pairs, strict=True))
    return Paired(ours, floor, statistics.median(ratios), len(pairs))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def turns(commands: Mapping[str, Sequence[str]], rounds: int, folder: Path) -> dict[str, list[Run]]:
    """Run the commands in turns, each in an empty home."""
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            run = _run(command, folder)
            if turn:  # the first round only warms what both read
                runs[name].append(run)
    return runs


def compare(commands: Mapping[str, Sequence[str]], rounds: int, folder: Path) -> None:
    """Print the medians of each command, and of the ratios of the first one to the others, by round."""
    runs = turns(commands, rounds, folder)
    print(f"{rounds} rounds on {os.cpu_count()} cores; medians")
    for name, found in runs.items():
        wall, cpu = (statistics.median(run[index] for run in found) for index in (0, 1))
        spread = f"{min(run.wall for run in found):.2f} to {max(run.wall for run in found):.2f}"
        memory = max(run.memory for run in found) >> 20
        print(f"{name:10} {wall:6.2f} s ({spread}), {cpu:.2f} s of processor time, {memory} MiB at most")
    first, *others = runs
    for other in others:
        pairs = list(zip(runs[first], runs[other], strict=True))
        wall = statistics.median(ours.wall / theirs.wall for ours, theirs in pairs)
        cpu = statistics.median(ours.cpu / theirs.cpu for ours, theirs in pairs)
        print(f"{first} / {other}: {wall:.2f} in time, {cpu:.2f} in processor time")


def _run(command: Sequence[str], folder: Path) -> Run:
    home = tempfile.mkdtemp(prefix="home-", dir=folder)
    try:
        os.sync()  # what earlier runs wrote is not waited for in this one
        began = time.monotonic()
        environment = {**os.environ, "MSB_HOME": home, "HOME": home}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else every start compiles the program anew
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            assert process.stderr is not None
            said = process.stderr.read()
            _, status, used = os.wait4(process.pid, 0)
            wall = time.monotonic() - began
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{command[0]} failed: {said.decode(errors='replace')}")
        return Run(wall, used.ru_utime + used.ru_stime, used.ru_maxrss << 10)
    finally:
        shutil.rmtree(home)
