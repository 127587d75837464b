"""Measure what the past costs in a home: ``python benchmarks/past.py HOME [--positions 30] [--seed 1]``.

Prints the CPU time of folding the whole log, that of listing the images as of random positions, their ratio,
and what the snapshots take beside the database.
"""

from __future__ import annotations

import argparse
import os
import random

from timing import cpu_seconds

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.home.ledger import Ledger
from msb_cache.projections import live


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("home")
    parser.add_argument("--positions", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    ledger = Ledger(Layout(arguments.home))
    with ledger.read() as connection:
        if connection is None:
            parser.error(f"{arguments.home} has no log")
        store = ledger.store(connection)
        head = store.head()
        assert head is not None
        fold = cpu_seconds(lambda: live.fold_until(store))
    ledger.close()
    chooser = random.Random(arguments.seed)
    with ImageCache(arguments.home) as cache:
        times = sorted(
            cpu_seconds(lambda: cache.list(as_of=chooser.randint(1, head.seq)))
            for _ in range(arguments.positions)
        )
    files = [path.stat().st_size for path in ledger.layout.snapshots.glob("*.fold")]
    print(f"fold of {head.seq:,} events: {fold:.2f} s")
    print(f"list as of a position: median {times[len(times) // 2]:.3f} s, at most {times[-1]:.3f} s")
    print(f"at most {times[-1] / fold:.2f} of the fold")
    database = os.stat(ledger.layout.database).st_size
    print(f"{len(files)} snapshots: {sum(files):,} bytes; database: {database:,} bytes")


if __name__ == "__main__":
    main()
