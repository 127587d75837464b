"""The works that are measured against their floors, one function each; the floors are in ``floors``."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import floors
import homes
import inputs
import msgspec
import timing
from timing import Paired

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore.events import EVENT_TYPES
from msb_cache.eventstore.ids import uuid7
from msb_cache.ledger import Ledger
from msb_cache.projections import live


class Measured(NamedTuple):
    """One line of the table. ``target`` is the largest ratio that passes."""

    work: str
    times: Paired
    target: float


def append(folder: Path, *, images: int = 1000, rounds: int = 300) -> Measured:
    with _home(folder, images) as home:
        ledger, table = Ledger(Layout(home)), floors.bare_table(home / "bare.db")
        numbers = iter(range(rounds + 1))

        def ours() -> None:
            with ledger.transaction(uuid7()) as transaction:
                transaction.append([homes.used(next(numbers) % images)])

        times = timing.paired(ours, lambda: floors.append_row(table, "x" * 300), rounds)
        ledger.close()
        table.close()
    return Measured("append one event with its projections", times, 2.0)


def rebuild(home: Path, *, rounds: int = 5) -> Measured:
    decoders = {event.type: msgspec.json.Decoder(event).decode for event in EVENT_TYPES}
    connection = floors.connect(Layout(home).database)
    (events,) = connection.execute("SELECT count(*) FROM events").fetchone()
    with ImageCache(home) as cache:

        def ours() -> None:
            assert cache.rebuild() == []

        times = timing.paired(ours, lambda: floors.decode_events(connection, decoders), rounds)
    connection.close()
    return Measured(f"rebuild of {events:,} mixed events", times, 3.0)


def list_(folder: Path, *, images: int = 10_000, rounds: int = 30) -> Measured:
    with _home(folder, images) as home, ImageCache(home) as cache:
        connection = floors.connect(Layout(home).database)
        assert len(cache.list()) == len(floors.select_images(connection)) == images
        times = timing.paired(cache.list, lambda: floors.select_images(connection), rounds)
        connection.close()
    return Measured(f"list of {images:,} images", times, 3.0)


def get(folder: Path, *, images: int = 10_000, rounds: int = 2000) -> Measured:
    wanted = homes.reference(images // 2)
    with _home(folder, images) as home, ImageCache(home) as cache:
        connection = floors.connect(Layout(home).database)
        times = timing.paired(
            lambda: cache.get(wanted), lambda: floors.select_image(connection, wanted), rounds
        )
        connection.close()
    return Measured("get on an open cache", times, 4.0)


def open_and_get(folder: Path, *, images: int = 10_000, rounds: int = 200) -> Measured:
    wanted = homes.reference(images // 2)

    def ours() -> None:
        with ImageCache(home) as cache:
            cache.get(wanted)

    with _home(folder, images) as home:
        path = Layout(home).database
        times = timing.paired(ours, lambda: floors.open_and_select_image(path, wanted), rounds)
    return Measured("open the cache and get, warm", times, 3.0)


def prune(folder: Path, *, images: int = 10_000, rounds: int = 3) -> Measured:
    pairs = [_pruned(folder, images) for _ in range(rounds)]
    return Measured(f"prune of {images:,} images and {5 * images:,} files", timing.medians(pairs), 3.0)


def _pruned(folder: Path, images: int) -> tuple[float, float]:
    with _home(folder, images) as home:
        layout = Layout(home)
        paths = homes.files(home, images)
        connection = floors.connect(layout.database)
        (before,) = connection.execute("SELECT max(seq) FROM events").fetchone()
        os.sync()
        with ImageCache(home) as cache:
            began = time.perf_counter()
            report = cache.prune()
            ours = time.perf_counter() - began
        assert not any(os.path.lexists(path) for path in paths)
        (outcomes,) = connection.execute(
            "SELECT count(*) FROM deletion_outcome WHERE operation = ? AND outcome = 'deleted'",
            (report.operation,),
        ).fetchone()
        # One outcome for each file, and for each manifest's record.
        assert outcomes == 6 * images, outcomes
        appended = connection.execute(
            f"SELECT {floors.EVENT_COLUMNS} FROM events WHERE seq > ?", (before,)
        ).fetchall()
        connection.close()
        copy = floors.events_table(home / "floor.db", layout.database)
        homes.files(home, images)
        os.sync()
        began = time.perf_counter()
        floors.unlink(paths)
        floors.insert_rows(copy, "events", appended)
        floor = time.perf_counter() - began
        copy.close()
    return ours, floor


def cold(folder: Path, *, msb_cache: Path, rounds: int = 30) -> list[Measured]:
    """Processes that start: the program and the Python beside it, which must have it installed."""
    python = str(msb_cache.with_name("python"))
    with _home(folder, 5) as home:
        commands = {
            "list, cold process": ["list"],
            "history REF, cold process": ["history", homes.reference(1)],
        }
        return [
            Measured(
                name,
                timing.paired(
                    lambda command=command: _run([str(msb_cache), "--home", str(home), *command]),  # type: ignore[misc]
                    lambda: _run([python, "-c", "import click, sqlite3"]),
                    rounds,
                ),
                1.3,
            )
            for name, command in commands.items()
        ]


def first_line(folder: Path, long: Path, *, msb_cache: Path, rounds: int = 30) -> list[Measured]:
    """From the start of the command to its first line of output, in a long log and in one of 1,000 events."""

    def run(home: Path, arguments: Sequence[str]) -> None:
        command = [str(msb_cache), "--home", str(home), *arguments]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment()
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            process.kill()

    with _home(folder, 100, uses=8) as short:
        of_long, of_short = (["history", _some_reference(home)] for home in (long, short))
        since = ["events", "--since", "2000-01-01"]
        return [
            Measured(
                "first line of history REF, long log / 1,000 events",
                timing.paired(lambda: run(long, of_long), lambda: run(short, of_short), rounds),
                1.5,
            ),
            Measured(
                "first line of events --since, long log / 1,000 events",
                timing.paired(lambda: run(long, since), lambda: run(short, since), rounds),
                1.5,
            ),
        ]


def as_of(home: Path, *, rounds: int = 30) -> Measured:
    """Any position against a fold of the whole log, in seconds of CPU; the slowest position counts."""
    import random

    ledger = Ledger(Layout(home))
    with ledger.snapshot() as connection:
        assert connection is not None
        store = ledger.store(connection)
        head = store.head()
        assert head is not None
        began = time.process_time()
        live.fold_until(store)
        fold = time.process_time() - began
    ledger.close()
    chooser, slowest = random.Random(1), 0.0
    with ImageCache(home) as cache:
        cache.list(as_of=head.seq)  # whoever finds no snapshots makes them, once
        for _ in range(rounds):
            began = time.process_time()
            cache.list(as_of=chooser.randint(1, head.seq))
            slowest = max(slowest, time.process_time() - began)
    work = f"slowest of {rounds} positions of {head.seq:,} / a full fold (CPU)"
    return Measured(work, Paired(slowest, fold, slowest / fold, rounds), 1.0 / fold)


def load(folder: Path, *, msb: str, rounds: int = 7) -> Measured:
    source = str(inputs.archive(folder))
    commands = {
        "ours": [timing.MSB_CACHE, "load", "-i", source],
        "msb": [msb, "load", "--quiet", "-i", source],
    }
    return Measured("load of a docker archive / msb load", _commands(commands, rounds, folder), 0.5)


def pull(folder: Path, *, msb: str, rounds: int = 7) -> Measured:
    with inputs.registry(folder) as reference:
        commands = {
            "ours": [timing.MSB_CACHE, "pull", "--insecure", reference],
            "msb": [msb, "pull", "--insecure", "--quiet", reference],
        }
        return Measured("pull from loopback / msb pull", _commands(commands, rounds, folder), 1.0)


def _commands(commands: dict[str, list[str]], rounds: int, folder: Path) -> Paired:
    runs = timing.turns(commands, rounds, folder)
    return timing.medians(
        [(ours.wall, theirs.wall) for ours, theirs in zip(runs["ours"], runs["msb"], strict=True)]
    )


def _some_reference(home: Path) -> str:
    with ImageCache(home) as cache:
        return cache.list()[-1].reference


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=_environment())


def _environment() -> dict[str, str]:
    # Without it every start compiles the program anew.
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@contextmanager
def _home(folder: Path, images: int, *, uses: int = 0) -> Iterator[Path]:
    home = folder / f"home-{os.getpid()}-{images}"
    homes.index(home, images, uses=uses)
    try:
        yield home
    finally:
        shutil.rmtree(home)
