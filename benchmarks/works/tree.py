"""The Merkle tree over the log, in this process."""

from __future__ import annotations

from pathlib import Path

import floors
import homes
from setting import Setting
from table import Measured, measured
from timing import Run, cpu_seconds, timed, turns

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore import subtrees
from msb_cache.eventstore.ids import uuid7
from msb_cache.home.ledger import Ledger


def first(setting: Setting, *, images: int | None = None, rounds: int = 7) -> Measured:
    """The first checkpoint of a log of which nothing is kept yet; what it keeps is deleted before each."""
    if images is None:
        return _first(setting.long_log, rounds)
    with setting.home(images) as home:
        return _first(home, rounds)


def _first(home: Path, rounds: int) -> Measured:
    connection = floors.connect(Layout(home).database)
    with ImageCache(home) as cache:
        events = cache.checkpoint().size  # the home may be an older one, which is opened first
        checkpoint = timed(cache.checkpoint)

        def ours() -> Run:
            subtrees.forget(connection)
            return checkpoint()

        runs = turns({"ours": ours, "floor": timed(lambda: floors.hash_twice(connection))}, rounds)
        assert subtrees.is_kept(connection, events)
    connection.close()
    return measured(f"the first tree over {events:,} events / to read and hash them", runs, 2.0)


def append(setting: Setting, *, images: int = 1000, appends: int = 256, rounds: int = 60) -> Measured:
    """An append to a log of which the tree is kept, against one of which it is not, in CPU time."""
    with setting.home(images) as kept, setting.home(images) as bare:
        ledgers = [Ledger(Layout(home)) for home in (kept, bare)]
        with ledgers[1].write(uuid7()) as transaction:
            subtrees.forget(transaction.connection)  # to a log that lacks some, an append adds none

        def work(ledger: Ledger) -> Run:
            def appended() -> None:
                for number in range(appends):
                    with ledger.write(uuid7()) as transaction:
                        transaction.append([homes.used(number % images)])

            return Run(cpu_seconds(appended) / appends)

        runs = turns({"ours": lambda: work(ledgers[0]), "floor": lambda: work(ledgers[1])}, rounds)
        for ledger, wanted in zip(ledgers, (True, False), strict=True):
            with ledger.read() as connection:
                assert connection is not None
                head = ledger.store(connection).head()
                assert head is not None
                assert subtrees.is_kept(connection, head.seq) == wanted
            ledger.close()
    return measured("append one event, with the tree kept / without (CPU)", runs, 1.1)
