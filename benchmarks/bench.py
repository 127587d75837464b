"""Measure the speed of everything against the floor, and print one table.

    python benchmarks/bench.py FOLDER [--msb MSB] [--msb-cache PROGRAM]

FOLDER keeps a log of 1,000,000 events and, for load and pull, the image between runs. PROGRAM is a
msb-cache installed from a wheel, for what starts processes; the default is the one beside this Python.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import timing
import works
from works import Measured


def measure(folder: Path, msb: str | None, program: Path) -> Iterator[Measured]:
    long = folder / "log-1000000"
    if not long.exists():
        generator = Path(__file__).with_name("generate_log.py")
        subprocess.run([sys.executable, generator, long], check=True)
    yield works.append(folder)
    yield works.list_(folder)
    yield works.get(folder)
    yield works.open_and_get(folder)
    yield from works.cold(folder, msb_cache=program)
    yield from works.first_line(folder, long, msb_cache=program)
    yield works.prune(folder)
    yield works.rebuild(long)
    yield works.as_of(long)
    if msb is not None:
        yield works.load(folder, msb=msb)
        yield works.pull(folder, msb=msb)


def show(lines: Iterable[Measured]) -> int:
    """Print a line for each work as it is measured; return how many miss their target."""
    print(f"{os.cpu_count()} cores; medians of so many rounds in turns, ratios by round\n")
    print("| work | ours | floor | ratio | target | rounds | |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    missed = 0
    for work, (ours, floor, ratio, rounds), target in lines:
        passed = ratio <= target
        missed += not passed
        verdict = "pass" if passed else "**not**"
        times = f"{_time(ours)} | {_time(floor)} | {ratio:.2f} | {target:.2f}"
        print(f"| {work} | {times} | {rounds} | {verdict} |", flush=True)
    return missed


def _time(seconds: float) -> str:
    if seconds < 0.001:
        return f"{seconds * 1e6:.1f} µs"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--msb", help="the program to compare load and pull with")
    parser.add_argument("--msb-cache", type=Path, default=Path(timing.MSB_CACHE))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    missed = show(measure(options.folder.resolve(), options.msb, options.msb_cache))
    if missed:
        print(f"\n{missed} over the target", file=sys.stderr)


if __name__ == "__main__":
    main()
