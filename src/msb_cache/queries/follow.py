"""Stay, and record what msb does as it happens.

A look costs two file statuses and a few small queries, so little that there are two a second; between two
looks nothing is held open in msb's database.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from msb_cache.eventstore.store import StoredEvent
from msb_cache.home.ledger import Ledger
from msb_cache.msb.sync import sync_before_reading
from msb_cache.waiting import pause

INTERVAL = 0.5
"""Seconds between two looks."""


def watch(
    ledger: Ledger,
    *,
    stopped: Callable[[], bool],
    note: Callable[[str], None],
    interval: float = INTERVAL,
) -> Iterator[StoredEvent]:
    """Yield every event that enters the log from now on, from whatever process.

    Args:
        ledger: the home; if msb keeps it, what msb does is recorded.
        stopped: asked after each look whether to end.
        note: gets a sentence when msb's database cannot be read, once until that changes.
        interval: seconds between two looks.
    """
    position = _position(ledger)
    for _ in looks(lambda: sync_before_reading(ledger), stopped=stopped, note=note, interval=interval):
        for event in _since(ledger, position):
            position = event.seq
            yield event


def looks(
    prepare: Callable[[], str | None],
    *,
    stopped: Callable[[], bool],
    note: Callable[[str], None],
    interval: float = INTERVAL,
) -> Iterator[None]:
    """Yield each time it is time to look, until ``stopped`` says so.

    Args:
        prepare: done before each look; returns a sentence if it cannot be, and the look is made all the same.
        stopped: asked after each look whether to end.
        note: gets such a sentence, once until it changes.
        interval: seconds between two looks.
    """
    noted = None
    while True:
        began = time.monotonic()
        sentence = prepare()
        if sentence is not None and sentence != noted:
            note(sentence)
        noted = sentence
        yield
        if stopped():
            return
        # Where a comparison is long (thousands of images) and msb writes all the time, it leaves room.
        pause(max(interval, 2 * (time.monotonic() - began)))
        if stopped():
            return


def _position(ledger: Ledger) -> int:
    with ledger.read() as connection:
        head = None if connection is None else ledger.store(connection).head()
    return 0 if head is None else head.seq


def _since(ledger: Ledger, position: int) -> list[StoredEvent]:
    with ledger.read() as connection:
        return [] if connection is None else [*ledger.store(connection).read(after=position)]
