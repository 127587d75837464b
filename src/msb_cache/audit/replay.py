"""Step through a log, this home's or another's, and find the event at which an index went wrong.

What an event does to the rows is the fold's business (``projections.replay``); here is where the events
come from: the home's own database, or a file from elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from msb_cache.audit import log_files
from msb_cache.audit.admit import admit
from msb_cache.audit.log_files import Rows
from msb_cache.errors import LogError
from msb_cache.eventstore.chain import Break, Checker, paged_rows
from msb_cache.eventstore.export import Row
from msb_cache.eventstore.store import StoredEvent, decode_row
from msb_cache.eventstore.upcasting import CATALOGUE
from msb_cache.home.ledger import Ledger
from msb_cache.projections import FOLD_VERSION
from msb_cache.projections.replay import Divergence, Replay, State, Step, divergences
from msb_cache.shapes import Result

Broken = Callable[[Break], None]
"""Told where a log does not verify."""


@dataclass(frozen=True)
class Comparison(Result):
    """A state compared with the fold of a log, at the state's position ``seq``; no divergence: they agree.

    ``step`` is the first event from which on they differ for good, and what it changed; None if they
    agree, or no event of the log has to do with it.
    """

    seq: int
    divergences: list[Divergence]
    step: Step | None

    def _shape(self) -> dict[str, Any]:
        return {"seq": self.seq, "first": self.step, "differences": self.divergences}


class Log:
    """A log to step through; ``opened`` makes it."""

    def __init__(self, rows: Rows, decode: Callable[[Row], StoredEvent], broken: Broken) -> None:
        self._rows = rows
        self._decode = decode
        self._broken = broken

    def steps(self, *, after: int = 0, until: int | None = None) -> Iterator[Step]:
        """Yield each event behind position ``after`` up to ``until`` (None: the end) with its changes."""
        replay = Replay()
        for event in self._events(until):
            step = replay.step(event)
            if event.seq > after:
                yield step

    def state(self, until: int | None = None) -> State:
        """Return the fold of the log up to a position, or of the whole log.

        Raises:
            LogError: the log does not reach that position.
        """
        if until is not None and until < 1:
            raise LogError("a state is that of event 1 or a later one")
        replay, log_id = Replay(), ""
        for event in self._events(until):
            log_id = log_id or event.subject
            replay.step(event)
        if until is not None and event.seq < until:
            raise LogError(f"the log ends at event {event.seq}")
        return State(
            log_id=log_id,
            seq=event.seq,
            hash=event.hash.hex(),
            fold_version=FOLD_VERSION,
            tables=replay.tables(),
        )

    def compare(self, state: State) -> Comparison:
        """Find the first event after which the fold and a state differ for good.

        Raises:
            LogError: the state is of another log, of another release's fold, or of a later position.
        """
        if state.fold_version != FOLD_VERSION:
            raise LogError(
                f"the state was folded by another release (fold {state.fold_version}, this one is "
                f"{FOLD_VERSION}), so its rows cannot be compared"
            )
        self._check_same(state)
        found = divergences(lambda: self._events(state.seq), state)
        first = next((divergence.seq for divergence in found if divergence.seq), None)
        step = None if first is None else next(self.steps(after=first - 1, until=first), None)
        return Comparison(state.seq, found, step)

    def _check_same(self, state: State) -> None:
        seq, last, log_id = 0, b"", ""
        for row, stored in islice(self._rows(), max(state.seq, 1)):
            log_id = log_id or str(row[4])
            seq, last = seq + 1, stored
        if log_id != state.log_id:
            raise LogError(f"the state is of another log: its id is {state.log_id!r}, this one's {log_id!r}")
        if seq < state.seq:
            raise LogError(f"the state is of event {state.seq}, and the log ends at event {seq}")
        if state.hash is not None and last.hex() != state.hash:
            raise LogError(
                f"the two logs differ at event {seq} or before: their hashes are not the same there"
            )

    def _events(self, until: int | None) -> Iterator[StoredEvent]:
        checker: Checker | None = Checker()
        event = None
        for row, stored in self._rows():
            event = self._decode((row, stored))
            if until is not None and event.seq > until:
                return
            found = None if checker is None else checker.check(row, stored)
            if found is not None:
                checker = None
                self._broken(found)
            yield event
        if event is None:
            raise LogError("the log is empty")


@contextmanager
def opened(ledger: Ledger, path: str | os.PathLike[str] | None, broken: Broken) -> Iterator[Log]:
    """Open a log.

    Args:
        ledger: the home.
        path: a database or an export whose log to read instead of the home's.
        broken: told of the first event that does not verify; reading goes on.

    Raises:
        LogError: there is none, or it cannot be read.
    """
    if path is not None:
        with log_files.opened(Path(path)) as rows:
            yield Log(rows, admit, broken)
        return
    with ledger.read() as connection:
        if connection is None:
            raise LogError(f"{ledger.layout.home} has no log yet")
        head = ledger.store(connection).head()
    yield Log(lambda: paged_rows(ledger.read, 0, head.seq if head else 0), _own, broken)


def _own(row: Row) -> StoredEvent:
    return decode_row((*row[0], row[1]), CATALOGUE.decode)
