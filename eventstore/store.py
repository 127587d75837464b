"""Append to the log and read from it. The table itself is made by ``migrations``."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, cast

import msgspec

from msb_cache.errors import CorruptLogError, LogError
from msb_cache.eventstore.events import Event, EventData, LogCreated
from msb_cache.eventstore.ids import moment_of, time_of, uuid7s
from msb_cache.eventstore.row import COLUMNS, GENESIS, Value, misfit
from msb_cache.eventstore.upcasting import CATALOGUE, Catalogue
from msb_cache.eventstore.where import ANYTHING, Where
from msb_cache.shapes import Result

if TYPE_CHECKING:
    from msb_cache.eventstore.clock import Uptime

FORMAT = 1
"""The log format that ``log.created`` names: the columns and the hash encoding."""

_LAST = 2**63 - 1

MAX_DATA = 4 * 1024 * 1024
"""The most bytes one event's data may have; longer lists are split into numbered parts."""

Clock = Callable[[], int]

_ALL = ", ".join((*COLUMNS, "hash"))
INSERT = f"INSERT INTO events ({_ALL}) VALUES ({', '.join('?' * (len(COLUMNS) + 1))})"  # noqa: S608
"""Puts a stored row, its hashed columns and its hash, into the log; ``append`` makes new ones."""
_FACT = ("seq", "type", "version", "subject", "operation", "occurred_at", "data")
# What the index of this name has, in the same words, or SQLite would not use it. In a log whose clock never
# went back that is nothing.
_BEHIND = "id < printf('%08x-%04x', recorded_at / 65536000000, recorded_at / 1000000 % 65536)"
_LAST_BEHIND = f"SELECT max(seq) FROM events INDEXED BY events_behind WHERE {_BEHIND} AND id < ?"  # noqa: S608
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encode = msgspec.json.Encoder().encode


