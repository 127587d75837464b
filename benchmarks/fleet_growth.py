"""Measure what a fleet's questions and each event cost as a fleet grows, and draw it.

    python benchmarks/fleet_growth.py FOLDER [--most 10000000] [--svg docs/fleet-growth.svg]

Fleets grow by more hosts with logs of 5,000 events, and by longer logs of 200 hosts; an image is on at most
40 hosts. All stand in one PostgreSQL and take turns, so that what else the machine does falls on all of them.
Questions are asked on a connection of their own, as a command asks them. With 10,000,000 events it takes
half an hour and 20 GB.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import chart
import homes
import psycopg
from setting import ROOT
from timing import timed
from works.fleet import connected, database, multiply

from msb_cache import Fleet, ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore.ids import uuid7
from msb_cache.fleet.enrolment import enrol
from msb_cache.home.ledger import Ledger

sys.path.append(str(ROOT))
from tests.fleet.postgres import Server, running

TURNS = 15
SENT = 1000
"""So many events are shipped and folded in a turn."""
_LIMIT_MS = 20.0
_OF_LOG = 5_000
_IMAGES = 10
_PASSWORD = "of-the-host"
_BYTES = (
    "SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c WHERE c.relkind = 'r' "
    "AND c.relnamespace = 'msb_cache'::regnamespace AND {} c.relname LIKE 'events%%'"
)
_MS = ("connect alone", "last-used", "history -n 50", "hosts", "ship 1,000", "fold 1,000")


class Size(NamedTuple):
    """A fleet: so many hosts, each with so many images that were used so often."""

    hosts: int
    images: int
    uses: int

    @property
    def of_log(self) -> int:
        """The events of a host: two for each image, and one of the log itself."""
        return 1 + self.images * (2 + self.uses)

    @property
    def events(self) -> int:
        return self.hosts * self.of_log


def of_events(events: int, images: int) -> int:
    """How often each image is used in a log of about so many events."""
    return events // images - 2


MORE_HOSTS = [Size(hosts, 100, of_events(_OF_LOG, 100)) for hosts in (2, 20, 200, 2_000)]
LONGER_LOGS = [Size(200, _IMAGES, of_events(events, _IMAGES)) for events in (50, 500, 5_000, 50_000)]


class Grown(NamedTuple):
    """What was measured of a fleet.

    Attributes:
        size: the fleet.
        ms: by what was done, the median in ms.
        event_bytes: of an event in its table and the indexes.
        model_bytes: of the other tables, for each event.
    """

    size: Size
    ms: dict[str, float]
    event_bytes: float
    model_bytes: float


class Filled(NamedTuple):
    """A fleet in a database: the DSN of its administrator, and that of a host that ships more."""

    size: Size
    admin: str
    host: str
    event_bytes: float
    model_bytes: float


def measure(folder: Path, sizes: list[Size], turns: int = TURNS) -> list[Grown]:
    """Make the fleets and measure them in turns."""
    with ExitStack() as made:
        server = made.enter_context(running())
        scratch = Path(made.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        filled = [
            made.enter_context(_filled(server, scratch / str(number), f"of{number}", size))
            for number, size in enumerate(sizes)
        ]
        times: list[dict[str, list[float]]] = [{name: [] for name in _MS} for _ in filled]
        sender = scratch / "sender"
        homes.index(sender, _IMAGES)
        with ImageCache(sender) as cache:
            for turn in range(turns + 1):  # the first only warms
                _use(sender)
                for fleet, of_fleet in zip(filled, times, strict=True):
                    for name, work in _works(fleet, cache):
                        taken = timed(work)().seconds
                        if turn:
                            of_fleet[name].append(taken * 1000)
    return [
        Grown(
            fleet.size,
            {name: statistics.median(each) for name, each in of_fleet.items()},
            fleet.event_bytes,
            fleet.model_bytes,
        )
        for fleet, of_fleet in zip(filled, times, strict=True)
    ]


@contextmanager
def _filled(server: Server, folder: Path, name: str, size: Size) -> Iterator[Filled]:
    with database(server, name) as (admin, host):
        homes.index(folder, size.images, uses=size.uses)
        with ImageCache(folder) as cache:
            cache.ship(host)
        Fleet(admin).fold()
        with psycopg.connect(admin, autocommit=True) as connection:
            multiply(connection, size.hosts)
            found = connection.execute("SELECT count(*) FROM msb_cache.events").fetchone()
            assert found == (size.events,)
            event_bytes, model_bytes = (
                (connection.execute(_BYTES.format(of).encode()).fetchone() or (0,))[0] / size.events
                for of in ("", "NOT")
            )
        enrol(admin, f"sender-{name}", password=_PASSWORD)
        print(f"made {size.hosts:,} hosts of {size.of_log:,} events", file=sys.stderr)
        yield Filled(
            *(size, admin, server.dsn(f"sender-{name}", _PASSWORD, database=name)),
            *(event_bytes, model_bytes),
        )


def _use(home: Path) -> None:
    ledger = Ledger(Layout(home))
    with ledger.write(uuid7()) as transaction:
        transaction.append([homes.used(number % _IMAGES) for number in range(SENT)])
    ledger.close()


def _works(fleet: Filled, cache: ImageCache) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is done in a turn: each question, and the way of the events that came since."""
    dsn = fleet.admin
    reference = homes.reference(7).replace("/acme/", "/acme0/" if fleet.size.hosts > 1 else "/acme/")
    works: list[Callable[[], object]] = [
        lambda: connected(dsn),
        lambda: Fleet(dsn).last_used(reference),
        lambda: Fleet(dsn).history(reference, limit=50),
        lambda: Fleet(dsn).hosts(),
        lambda: cache.ship(fleet.host),
        lambda: Fleet(dsn).fold(),
    ]
    return zip(_MS, works, strict=True)


