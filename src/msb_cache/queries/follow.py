"""Stay, and record what msb does as it happens.

A look costs two file statuses and a few small queries, so little that there are two a second; between two
looks nothing is held open in msb's database.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from msb_cache.artifacts.locks import Lease
from msb_cache.errors import BusyError, LogError
from msb_cache.eventstore.store import StoredEvent
from msb_cache.home.ledger import Ledger
from msb_cache.memory import give_back
from msb_cache.msb.sync import sync_before_reading
from msb_cache.waiting import over, pause

if TYPE_CHECKING:
    from msb_cache.engines.background import Background
    from msb_cache.msb.witness import Witness

INTERVAL = 0.5
"""Seconds between two looks."""

_SHOW_SECONDS = 1.0
_DIGEST_SECONDS = 0.02
"""For so long files are read between two looks: more would make it late for what happens."""

_QUIET_SECONDS = 15.0
"""When nothing has happened for so long, the memory that it took to record it is given back."""


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
    last: float | None = time.monotonic()
    with closing(_Watch(ledger, note)) as each:
        for _ in looks(each.look, stopped=stopped, note=note, interval=interval, rest=each.rest):
            for event in _since(ledger, position):
                position, last = event.seq, time.monotonic()
                yield event
            if last is not None and time.monotonic() - last > _QUIET_SECONDS:
                ledger.shrink()
                give_back()
                last = None


class _Watch:
    """Records what msb does, and who did it where that is known."""

    def __init__(self, ledger: Ledger, note: Callable[[str], None]) -> None:
        self._ledger = ledger
        self._note = note
        self._witness: Witness | None = None
        self._asked = False
        self._background: Background | None = None
        self._unrecorded: str | None = None
        self._lease: Lease | None = None

    def look(self) -> str | None:
        """Record what msb did since the last look; return a sentence if that cannot be done."""
        if not self._asked and self._ledger.owned_by_msb:
            self._asked = True
            self._show()
            self._ask()
        forced = False
        if self._witness is not None:
            try:
                forced = self._witness.begin()
            except OSError as error:
                self._give_up(error)
        if self._witness is None:
            return sync_before_reading(self._ledger)
        sentence = sync_before_reading(self._ledger, force=forced, witness=self._witness)
        self._witness.end(recorded=sentence is None)
        return sentence

    def rest(self, seconds: float) -> None:
        """Take digests that the log lacks for a moment, and wait for the next look."""
        self._digest()
        (pause if self._witness is None else self._witness.rest)(seconds)

    def close(self) -> None:
        """End following msb's database, and taking digests."""
        if self._background is not None:
            self._background.close()
            self._background = None
        self._end_following()
        if self._lease is not None:
            self._lease.release()

    def _show(self) -> None:
        """Share a lock for as long as this runs, by which ``doctor`` sees that one does.

        That looks whether it is free, which takes it for a moment. Where it cannot be had, none is missed: a
        user who cannot make it cannot record anything either, and is told so.
        """
        lease = Lease(self._ledger.layout.watch_lock)
        with suppress(OSError):
            if lease.acquire(wait=_SHOW_SECONDS):
                self._lease = lease

    def _end_following(self) -> None:
        if self._witness is not None:
            self._witness.close()
            self._witness = None

    def _digest(self) -> None:
        if self._background is None:
            from msb_cache.engines.background import Background

            self._background = Background(self._ledger)
        try:
            self._background.step(_DIGEST_SECONDS)
        except (LogError, BusyError) as error:
            if str(error) != self._unrecorded:
                self._note(f"the digests of files cannot be recorded: {error}")
            self._unrecorded = str(error)

    def _ask(self) -> None:
        from msb_cache.msb.witness import Witness

        try:
            self._witness = Witness(self._ledger.layout, self._ledger.actor)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        from msb_cache.msb.witness import why_not

        self._end_following()
        self._note(why_not(error))


def looks(
    prepare: Callable[[], str | None],
    *,
    stopped: Callable[[], bool],
    note: Callable[[str], None],
    interval: float = INTERVAL,
    rest: Callable[[float], None] | None = None,
) -> Iterator[None]:
    """Yield each time it is time to look, until ``stopped`` says so.

    Args:
        prepare: done before each look; returns a sentence if it cannot be, and the look is made all the same.
        stopped: asked after each look whether to end.
        note: gets such a sentence, once until it changes.
        interval: seconds between two looks.
        rest: waits for so many seconds, or for less where there is something to see; None: ``pause``.
    """
    noted = None
    while True:
        began = time.monotonic()
        sentence = prepare()
        if sentence is not None and sentence != noted:
            note(sentence)
        noted = sentence
        yield
        if over(stopped):
            return
        # Where a comparison is long (thousands of images) and msb writes all the time, it leaves room.
        took = time.monotonic() - began
        if took > interval:
            pause(took)
        (rest or pause)(max(interval, took))
        if over(stopped):
            return


def _position(ledger: Ledger) -> int:
    with ledger.read() as connection:
        head = None if connection is None else ledger.store(connection).head()
    return 0 if head is None else head.seq


def _since(ledger: Ledger, position: int) -> list[StoredEvent]:
    with ledger.read() as connection:
        return [] if connection is None else [*ledger.store(connection).read(after=position)]
