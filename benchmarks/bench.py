"""Measure the speed of everything against the floor and against msb, and print one table.

    python benchmarks/bench.py FOLDER [--only WORK] [--msb MSB] [--msb-cache PROGRAM] [--rounds N]

FOLDER keeps a log of 1,000,000 events and, for load and pull, the image between runs. MSB is by default what
is found on the PATH; without one its column is empty. PROGRAM is a msb-cache installed from a wheel; by
default one is built and installed for the run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

import table
from setting import Setting
from works import NEED_MSB, NEED_POSTGRESQL, WORKS, fleet


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", action="append", choices=WORKS, metavar="WORK", help=", ".join(WORKS))
    parser.add_argument(
        "--msb", type=_program, default=shutil.which("msb"), help="the program to compare with"
    )
    parser.add_argument("--msb-cache", type=_program, help="our program, installed from a wheel")
    parser.add_argument("--rounds", type=int, help="instead of each work's own number")
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 1:
        parser.error("there must be at least one round")
    options.folder.mkdir(parents=True, exist_ok=True)
    missed = 0
    with Setting(options.folder.resolve(), msb=options.msb, msb_cache=options.msb_cache) as setting:
        print(f"{os.cpu_count()} cores; medians of so many rounds in turns, ratios by round\n")
        print(f"{table.HEADER}\n{table.RULE}")
        for name in options.only or WORKS:
            if name in NEED_MSB and setting.msb is None:
                print(f"{name} needs msb, which is not here", file=sys.stderr)
                continue
            if name in NEED_POSTGRESQL and not fleet.AVAILABLE:
                print(f"{name} needs PostgreSQL, which is not here", file=sys.stderr)
                continue
            rounds = {} if options.rounds is None else {"rounds": options.rounds}
            row = WORKS[name](setting, **rounds)
            missed += row.missed
            print(table.line(row), flush=True)
    if missed:
        print(f"\n{missed} over the target", file=sys.stderr)


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise argparse.ArgumentTypeError(f"{name} is no program")
    return os.path.abspath(found)


if __name__ == "__main__":
    main()
