"""Events of the log delivered to a receiver as CloudEvents: in order, each at least once.

What fits is sent in the order of the log, and the next one only after the one before was taken. How far that
has come is kept in a file after it was taken, so what a killed process had sent since is sent once more, with
the same ids.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from msb_cache.errors import DeliveryError, InvalidConfigError
from msb_cache.interchange.cloudevents import BATCH, JSON, CloudEvents
from msb_cache.interchange.position import Position, PositionFile, position_at, usual_path
from msb_cache.interchange.privacy import Privacy
from msb_cache.interchange.receiver import WebhookReceiver
from msb_cache.interchange.webhook import GONE, TOO_LARGE, NotTakenError, RefusedError, Webhook
from msb_cache.queries.events import Filters, Query, Span
from msb_cache.queries.follow import looks
from msb_cache.shapes import Result
from msb_cache.waiting import end_if_asked, ended_by, pause

if TYPE_CHECKING:
    import sqlite3

    from msb_cache.eventstore.store import EventStore, StoredEvent
    from msb_cache.home.ledger import Ledger
    from msb_cache.session import Session
    from msb_cache.waiting import Note

MOST_IN_BATCH = 1000
MOST_BATCH_BYTES = 1 << 20
"""So many bytes a batch has at most, unless one event alone has more."""

FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0
"""Seconds between two tries: the first, and then twice as long each time, up to the last."""
LONGEST_ASKED = 3600.0
"""For so many seconds a receiver's Retry-After is heeded."""

_PAGE, _PAGE_BYTES = 500, 1 << 20
"""So many events are in memory at a time, or those that together first have more bytes."""
_KEEP_SECONDS = 0.2
"""While many are sent, the position is written so often; a process that is killed sends those since again."""


class Posted(Result, msgspec.Struct, frozen=True):
    """What was delivered.

    Attributes:
        events: how many.
        seq: the last position of the log that has been delivered, also by earlier calls; 0: none.
        position: the file that says so, too.
    """

    events: int
    seq: int
    position: str


def post(
    session: Session,
    filters: Filters,
    receiver: WebhookReceiver | str,
    *,
    position: str | os.PathLike[str] | None,
    batch: int | None,
    follow: bool,
    privacy: Privacy,
    stopped: Callable[[], bool],
    interval: float,
) -> Posted:
    """Deliver what fits and was not delivered yet, and with ``follow`` what comes, until ``stopped`` says so.

    Args: as of ``ImageCache.post_events``.

    Raises:
        BusyError: another process delivers from this position.
        DeliveryError: the receiver refuses an event, or wants no more, or the position is of another log.
        InvalidConfigError: an argument makes no sense, or the position cannot be read.
    """
    if batch is not None and not 1 <= batch <= MOST_IN_BATCH:
        raise InvalidConfigError(f"a batch has 1 to {MOST_IN_BATCH} events, not {batch}")
    if filters.get("reverse") or (follow and filters.get("until") is not None):
        raise InvalidConfigError(
            "events are delivered oldest first, and what is followed has no end; "
            "leave `reverse` and `until` out"
        )
    query = Query(filters, session.ledger.clock())
    from_end = follow and not query.has_beginning
    if isinstance(receiver, str):
        receiver = WebhookReceiver(receiver)
    path = usual_path(session.layout.home, receiver.url) if position is None else Path(position)
    with ended_by(stopped), PositionFile(path) as kept, Webhook(receiver, session.note) as webhook:
        source = _Source(session.ledger, query, kept, privacy, from_end=from_end)
        sender = _Sender(webhook, receiver.name, kept, session.note, batch)
        turns = _once(session)
        if follow:
            turns = looks(session.recorded, stopped=stopped, note=session.note, interval=interval)
        try:
            for _ in turns:
                for event in source.events():
                    sender.add(event)
                sender.flush()
                if source.is_over:
                    break
        except KeyboardInterrupt:
            if not stopped():
                raise
        finally:
            sender.keep()
        return Posted(sender.delivered, 0 if kept.position is None else kept.position.seq, str(kept.path))


def _once(session: Session) -> Iterator[None]:
    session.observe()
    yield


class _Ready(NamedTuple):
    """An event as it is sent, and the position behind it."""

    id: str
    body: bytes
    behind: Position


