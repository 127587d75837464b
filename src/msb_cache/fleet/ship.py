"""A home's log sent to a fleet's server: what it does not have yet, in order, each event once.

How far it is says the server, each time, so nothing of that is kept here, and a process may be killed at any
moment. Each batch is one transaction: it asks, which locks the log's end there, looks at the own log, and
sends what comes behind. So several processes that send one log take turns, and none finds the other ahead of
what it has seen of the log itself.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import ExitStack, contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec

from msb_cache.errors import CorruptLogError, FleetError, InvalidConfigError, InvalidProofError
from msb_cache.errors import MicrosandboxError as Error
from msb_cache.eventstore.chain import paged_rows
from msb_cache.eventstore.row import COLUMNS, INTEGERS, Value, misfit
from msb_cache.failpoints import reached
from msb_cache.fleet.append_sql import ROOM
from msb_cache.fleet.connect import NO_FLEET, check, connected, told, unless_said
from msb_cache.fleet.place import SCHEMA, TAKES_LIBPQ, VARIABLE, Values
from msb_cache.fleet.schema import EVENT_COLUMNS
from msb_cache.interchange.posting import wait
from msb_cache.projections.images import total_bytes
from msb_cache.proof import kept
from msb_cache.queries.follow import looks
from msb_cache.shapes import Result
from msb_cache.waiting import beside, end_if_asked, ended_by, pause, told_to_end
from msb_cache.wording import as_sentence

if TYPE_CHECKING:
    import psycopg

    from msb_cache.activity import Count
    from msb_cache.session import Session

    Connection = psycopg.Connection[Values]

BATCH_EVENTS, BATCH_BYTES = 10_000, 8 << 20
"""So many events are sent in one transaction, or those that together first have more bytes."""

MOST_NOTES, MOST_NOTE_BYTES = 16, 16 << 10
"""So many signed checkpoints go along, none larger."""

RETRIES = 5
"""So often in a row a connection that was lost is made again, where nobody waits for it for ever."""

TOGETHER = 2.0
"""Seconds within which what is recorded is sent together, so that connections are few."""

SIGN_OF_LIFE = 300.0
"""Seconds after which a host that stays tells of itself also where nothing happens."""

_IDLE = "60s"
"""So long the server lets a transaction of ours stand still, which keeps others of the same log waiting."""

_LINE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}
"""A connection to a machine that has gone is given up after a minute, and not after hours."""

_COPY = f"COPY {SCHEMA}.staging ({', '.join(EVENT_COLUMNS)}) FROM STDIN (FORMAT BINARY)"
_TYPES = ["int8" if name in INTEGERS else "text" for name in EVENT_COLUMNS[:-1]] + ["bytea"]
_APPEND = (
    f"SELECT verdict, size, hash, detail FROM {SCHEMA}.append("
    "%s::text, %s::bigint, %s::bigint, %s::bigint, %s::bigint, %s::text[])"
)

T = TypeVar("T")

# What it says of a connection that is lost is in the error already; it stands on stderr only where nothing
# is set up to log.
logging.getLogger("psycopg").addHandler(logging.NullHandler())


class Shipped(Result, msgspec.Struct, frozen=True):
    """What was sent to a fleet's server.

    Attributes:
        log_id: the log; None: the home has none yet, and there was nothing to send.
        events: how many events the server did not have and has now.
        seq: the log's last event here, as it was last looked at; 0: there is none.
        size: how many events of the log the server has, as far as it has told; 0: none.
    """

    log_id: str | None
    events: int
    seq: int
    size: int


def ship(
    session: Session,
    to: str | None,
    *,
    follow: bool,
    stopped: Callable[[], bool],
    interval: float,
) -> Shipped:
    """Send what the server does not have yet, and with ``follow`` what comes, until ``stopped`` says so.

    Args: as of ``ImageCache.ship``.

    Raises:
        FleetError: the server cannot be asked, or refuses the log; with ``follow`` that is tried again.
        InvalidConfigError: there is no DSN, or it cannot be read.
        UnsupportedError: the extra ``fleet`` is not installed.
    """
    shipper = Shipper(session, to)
    with ended_by(stopped):
        try:
            if follow:
                for _ in looks(session.recorded, stopped=stopped, note=session.note, interval=interval):
                    shipper.turn()
            else:
                session.observe()
                shipper.send()
        except KeyboardInterrupt:
            if not stopped():
                raise
        return shipper.shipped


class _Own(NamedTuple):
    """The log here.

    Attributes:
        log_id: its id.
        size: how many events it has.
        hash: that of the event that was asked for; None: there is none.
        cache_bytes: what the images take, as the index says.
        notes: the newest signed checkpoint of each origin, and of how many events it is.
    """

    log_id: str
    size: int
    hash: bytes | None
    cache_bytes: int
    notes: tuple[tuple[int, str], ...]


class _Answer(NamedTuple):
    """What the server says of a log."""

    verdict: str
    size: int
    hash: bytes
    detail: str | None


class Shipper:
    """Sends one home's log to a server.

    Args:
        session: the home.
        to: the server's DSN; None: that of the environment.

    Raises:
        InvalidConfigError: there is none, or it cannot be read.
        UnsupportedError: the extra ``fleet`` is not installed.
    """

    def __init__(self, session: Session, to: str | None) -> None:
        to = to or os.environ.get(VARIABLE)
        if not to:
            raise InvalidConfigError(
                f"it is not said where the fleet is; give its DSN, or set {VARIABLE}{TAKES_LIBPQ}"
            )
        self._dsn = _lasting(to)
        self._session = session
        self._events = 0
        self._own: _Own | None = None
        self._seen: _Own | None = None  # also where the server said nothing
        self._size = 0
        self._notes: set[str] = set()
        self._is_connected = False
        self._said: str | None = None
        self._tries = 0
        self._not_before = self._sign_of_life = 0.0

    @property
    def shipped(self) -> Shipped:
        """What was sent until now."""
        own = self._own or self._seen
        if own is None:
            return Shipped(None, 0, 0, 0)
        return Shipped(own.log_id, self._events, own.size, self._size)

    def send(self) -> None:
        """Send what the server does not have; if the connection is lost in the middle, go on a few times.

        Raises:
            FleetError: the server cannot be asked, or refuses the log.
            KeyboardInterrupt: what ends this thread's waits does so.
        """
        tries, sent = 0, self._events
        with self._session.ledger.doing("sending events", "events") as count:
            while True:
                try:
                    return self._send(count)
                except FleetError as error:
                    end_if_asked()
                    if self._events > sent:
                        tries, sent = 0, self._events
                    if not error.temporary or not self._is_connected or tries == RETRIES:
                        raise
                pause(wait(tries, None))
                end_if_asked()
                tries += 1

    def turn(self) -> None:
        """Send what is new, if it is time for that; what is in the way is said once until it changes.

        Raises:
            KeyboardInterrupt: what ends this thread's waits does so.
        """
        now = time.monotonic()
        if now < self._not_before:
            return
        problem, seconds = None, TOGETHER
        try:
            if now < self._sign_of_life and not self._has_news():
                return
            self._send()
        except (Error, OSError, sqlite3.Error, MemoryError) as error:
            end_if_asked()
            problem = as_sentence(error)
            is_refused = isinstance(error, FleetError) and not error.temporary
            seconds = wait(64 if is_refused else self._tries, None)
        self._tries = 0 if problem is None else self._tries + 1
        self._say(problem)
        now = time.monotonic()
        self._not_before = now + seconds
        if problem is None:
            self._sign_of_life = now + SIGN_OF_LIFE * random.uniform(0.5, 1.0)  # noqa: S311

    def iterated(self, items: Iterator[T], seconds: float) -> Iterator[T]:
        """Yield items, and take a turn each so many seconds in another thread meanwhile."""
        with beside(self.turn, "msb-cache-ship", seconds):
            yield from items

    def _say(self, problem: str | None) -> None:
        if problem is not None and problem != self._said:
            self._session.note(f"{problem}; it is tried again")
        elif problem is None and self._said is not None:
            self._session.note("the fleet takes events again")
        self._said = problem

    def _has_news(self) -> bool:
        own = self._look()
        known = None if self._own is None else (self._own.log_id, self._size)
        return own is not None and (own.log_id, own.size) != known

    def _send(self, count: Count | None = None) -> None:
        """Send all that the server does not have."""
        self._seen = own = self._look()
        if own is None:
            return
        with _line(self._dsn) as connection:
            self._is_connected = True
            while True:
                before, own, answer = self._batch(connection, own.log_id)
                reached("ship.committed")
                self._own = own
                if answer.verdict not in ("accepted", "gap"):
                    raise _refused(answer, own)
                self._events += max(answer.size - before.size, 0)
                self._size = answer.size
                if count is not None:
                    count(self._events, self._events + own.size - answer.size)
                if answer.verdict == "accepted" and answer.size >= own.size:
                    return
                end_if_asked()

    def _batch(self, connection: Connection, log_id: str) -> tuple[_Answer, _Own, _Answer]:
        """Send one batch; return what the server had before it, the log here, and what the server says."""
        with told(), _named(), connection.transaction():
            connection.execute(f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE}'".encode())
            before = _append(connection, log_id)
            if before.verdict == "accepted" and not before.size:
                # There is no end yet that was locked: one process at a time begins a log there.
                connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (log_id,))
                before = _append(connection, log_id)
            own = self._look(before.size)
            if own is None or own.log_id != log_id:
                raise CorruptLogError("the log became another one while it was sent; try again")
            if before.verdict != "accepted":
                return before, own, before
            if own.hash != before.hash and 0 < before.size <= own.size:
                # The server is shown the event that is another there, and writes that down.
                rows = self._rows(before.size, before.size)
            elif before.size < own.size:
                # Also the last one that the server has: it is compared once more.
                rows = self._rows(max(before.size, 1), own.size)
            elif before.size > own.size:
                # Whether the server's log is this one, and longer, its last event tells.
                rows = self._rows(own.size, own.size)
            else:
                rows = []
            if rows:
                _stage(connection, log_id, rows)
                reached("ship.staged")
            end = max(before.size, _seq(rows[-1]) if rows else 0)
            notes = self._new_notes(own, end) if end == own.size else []
            answer = _append(connection, log_id, own.size, own.cache_bytes, *self._disk(), notes)
            reached("ship.taken")
        if answer.verdict == "accepted":
            self._notes.update(notes)
        return before, own, answer

    def _look(self, at: int = 0) -> _Own | None:
        """Return the log, with the hash of its event ``at`` a position; None: the home has none."""
        with self._session.ledger.read() as connection:
            if connection is None:
                return None
            log_id, size, hash_at = connection.execute(
                "SELECT (SELECT subject FROM events WHERE seq = 1), (SELECT max(seq) FROM events), "
                "(SELECT hash FROM events WHERE seq = ?)",
                (at,),
            ).fetchone()
            if size is None:
                return None
            if not isinstance(log_id, str):
                raise CorruptLogError("the log's first event is gone or damaged; look at `msb-cache verify`")
            return _Own(log_id, size, hash_at, total_bytes(connection), tuple(_notes(connection)))

    def _rows(self, first: int, last: int) -> list[tuple[tuple[Value, ...], bytes]]:
        """Return the events of a batch as they are stored, from ``first`` on."""
        found: list[tuple[tuple[Value, ...], bytes]] = []
        size = 0
        for row, stored in paged_rows(self._session.ledger.read, first - 1, last):
            _check(row)
            found.append((row, stored))
            size += sum(len(value) for value in row if isinstance(value, str))
            if len(found) > BATCH_EVENTS or (size > BATCH_BYTES and len(found) > 1):
                break
        return found

    def _new_notes(self, own: _Own, end: int) -> list[str]:
        return [note for size, note in own.notes if size <= end and note not in self._notes][:MOST_NOTES]

    def _disk(self) -> tuple[int | None, int | None]:
        """Return how many bytes of the cache's file system are free for this user, and how large it is."""
        layout = self._session.layout
        for folder in (layout.cache, layout.home):
            with suppress(OSError):
                found = os.statvfs(folder)
                return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
        return None, None