def table(found: list[Grown]) -> str:
    """What stands in docs/fleet.md."""
    head = ("events", "hosts", "a log", *_MS[:4], "to ship an event", "to fold it", "bytes an event")
    lines = [f"| {' | '.join(head)} |", f"|{' ---: |' * len(head)}"]
    for each in found:
        size = each.size
        cells = [f"{number:,}" for number in (size.events, size.hosts, size.of_log)]
        cells += [f"{each.ms[name]:.1f} ms" for name in _MS[:4]]
        cells += [f"{each.ms[name] * 1000 / SENT:.0f} µs" for name in _MS[4:]]
        cells.append(f"{each.event_bytes:.0f} + {each.model_bytes:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def svg(axes: dict[str, list[Grown]]) -> str:
    """Milliseconds over the number of events, both by powers of ten; an axis for each way to grow."""
    longest = max(each.ms[name] for found in axes.values() for each in found for name in _MS)
    powers = math.ceil(math.log10(longest))
    marks = {"20 ms": _LIMIT_MS}
    for power in range(powers + 1):
        marks[f"{10**power} ms" if power < 3 else f"{10 ** (power - 3)} s"] = 10.0**power
    said = [
        f"{below}, {found[0].size.events:,} to {found[-1].size.events:,} events: "
        + ", ".join(f"{name} {found[0].ms[name]:.1f} to {found[-1].ms[name]:.1f} ms" for name in _MS)
        for below, found in axes.items()
    ]
    return chart.drawn(
        "Time of a question, and of 1,000 events on their way, over the number of events",
        "; ".join(said),
        [
            chart.Panel(
                below,
                [_power(each.size.events) for each in found],
                {name: [each.ms[name] for each in found] for name in _MS},
            )
            for below, found in axes.items()
        ],
        marks=marks,
        limit="20 ms",
        height=lambda value: math.log10(value) / powers,
    )


def _power(number: int) -> str:
    """How a number is written that is about a power of ten."""
    return f"10{str(round(math.log10(number))).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most", type=int, default=10_000_000)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    axes = [
        [size for size in sizes if size.events <= options.most * 1.1] for sizes in (MORE_HOSTS, LONGER_LOGS)
    ]
    found = measure(options.folder, [*axes[0], *axes[1]], options.turns)
    print(table(found))
    if options.svg is not None:
        first = len(axes[0])
        options.svg.write_text(
            svg({"events, by more hosts": found[:first], "events, by longer logs": found[first:]})
        )


if __name__ == "__main__":
    main()
