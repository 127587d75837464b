"""The log and the index, in this process."""

from __future__ import annotations

import random

import floors
import homes
import msgspec
from setting import Setting
from table import Measured, measured
from timing import Run, cpu_seconds, timed, turns

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore.events import EVENT_TYPES
from msb_cache.eventstore.ids import uuid7
from msb_cache.home.ledger import Ledger
from msb_cache.projections import live


def append(setting: Setting, *, images: int = 1000, rounds: int = 600) -> Measured:
    with setting.home(images) as home:
        ledger, table = Ledger(Layout(home)), floors.bare_table(home / "bare.db")
        numbers = iter(range(rounds + 1))

        def ours() -> None:
            with ledger.write(uuid7()) as transaction:
                transaction.append([homes.used(next(numbers) % images)])

        contenders = {"ours": timed(ours), "floor": timed(lambda: floors.append_row(table, "x" * 300))}
        runs = turns(contenders, rounds)
        ledger.close()
        table.close()
    return measured("append one event with its projections, durably", runs, 2.0)


def list_(setting: Setting, *, images: int = 10_000, rounds: int = 30) -> Measured:
    with setting.home(images) as home, ImageCache(home) as cache:
        connection = floors.connect(Layout(home).database)
        assert len(cache.list()) == len(floors.select_images(connection)) == images
        contenders = {"ours": timed(cache.list), "floor": timed(lambda: floors.select_images(connection))}
        runs = turns(contenders, rounds)
        connection.close()
    return measured(f"`list` of {images:,} images", runs, 3.0)


def get(setting: Setting, *, images: int = 10_000, rounds: int = 2000) -> Measured:
    wanted = homes.reference(images // 2)
    with setting.home(images) as home, ImageCache(home) as cache:
        connection = floors.connect(Layout(home).database)
        contenders = {
            "ours": timed(lambda: cache.get(wanted)),
            "floor": timed(lambda: floors.select_image(connection, wanted)),
        }
        runs = turns(contenders, rounds)
        connection.close()
    return measured("`get` on an open cache", runs, 4.0)


def open_and_get(setting: Setting, *, images: int = 10_000, rounds: int = 200) -> Measured:
    wanted = homes.reference(images // 2)
    with setting.home(images) as home:
        path = Layout(home).database

        def ours() -> None:
            with ImageCache(home) as cache:
                cache.get(wanted)

        contenders = {
            "ours": timed(ours),
            "floor": timed(lambda: floors.open_and_select_image(path, wanted)),
        }
        runs = turns(contenders, rounds)
    return measured("open the cache and `get`, warm", runs, 3.0)


def rebuild(setting: Setting, *, rounds: int = 10) -> Measured:
    home = setting.long_log
    decoders = {event.type: msgspec.json.Decoder(event).decode for event in EVENT_TYPES}
    connection = floors.connect(Layout(home).database)
    (events,) = connection.execute("SELECT count(*) FROM events").fetchone()
    with ImageCache(home) as cache:

        def ours() -> None:
            assert cache.rebuild() == []

        contenders = {
            "ours": timed(ours),
            "floor": timed(lambda: floors.decode_events(connection, decoders)),
        }
        runs = turns(contenders, rounds)
    connection.close()
    return measured(f"rebuild of {events:,} mixed events", runs, 3.0)


def report(setting: Setting, *, images: int = 1000, uses: int = 97, rounds: int = 10) -> Measured:
    """The first report of the past, which reads the whole log; the disk is not looked at."""
    decoders = {event.type: msgspec.json.Decoder(event).decode for event in EVENT_TYPES}
    with setting.home(images, uses=uses) as home:
        with ImageCache(home) as cache:
            position = cache.info().events
            assert cache.report(as_of=position).image_count == images  # and a copy of the index is made

        def ours() -> None:
            with ImageCache(home) as cache:
                cache.report(as_of=position, since="@1")

        connection = floors.connect(Layout(home).database)
        floor = timed(lambda: floors.decode_events(connection, decoders))
        runs = turns({"ours": timed(ours), "floor": floor}, rounds)
        connection.close()
    return measured(f"`report` of {position:,} events of {images:,} images / to read them", runs, 5.0)


def as_of(setting: Setting, *, rounds: int = 30) -> Measured:
    """Any position against a fold of the whole log, in seconds of CPU; the slowest position counts."""
    home = setting.long_log
    ledger = Ledger(Layout(home))
    with ledger.read() as connection:
        assert connection is not None
        store = ledger.store(connection)
        head = store.head()
        assert head is not None
        fold = cpu_seconds(lambda: live.fold_until(store))
    ledger.close()
    chooser, slowest = random.Random(1), 0.0
    with ImageCache(home) as cache:
        cache.list(as_of=head.seq)  # whoever finds no snapshots makes them, once
        for _ in range(rounds):
            slowest = max(slowest, cpu_seconds(lambda: cache.list(as_of=chooser.randint(1, head.seq))))
    work = f"slowest of {rounds} positions of {head.seq:,} / a full fold (CPU)"
    return Measured(work, Run(slowest), Run(fold), None, slowest / fold, 1.0 / fold, rounds)