def _notes(connection: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    """Yield the newest signed checkpoint of each origin, with its size; damaged ones are left out."""
    origins = connection.execute(
        "SELECT origin FROM signed_checkpoint GROUP BY origin ORDER BY max(signed_at) DESC LIMIT ?",
        (MOST_NOTES,),
    ).fetchall()
    for (origin,) in origins:
        with suppress(InvalidProofError):
            last = kept.last(connection, origin)
            if last is not None and len(text := str(last.note)) <= MOST_NOTE_BYTES:
                yield last.head.size, text


def _check(row: Sequence[Value]) -> None:
    """Refuse an event that PostgreSQL cannot keep as it is."""
    odd = misfit(row)
    if odd is not None:
        raise CorruptLogError(f"event {row[0]!r} is damaged: {odd}; look at `msb-cache verify`")
    for column, value in zip(COLUMNS, row, strict=True):
        if isinstance(value, str) and "\x00" in value:
            raise FleetError(
                f"the {column} of event {row[0]!r} has a NUL in it, which PostgreSQL cannot keep; "
                "the log can be sent up to the event before it, and `msb-cache export` has it whole"
            )


def _seq(row: tuple[tuple[Value, ...], bytes]) -> int:
    seq = row[0][0]
    assert isinstance(seq, int)  # noqa: S101
    return seq


def _stage(connection: Connection, log_id: str, rows: Iterable[tuple[tuple[Value, ...], bytes]]) -> None:
    with connection.cursor() as cursor, cursor.copy(_COPY.encode()) as copy:
        copy.set_types(_TYPES)
        for row, stored in rows:
            copy.write_row((log_id, *row, stored))


def _append(
    connection: Connection,
    log_id: str,
    size: int | None = None,
    cache: int | None = None,
    free: int | None = None,
    disk: int | None = None,
    notes: Sequence[str] = (),
) -> _Answer:
    given = (log_id, size, cache, free, disk, [*notes])
    row = connection.execute(_APPEND.encode(), given).fetchone()
    assert row is not None  # noqa: S101
    return _Answer(*row)


def _refused(answer: _Answer, own: _Own) -> FleetError:
    """Return the error of a refusal: what it means here, and what to do."""
    detail = " ".join((answer.detail or answer.verdict).split())
    anew = "`msb-cache log anew` gives this home a log of its own"
    said = {
        "fork": "another host goes on under the same log id: "
        f"event {min(answer.size, own.size)} is another one there, so "
        f"this home is a copy, or was put back and went on; {anew}",
        "truncated": f"the log ends at event {own.size}, and {answer.size} of it were sent: it was put back, "
        f"or a copy of this home went on with it; {anew}, or put back a newer backup",
        "claimed": f"the log was first sent by another enrolment, so this home is a copy; {anew}, or send it "
        "as the role that it belongs to",
        "full": f"the fleet takes no more: {detail}",
        "unknown": "this role is not enrolled with the fleet; `msb-cache fleet enrol NAME` there enrols it",
        "forged": f"the server finds the log damaged ({detail}); look at `msb-cache verify`",
    }.get(answer.verdict, f"the fleet refuses the log: {detail}")
    return FleetError(said, verdict=answer.verdict)


@contextmanager
def _named() -> Iterator[None]:
    """Say in our words what a server without a fleet, or one that does not know the role, says in its own."""
    from psycopg import errors

    try:
        yield
    except errors.CheckViolation as error:
        if error.diag.constraint_name != ROOM:
            raise
        raise FleetError(
            "the fleet's server has no room for what is sent until its folder has swept up; try again",
            temporary=True,
        ) from None
    except errors.InsufficientPrivilege:
        raise _refused(_Answer("unknown", 0, b"", None), _Own("", 0, None, 0, ())) from None
    except (errors.InvalidSchemaName, errors.UndefinedTable, errors.UndefinedFunction):
        raise FleetError(NO_FLEET) from None


def _lasting(dsn: str) -> str:
    """Return a DSN that says also when a silent connection is given up, unless it does that itself."""
    check(dsn)
    from psycopg.conninfo import make_conninfo

    return make_conninfo(dsn, **unless_said(dsn, **_LINE))


@contextmanager
def _line(dsn: str) -> Iterator[Connection]:
    """Connect for a ``with`` block; what asks this thread to end breaks off whatever is waited for.

    libpq's waits look at nothing of ours. So another thread connects, and is left alone where this one is to
    end; and what is waited for then ends because the connection is cut.
    """
    made: Future[tuple[ExitStack, Connection]] = Future()

    def make() -> None:
        try:
            with ExitStack() as stack:
                connection = stack.enter_context(connected(dsn))
                if made.set_running_or_notify_cancel():
                    made.set_result((stack.pop_all(), connection))
        except BaseException as error:
            if made.set_running_or_notify_cancel():
                made.set_exception(error)

    Thread(target=make, name="msb-cache-connecting", daemon=True).start()
    try:
        while not made.done():
            pause(60.0, lambda seconds: wait_for((made,), seconds).done)
            end_if_asked()
    except BaseException:
        if not made.cancel() and made.exception() is None:
            made.result()[0].close()
        raise
    stack, connection = made.result()
    with stack, told_to_end(lambda: _cut(connection)):
        yield connection


def _cut(connection: Connection) -> None:
    with suppress(Exception), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)