def as_datetime(time_ns: int) -> datetime:
    """Return a time in ns since the epoch as an aware UTC time, to the µs."""
    # Integer arithmetic: a float of seconds cannot hold today's microseconds exactly.
    return _EPOCH + timedelta(microseconds=time_ns // 1000)


def _unknown() -> None:
    return None


class Actor(
    Result, msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, repr_omit_defaults=True, gc=False
):
    """Who did it. What the kernel says stands apart from what the caller says, which is not checked.

    None: not known, or there is none.

    Attributes:
        user: the name of the user that the process ran as.
        uid: that user's number.
        host: the machine's name.
        program: a program's name, perhaps with a word that says what it did; never its arguments.
        reason: why, as a person gave it.
        observed: it was seen to have happened, done by another program.
        login: the name of the user who logged in, which ``sudo`` does not change.
        login_uid: that user's number.
        unit: the systemd unit that the process belonged to; within a user's own manager, as
            ``user@1000.service/backup.service``.
        container: the container in which the process ran: ``docker:`` and the beginning of its id.
        parent: the program that started that one, where ``observed`` says who it was.
        seen_by: the process that recorded this, where the actor is the observed one. Else, where something
            was observed, all of the above says who saw it.
        claimed: what the caller said of itself, by name: its environment's word and ``context``.
    """

    _is_plain: ClassVar[bool] = True
    user: str
    uid: int
    host: str
    program: str
    reason: str | None = None
    observed: bool = False
    login: str | None = None
    login_uid: int | None = None
    unit: str | None = None
    container: str | None = None
    parent: str | None = None
    seen_by: str | None = None
    claimed: dict[str, str] | None = None

    def _shape(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


class NewEvent(msgspec.Struct, frozen=True, gc=False):
    """An event about to be appended; ``occurred_at_ns`` None means now."""

    event: Event
    subject: str
    occurred_at_ns: int | None = None


class StoredEvent(Result, msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event as the log has it, with its envelope. Times are nanoseconds since the epoch, UTC."""

    seq: int
    id: str
    type: str
    version: int
    subject: str
    operation: str
    occurred_at_ns: int
    recorded_at_ns: int
    actor: Actor
    data: EventData
    hash: bytes

    @property
    def occurred_at(self) -> datetime:
        """When it happened (UTC, microseconds; ``occurred_at_ns`` has all nine digits)."""
        return as_datetime(self.occurred_at_ns)

    @property
    def recorded_at(self) -> datetime:
        """When it was appended (UTC, microseconds); never before the previous event's."""
        return as_datetime(self.recorded_at_ns)


class PlainFact(msgspec.Struct, frozen=True, gc=False):
    """As much of a stored event as a fold needs."""

    seq: int
    subject: str
    operation: str
    occurred_at_ns: int
    data: EventData


Fact = StoredEvent | PlainFact
"""What a fold looks at: a stored event, or as much of one as a fold needs."""


class Head(msgspec.Struct, frozen=True):
    """The end of the log: the last event's position, hash and recording time."""

    seq: int
    hash: bytes
    recorded_at_ns: int


_actor_decoder = msgspec.json.Decoder(Actor)


@lru_cache(maxsize=256)
def _decode_actor(text: str) -> Actor:
    # A log has few actors and runs of events share theirs.
    try:
        return _actor_decoder.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise CorruptLogError(f"the log holds a damaged actor: {error}") from None


def decode_row(row: Sequence[Any], decode: Callable[[str, int, str], EventData]) -> StoredEvent:
    """Return a stored row (its columns and its hash) as the event it holds.

    Raises:
        UnknownEventError, CorruptLogError: it cannot be decoded.
    """
    seq, identifier, type_, version, subject, op, occurred, recorded, actor_text, data, digest = row
    odd = misfit(row[:-1])
    if odd is not None or type(digest) is not bytes:
        raise CorruptLogError(f"event {seq!r} is damaged: {odd or 'its hash is no blob'}")
    return StoredEvent(
        seq=seq,
        id=identifier,
        type=type_,
        version=version,
        subject=subject,
        operation=op,
        occurred_at_ns=occurred,
        recorded_at_ns=recorded,
        actor=_decode_actor(actor_text),
        data=decode(type_, version, data),
        hash=digest,
    )


class EventStore:
    """The log in one SQLite database.

    Args:
        connection: a connection in autocommit mode (``isolation_level=None``); the caller begins and
            commits transactions, so that an append and what it changes commit together.
        clock: nanoseconds since the epoch.
        uptime: the machine's own time, which tells when ``clock`` jumps forward; None: not known.
        catalogue: the event types to decode.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        clock: Clock = time.time_ns,
        uptime: Uptime | None = None,
        catalogue: Catalogue = CATALOGUE,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._uptime = uptime or _unknown
        self._catalogue = catalogue

    def head(self) -> Head | None:
        """Return the end of the log, or None when it is empty."""
        row = self._connection.execute(
            "SELECT seq, hash, recorded_at FROM events ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        return Head(*row) if row else None

    def append(self, events: Sequence[NewEvent], *, operation: str, actor: Actor) -> list[StoredEvent]:
        """Append events in the given order, within the caller's write transaction.

        The first append of a log puts ``log.created`` before them, and one that finds that the clock has
        jumped ``clock.jumped``. All have one reading of the clock, which is in their ids and is their
        ``occurred_at`` where none is given, and one ``recorded_at``: that reading, or the previous event's
        if the clock went backwards.

        Returns:
            What was appended, what was put before it included.

        Raises:
            LogError: no transaction is open, an event is of no known type, or its data is over 4 MiB. Nothing
                is appended.
        """
        from msb_cache.eventstore.chain import link
        from msb_cache.eventstore.clock import jump
        from msb_cache.eventstore.subtrees import keep_up

        if not self._connection.in_transaction:
            raise LogError("events are appended within a transaction, and none is open")
        head = self.head()
        now = max(0, self._clock())  # a log has no times before the epoch, whatever a wrong clock says
        if head is None:
            log_id = os.urandom(16).hex()
            events = [NewEvent(LogCreated(log_id=log_id, format=FORMAT), log_id), *events]
            head = Head(0, GENESIS, now)
        jumped = jump(self._connection, self, (head.seq, head.recorded_at_ns), now, self._uptime)
        if jumped is not None:
            (log_id,) = self._connection.execute("SELECT subject FROM events WHERE seq = 1").fetchone()
            events = [NewEvent(jumped, log_id), *events]
        recorded_at = max(now, head.recorded_at_ns)
        actor_json = _encode(actor).decode()
        seq, digest = head.seq, head.hash
        rows: list[tuple[Value, ...]] = []
        stored: list[StoredEvent] = []
        for identifier, new in zip(uuid7s(len(events), now), events, strict=True):
            event, subject, occurred_at = new.event, new.subject, new.occurred_at_ns
            if event not in self._catalogue:
                raise LogError(f"{event.type} is in no catalogue of events: the log could not be read again")
            data = _encode(event)
            if len(data) > MAX_DATA:
                raise LogError(
                    f"a {event.type} event about {subject} has {len(data)} bytes of data; "
                    f"the log takes at most {MAX_DATA}"
                )
            seq += 1
            occurred = now if occurred_at is None else occurred_at
            row = (
                seq,
                identifier,
                event.type,
                event.version,
                subject,
                operation,
                occurred,
                recorded_at,
                actor_json,
                data.decode(),
            )
            digest = link(digest, row)
            rows.append((*row, digest))
            stored.append(
                StoredEvent(
                    seq=seq,
                    id=identifier,
                    type=event.type,
                    version=event.version,
                    subject=subject,
                    operation=operation,
                    occurred_at_ns=occurred,
                    recorded_at_ns=recorded_at,
                    actor=actor,
                    data=cast("EventData", event),  # the catalogue has its type
                    hash=digest,
                )
            )
        self._connection.executemany(INSERT, rows)
        keep_up(self._connection, head.seq, seq)
        return stored

    def read(
        self,
        *,
        after: int = 0,
        until: int | None = None,
        types: Iterable[str] | None = None,
        subjects: Iterable[str] | None = None,
        operation: str | None = None,
        where: Where = ANYTHING,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[StoredEvent]:
        """Yield the events that fit every given condition, in position order.

        Args:
            after: only positions greater than this.
            until: only positions up to and including this.
            types: only these event types.
            subjects: only events about these.
            operation: only events of this operation.
            where: what else an event must fit; no index serves it, so it is asked of each event in turn.
            reverse: newest first.
            limit: at most this many.

        Raises:
            UnknownEventError, CorruptLogError: on reaching an event that cannot be decoded.
        """
        chosen = None if types is None else list(dict.fromkeys(types))
        indexed = subjects is not None or operation is not None
        if chosen is not None and len(chosen) != 1 and not indexed:
            import heapq  # which most commands that read need not

            # The index by type has each type in position order, but not several: they are merged.
            streams = [
                self.read(after=after, until=until, types=[name], where=where, reverse=reverse, limit=limit)
                for name in chosen
            ]
            merged = heapq.merge(*streams, key=lambda event: event.seq, reverse=reverse)
            yield from merged if limit is None else islice(merged, limit)
            return
        conditions, arguments = where.sql()
        for condition, value in (
            ("seq > ?", after or None),
            ("seq <= ?", until),
            ("operation = ?", operation),
        ):
            if value is not None:
                conditions.append(condition)
                arguments.append(value)
        if subjects is not None:
            about = list(subjects)
            # One subject comes out of its index in position order; several have to be sorted.
            single = len(about) == 1
            conditions.append("subject = ?" if single else "subject IN (SELECT value FROM json_each(?))")
            arguments.append(about[0] if single else _encode(about).decode())
        if chosen is not None:
            # An operation (with subjects) or subjects choose the index: a type can have a million events.
            # A unary plus keeps SQLite from choosing another one.
            plus = "+" if indexed else ""
            conditions.append(f"{plus}type IN ({', '.join('?' * len(chosen))})")
            arguments.extend(chosen)
        query = f"SELECT {_ALL} FROM events WHERE {' AND '.join(conditions) or '1'} ORDER BY seq"  # noqa: S608
        if reverse:
            query += " DESC"
        if limit is not None:
            query += " LIMIT ?"
            arguments.append(limit)
        decode = self._catalogue.decode
        for row in self._connection.execute(query, arguments):
            yield decode_row(row, decode)

    def at(self, seq: int) -> StoredEvent | None:
        """Return the event at this position, None if the log has none; raises as ``read``."""
        return next(self.read(after=seq - 1, until=seq), None)

    def facts(self, *, after: int = 0, until: int | None = None) -> Iterator[Fact]:
        """Yield what a fold needs of each event, in position order.

        Half of ``read``'s time goes into columns that no fold looks at: who, when recorded, ids, hashes.

        Args:
            after: only positions greater than this.
            until: only positions up to and including this.

        Raises:
            UnknownEventError, CorruptLogError: as ``read``, for the columns that are looked at.
        """
        query = f"SELECT {', '.join(_FACT)} FROM events WHERE seq > ? AND seq <= ? ORDER BY seq"  # noqa: S608
        decode = self._catalogue.decode
        for row in self._connection.execute(query, (after, _LAST if until is None else until)):
            seq, type_, version, subject, operation, occurred, data = row
            texts = type(type_) is type(subject) is type(operation) is type(data) is str
            if not texts or type(version) is not int or type(occurred) is not int:
                yield from self.read(after=seq - 1, until=seq)  # which says what is wrong with it
                continue
            yield PlainFact(seq, subject, operation, occurred, decode(type_, version, data))

    def fits(self, seq: int, where: Where) -> bool:
        """Return whether the event at this position fits."""
        conditions, arguments = where.sql()
        if not conditions:
            return True
        query = f"SELECT 1 FROM events WHERE seq = ? AND {' AND '.join(conditions)}"  # noqa: S608
        return self._connection.execute(query, [seq, *arguments]).fetchone() is not None

    def reading(self, seq: int) -> int:
        """Return what the clock said when an event was appended, in ns since the epoch.

        That is its ``recorded_at``; where the clock was behind that, it is known to the millisecond.
        """
        recorded, identifier, behind = self._connection.execute(
            f"SELECT recorded_at, id, {_BEHIND} FROM events WHERE seq = ?",  # noqa: S608
            (seq,),
        ).fetchone()
        return time_of(identifier) if behind else int(recorded)

    def position_at(self, time_ns: int) -> int:
        """Return the last position appended when the clock said ``time_ns`` or less; 0: there is none.

        The clock's reading at an append is the event's ``recorded_at``, unless the clock was behind that of
        the event before: then the id has it, to the millisecond. So the answer is the last position recorded
        by then (these times rise with the positions, and are searched by halves), or a later one that was
        appended after the clock had gone back.
        """
        if time_ns < 0:
            return 0
        head = self.head()
        low, high = 0, head.seq if head else 0
        while low < high:
            middle = (low + high + 1) // 2
            (recorded,) = self._connection.execute(
                "SELECT recorded_at FROM events WHERE seq = ?", (middle,)
            ).fetchone()
            if recorded <= time_ns:
                low = middle
            else:
                high = middle - 1
        next_moment = moment_of(time_ns + 1_000_000)
        (behind,) = self._connection.execute(_LAST_BEHIND, (next_moment,)).fetchone()
        return max(low, behind or 0)