class _Source:
    """What fits and was not read yet, in pages; between them no transaction is open.

    Args:
        ledger: the home.
        query: what fits; its direction does not matter.
        kept: how far events were delivered. Without a position it gets one, so that what comes from now on
            is not missed if this process is killed before it has delivered any.
        privacy: what of an event is told.
        from_end: without a position, what there is already is left out.
    """

    def __init__(
        self, ledger: Ledger, query: Query, kept: PositionFile, privacy: Privacy, *, from_end: bool
    ) -> None:
        self._ledger, self._query, self._kept, self._privacy = ledger, query, kept, privacy
        self._from_end = from_end
        self._read, self._left = 0, query.limit

    @property
    def is_over(self) -> bool:
        """Whether as many were read as were asked for."""
        return self._left == 0

    def events(self) -> Iterator[_Ready]:
        """Yield what there is now."""
        while page := self._page():
            yield from page

    def _page(self) -> list[_Ready]:
        if self.is_over:
            return []
        with self._ledger.read() as connection:
            if connection is None:
                if self._from_end and self._kept.position is None:
                    self._kept.save(Position(None, 0, ""))  # it begins before the first event
                return []
            store = self._ledger.store(connection)
            begin = self._query.first(store)
            position = self._position(connection, store, begin)
            after = max(self._read, begin, position.seq)
            most = _PAGE if self._left is None else min(_PAGE, self._left)
            span = Span(after, self._query.last(store), most)
            page = self._rendered(position.log or "", self._query.events(connection, store, span))
        # What fits nowhere is looked at once, and not at each look: no index may serve what was asked for.
        self._read = page[-1].behind.seq if page else max(after, span.until)
        self._left = None if self._left is None else self._left - len(page)
        return page

    def _rendered(self, log: str, found: Iterator[StoredEvent]) -> list[_Ready]:
        render = CloudEvents(log, self._privacy).of
        page: list[_Ready] = []
        size = 0
        for event in found:
            body = msgspec.json.encode(render(event))
            page.append(_Ready(event.id, body, Position(log, event.seq, event.hash.hex())))
            size += len(body)
            if size >= _PAGE_BYTES:
                break
        return page

    def _position(self, connection: sqlite3.Connection, store: EventStore, begin: int) -> Position:
        """Return how far events were delivered, in a log that goes on from there."""
        found = self._kept.position
        if found is None or found.log is None:
            head = store.head()
            end = 0 if head is None else head.seq
            found = position_at(connection, end if self._from_end and found is None else min(begin, end))
            self._kept.save(found)
        self._kept.check(connection)
        return found


class _Sender:
    """Sends events, one by one or in batches, until each is taken.

    Args:
        webhook: the line to the receiver.
        name: the receiver's.
        kept: how far events were delivered.
        note: told when the receiver takes none, once until that changes, and when it does again.
        batch: at most so many in a request; None: each has one of its own.
    """

    def __init__(
        self, webhook: Webhook, name: str, kept: PositionFile, note: Note, batch: int | None
    ) -> None:
        self._webhook, self._name, self._kept, self._note = webhook, name, kept, note
        self._batch = batch
        self._waiting: list[_Ready] = []
        self._bytes = 0
        self._behind: Position | None = None
        self._kept_at = time.monotonic()
        self._said: str | None = None
        self.delivered = 0

    def add(self, event: _Ready) -> None:
        """Send an event, or put it into the batch that is sent when it is full."""
        if self._waiting and self._bytes + len(event.body) + 2 > MOST_BATCH_BYTES:
            self._send()
        self._waiting.append(event)
        self._bytes += len(event.body) + 1
        if len(self._waiting) >= (self._batch or 1):
            self._send()

    def flush(self) -> None:
        """Send what waits for more, and write down how far it has come."""
        self._send()
        self.keep()

    def keep(self) -> None:
        """Write down how far it has come."""
        behind, self._behind = self._behind, None
        if behind is not None:
            self._kept.save(behind)
            self._kept_at = time.monotonic()

    def _send(self) -> None:
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        if waiting:
            self._deliver(waiting)

    def _deliver(self, events: Sequence[_Ready]) -> None:
        """Send events in one request; in several where the receiver says that it is too large."""
        try:
            self._until_taken(events)
        except RefusedError as refusal:
            if refusal.status == TOO_LARGE and len(events) > 1:
                middle = len(events) // 2
                self._deliver(events[:middle])
                self._deliver(events[middle:])
                return
            raise self._refused(refusal, events) from None
        self._behind = events[-1].behind
        self.delivered += len(events)
        if time.monotonic() - self._kept_at > _KEEP_SECONDS:
            self.keep()
        end_if_asked()

    def _until_taken(self, events: Sequence[_Ready]) -> None:
        if self._batch is None:
            content_type, body = JSON, events[0].body
        else:
            content_type, body = BATCH, b"[%b]" % b",".join(event.body for event in events)
        tries = 0
        while True:
            try:
                self._webhook.post(_identifier(events), content_type, body)
                break
            except NotTakenError as failure:
                self.keep()
                self._say(str(failure), events[0].behind.seq)
                pause(wait(tries, failure.wait))
                end_if_asked()
                tries += 1
        if self._said is not None:
            self._note(f"{self._name} takes events again")
            self._said = None

    def _say(self, problem: str, seq: int) -> None:
        if problem != self._said:
            self._note(
                f"{problem}; event {seq} and what follows wait, and are sent again until they are taken"
            )
        self._said = problem

    def _refused(self, refusal: RefusedError, events: Sequence[_Ready]) -> DeliveryError:
        first, last = events[0].behind.seq, events[-1].behind.seq
        if refusal.status == GONE:
            return DeliveryError(
                f"{self._name} wants no more events ({refusal}); event {first} was not delivered: "
                "end what sends them, or give another URL",
                status=refusal.status,
                seq=first,
            )
        which = f"event {first}" if first == last else f"one of the events {first} to {last}"
        return DeliveryError(
            f"{self._name} refuses {which} ({refusal}); mend that, or leave it out with --since @{last + 1}",
            status=refusal.status,
            seq=first,
        )


def _identifier(events: Sequence[_Ready]) -> str:
    """Return the same id whenever the same events are sent together, which other events never have."""
    if len(events) == 1:
        return events[0].id
    return f"batch_{hashlib.sha256(' '.join(event.id for event in events).encode()).hexdigest()[:32]}"


def wait(tries: int, asked: float | None) -> float:
    """Return how many seconds to wait after so many tries; not all senders at the same time."""
    longest = min(FIRST_WAIT * 2.0 ** min(tries, 32), LONGEST_WAIT)
    return max(longest * random.uniform(0.5, 1.0), min(asked or 0.0, LONGEST_ASKED))  # noqa: S311
