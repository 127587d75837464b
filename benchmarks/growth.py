"""Measure what each item costs as a cache grows, and draw it.

    python benchmarks/growth.py FOLDER [--most 100000] [--svg docs/growth.svg]

Every index has ten events for each image. What is drawn is the time for each item against that with 1,000
images: an image of a list, one get, one history, one append, an image of a plan to prune.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import chart
import homes
from timing import cpu_seconds

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore.ids import uuid7
from msb_cache.home.ledger import Ledger
from msb_cache.projections import state
from msb_cache.retention.plan import plan_prune

SIZES = (100, 1_000, 10_000, 100_000)
BASE = 1_000
LIMIT = 1.5
TURNS = 20


class Work(NamedTuple):
    """A call, how often it is made in a turn, and how many items it handles each time."""

    call: Callable[[], object]
    calls: int
    items: int

    def turn(self) -> None:
        for _ in range(self.calls):
            self.call()


def works(home: Path, images: int, made: ExitStack) -> dict[str, Work]:
    """What is measured in a cache of this size; ``made`` closes it."""
    wanted, ledger = homes.reference(images // 2), Ledger(Layout(home))
    made.callback(ledger.close)
    cache = made.enter_context(ImageCache(home))
    numbers = iter(range(10**9))

    def append() -> None:
        with ledger.write(uuid7()) as transaction:
            transaction.append([homes.used(next(numbers) * 7919 % images)])

    def plan() -> None:
        with ledger.read() as connection:
            assert connection is not None
            assert len(plan_prune(state.load(connection)).references) == images

    often = max(1, 10_000 // images)
    return {
        "list": Work(cache.list, often, images),
        "get": Work(lambda: cache.get(wanted), 100, 1),
        "history": Work(lambda: cache.history(wanted), 20, 1),
        "append": Work(append, 20, 1),
        "prune plan": Work(plan, often, images),
    }


def costs(sizes: dict[int, dict[str, Work]]) -> dict[int, dict[str, float]]:
    """Seconds of CPU for each item; time that passes would, on a busy machine, grow with what is long.

    The sizes take turns, so that what else the machine does falls on all of them.
    """
    found: dict[int, dict[str, float]] = {size: {} for size in sizes}
    for name in next(iter(sizes.values())):
        times: dict[int, list[float]] = {size: [] for size in sizes}
        for turn in range(TURNS + 1):
            for size, own in sizes.items():
                work = own[name]
                taken = cpu_seconds(work.turn)
                if turn:  # the first only warms
                    times[size].append(taken / work.calls / work.items)
        for size, taken_each in times.items():
            found[size][name] = statistics.median(taken_each)
    return found


def svg(found: dict[int, dict[str, float]]) -> str:
    """Lines over the number of images, each relative to its value at the base."""
    lines = {name: [each[name] / base for each in found.values()] for name, base in found[BASE].items()}
    highest = 2.0
    return chart.drawn(
        f"CPU time for each item, as a multiple of that with {BASE:,} images",
        "; ".join(
            f"{name}: {values[-1]:.2f} times with {max(found):,} images" for name, values in lines.items()
        ),
        [chart.Panel("images", [f"{size:,}" for size in found], lines)],
        marks={f"{mark:g}": mark for mark in (0, 0.5, 1, LIMIT, highest)},
        limit=f"{LIMIT:g}",
        height=lambda ratio: ratio / highest,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most", type=int, default=SIZES[-1])
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, ExitStack() as made:
        sizes = {}
        for size in SIZES:
            if size <= options.most:
                home = Path(folder) / str(size)
                homes.index(home, size, uses=8)
                sizes[size] = works(home, size, made)
        found = costs(sizes)
    print("| work, for each item | " + " | ".join(f"{size:,}" for size in found) + " | growth from 1,000 |")
    print("| --- |" + " ---: |" * (len(found) + 1))
    for name in found[BASE]:
        cells = " | ".join(f"{each[name] * 1e6:.1f} µs" for each in found.values())
        growth = list(found.values())[-1][name] / found[BASE][name]
        print(f"| {name} | {cells} | {growth:.2f} |")
    if options.svg is not None:
        options.svg.write_text(svg(found))


if __name__ == "__main__":
    main()
