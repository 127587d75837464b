"""Chronicles of logs that tests write, and their cuts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from msb_cache.eventstore.store import EventStore, NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.report.chronicle import Chronicle
from msb_cache.report.cut import Cut
from tests.logs import new_ledger

START = 1_800_000_000_000_000_000


@contextmanager
def chronicle_of(ledger: Ledger) -> Iterator[tuple[Chronicle, EventStore]]:
    """Give the chronicle of a log, with the log."""
    with ledger.read() as connection:
        assert connection is not None
        store = ledger.store(connection)
        head = store.head()
        assert head is not None
        chronicle = Chronicle()
        chronicle.extend(store, head.seq)
        yield chronicle, store


@contextmanager
def cut_of(
    folder: Path, events: Sequence[NewEvent], *, until: int | None = None, after: int = 0, people: bool = True
) -> Iterator[tuple[Cut, EventStore]]:
    """Give the cut of a log with these events, a second apart, from a position on up to one; None: all."""
    with chronicle_of(new_ledger(folder, events)) as (chronicle, store):
        last = chronicle.seq if until is None else until
        since_ns = chronicle.at_ns(after + 1) if after else 0
        yield Cut(chronicle, last, after, since_ns, chronicle.at_ns(last), people), store
