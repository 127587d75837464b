"""One home's log with its projections: consistent reads, and transactions that write both together."""

from __future__ import annotations

import os
import sqlite3
import time
from _thread import _local as local  # threading is not imported by commands that read
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Literal
from weakref import ref

from msb_cache.artifacts.layout import Layout, check_plain
from msb_cache.errors import (
    BusyError,
    CorruptLogError,
    HomeOwnedByMicrosandboxError,
    LogError,
    MicrosandboxError,
)

# What only a read of events or an append needs is imported there: a list of images needs neither.
from msb_cache.failpoints import reached
from msb_cache.home import shared_memory
from msb_cache.home.connect import (
    begin_reading,
    begin_writing,
    check_complete,
    commit,
    in_words,
    is_exclusive,
    is_there,
    locked,
    open_database,
    open_to_read,
)
from msb_cache.home.heads import HeadFile, HeadNote
from msb_cache.home.opened import Opened, check_not_inherited
from msb_cache.projections.moment import set_moment
from msb_cache.waiting import BUSY_SECONDS, Note, Said, is_busy

if TYPE_CHECKING:
    from pathlib import Path

    from msb_cache.activity import Count, Tell, Unit
    from msb_cache.eventstore.clock import Uptime
    from msb_cache.eventstore.store import Actor, Clock, EventStore, NewEvent, StoredEvent
Who = Callable[[], "Actor"]
"""Says who is recorded; asked when something is."""

Owner = Literal["ours", "msb", "any"]
"""Who must keep a home's cache for something to be written: we, msb, or either."""

_MANY_EVENTS = 500
"""A process that stays looks once in so many events whether the reserve is large enough still."""

Committed = Callable[[sqlite3.Connection, int, int], None]
"""Called after a commit: the connection, in no transaction, and the positions before and after the append."""


def _this_process() -> Actor:
    from msb_cache.home.identity import current_actor

    return current_actor()


class Transaction:
    """An open write transaction: append events, and read the tables as they then are."""

    def __init__(
        self, connection: sqlite3.Connection, store: EventStore, operation: str, actor: Actor
    ) -> None:
        self.connection = connection
        self._store = store
        self._operation = operation
        self._actor = actor
        self.appended: tuple[StoredEvent, StoredEvent] | None = None
        """The first and the last event that was appended here; None: none was."""
        self.jumped: StoredEvent | None = None
        """What was found and recorded of the computer's clock; None: nothing."""
        self.unclear = False
        """Its commit failed or was broken off: whether it happened shows when the database is opened anew."""

    @property
    def log_id(self) -> str:
        """The id of the log, which has begun."""
        (found,) = self.connection.execute("SELECT subject FROM events WHERE seq = 1").fetchone()
        return str(found)

    def append(
        self, events: Sequence[NewEvent], *, operation: str | None = None, actor: Actor | None = None
    ) -> list[StoredEvent]:
        """Append events and apply them to the projections.

        Args:
            events: in their order.
            operation: an earlier operation that they belong to; None: this transaction's.
            actor: who is recorded; None: this transaction's.
        """
        from msb_cache.projections import live

        if not events:
            return []
        stored = self._store.append(
            events, operation=operation or self._operation, actor=actor or self._actor
        )
        live.apply(self.connection, stored)
        self.jumped = next((event for event in stored if event.type == "clock.jumped"), self.jumped)
        first = stored[0] if self.appended is None else self.appended[0]
        self.appended = first, stored[-1]
        return stored


class Ledger:
    """The log and projections of one home; each thread that uses it opens the database for itself.

    Args:
        layout: the home.
        actor: who is recorded, or what says it; None: the user and program of this process.
        clock: nanoseconds since the epoch.
        uptime: the machine's own time, which tells when the clock jumps; None: this machine's where ``clock``
            is, else not known.
        note: told when another process has to be waited for.
        committed: told what was appended, once that is committed.
        noted: keep a note outside of how far the log has come; not of a home that is just being built.
        progress: told of what takes long.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        actor: Actor | Who | None = None,
        clock: Clock = time.time_ns,
        uptime: Uptime | None = None,
        note: Note | None = None,
        committed: Committed | None = None,
        noted: bool = True,
        progress: Tell | None = None,
    ) -> None:
        self.layout = layout
        self.clock = clock
        self._uptime = uptime
        self.note: Note = note or (lambda sentence: None)
        self._progress = progress
        self._actor: Actor | Who = actor or _this_process
        self._saying = local()
        """Who is recorded instead for as long as a call lasts, in its thread."""
        self._committed = committed
        self._threads = local()
        self._opened: set[ref[Opened]] = set()
        """Of all threads; changed and copied by single steps of the interpreter, so without a lock."""
        self._holes: bool | None = None
        """SQLite does not have all of its -shm allocated here; None: not looked at yet."""
        self.head_file = HeadFile(layout.home, kept=noted)
        self.tells_of_head = True
        """Whether it is said if the log does not go on from the note outside."""
        self._unlike = Said()
        """How the log does not go on from its note outside."""
        self._look_at = 0
        """The position from which on the reserve is looked at again."""

    @property
    def actor(self) -> Actor:
        """Who is recorded."""
        saying: Actor | None = getattr(self._saying, "actor", None)
        if saying is not None:
            return saying
        if callable(self._actor):
            self._actor = self._actor()
        return self._actor

    @actor.setter
    def actor(self, actor: Actor) -> None:
        self._actor = actor

    @contextmanager
    def saying(self, reason: str | None, context: Mapping[str, str] | None) -> Iterator[None]:
        """Record a reason and a context with what is done in the block, in this thread; None: as otherwise.

        Raises:
            InvalidConfigError: they cannot be kept as they are.
        """
        if reason is None and not context:
            yield
            return
        from msb_cache.home.identity import with_more_said

        before = getattr(self._saying, "actor", None)
        self._saying.actor = with_more_said(self.actor, reason, context)
        try:
            yield
        finally:
            self._saying.actor = before

    @property
    def here(self) -> Opened:
        """What this thread has open."""
        try:
            found: Opened = self._threads.opened
        except AttributeError:
            found = self._threads.opened = Opened(self.layout.database)
            self._opened.add(ref(found, self._opened.discard))
        return found

    @property
    def is_open(self) -> bool:
        """Whether any thread has the database open, or the index as it was."""
        return any(opened.is_open for opened in self._of_all_threads())

    @property
    def is_apart(self) -> bool:
        """Whether this thread has a copy of the database open, or the file as one that does not change."""
        return self.here.content is not None

    def close(self) -> None:
        """Close the database, of all threads; using the ledger again opens it anew.

        A thread that is in the middle of a read or a transaction closes its own when that is over.
        """
        for opened in self._of_all_threads():
            opened.close()

    def _of_all_threads(self) -> Iterator[Opened]:
        for each in self._opened.copy():
            opened = each()
            if opened is not None:
                yield opened

    def shrink(self) -> None:
        """Free what this thread has of the file in memory: it is read again where that is asked for."""
        here = self.here
        with here.used():
            if here.connection is not None:
                here.connection.execute("PRAGMA shrink_memory")

    def store(self, connection: sqlite3.Connection) -> EventStore:
        """Return the event store on a connection got from here."""
        from msb_cache.eventstore.store import EventStore

        return EventStore(connection, clock=self.clock, uptime=self._measure)

    def clock_ahead(self, connection: sqlite3.Connection) -> int:
        """Return by how many ns the clock ran ahead since the machine was started; 0 for up to an hour."""
        from msb_cache.eventstore.clock import ahead

        return ahead(connection, self.clock(), self._measure)

    def _measure(self) -> tuple[str, int] | None:
        if self._uptime is None and self.clock is time.time_ns:
            from msb_cache.eventstore.clock import since_start

            self._uptime = since_start
        return None if self._uptime is None else self._uptime()

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection | None]:
        """Read one consistent position; None when the home has no log yet. Nothing is written."""
        here = self.here
        with here.used():
            connection = self._reader(here)
            if connection is None:
                yield None
                return
            with self._unchanged(here), _translate_sqlite_errors(self.layout):
                begin_reading(connection, self._locked)
                try:
                    yield connection
                finally:
                    connection.execute("ROLLBACK")

    @contextmanager
    def statement(self) -> Iterator[sqlite3.Connection | None]:
        """Read with one statement, which sees one position without a transaction; else like ``read``."""
        here = self.here
        with here.used():
            connection = self._reader(here)
            with self._unchanged(here), _translate_sqlite_errors(self.layout):
                yield connection

    @contextmanager
    def write(
        self, operation: str, *, owner: Owner = "ours", actor: Actor | None = None, wait: float = BUSY_SECONDS
    ) -> Iterator[Transaction]:
        """Write: everything appended in the block is committed together, durably, or not at all.

        Args:
            operation: the operation that the events belong to.
            owner: who must keep this cache, which is checked once more within the transaction. ``ours`` for
                what changes a cache of ours; ``msb`` for what msb did, or was asked to do; ``any`` for what
                is true in either home: how a deletion went, that an image is used or held.
            actor: who is recorded; None: the ledger's.
            wait: seconds to wait for another process's transaction.

        Raises:
            HomeOwnedByMicrosandboxError: msb keeps this cache, and it must be ours.
            LogError: it is ours, and must be msb's.
            BusyError: another process writes for longer than we wait.
        """
        here = self.here
        with here.used():
            if owner == "msb" or (owner == "ours" and here.connection is None):
                self._check_owner(owner)  # before a database is made
            connection = self._writer(here)
            transaction = Transaction(connection, self.store(connection), operation, actor or self.actor)
            with _translate_sqlite_errors(self.layout):
                try:
                    begin_writing(connection, self._waiting, wait)
                    self._check_owner(owner)
                    drawn = self._make_room(here, connection)
                    yield transaction
                    reached("log.committing")
                    transaction.unclear = True
                    commit(connection)
                    transaction.unclear = False
                    reached("log.committed")
                except BaseException:
                    if transaction.unclear or here.alone:
                        # The commit may stand in the write-ahead log all the same: only opening anew tells.
                        here.disconnect()
                    elif connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            self._after(transaction)
            if drawn:
                self._trim_log(connection)
            if here.alone:
                here.disconnect()  # others may have it again, and the log goes into the database

    def _after(self, transaction: Transaction) -> None:
        """Say, note outside and keep what goes with a transaction that is committed."""
        if transaction.jumped is not None:
            what = ", ".join(map(str, transaction.jumped.data.told().details))
            self.note(
                f"the computer's clock jumped {what}; the log has that as event {transaction.jumped.seq}"
            )
        if transaction.appended is not None:
            first, last = transaction.appended
            self.head_file.keep(transaction.connection, last)
            if self._committed is not None:
                self._committed(transaction.connection, first.seq - 1, last.seq)
            if last.seq >= self._look_at:
                self._keep_reserve(transaction.connection, last.seq)

    def renew_head_note(self) -> None:
        """Let the note outside be of the log as it is now, whatever it was of: a person wants it so."""
        with self.read() as connection:
            head = None if connection is None else self.store(connection).head()
            if connection is not None and head is not None:
                self.head_file.keep(connection, head, anew=True)

    def check_writable(self) -> None:
        """Refuse, before anything happens, a home in which this user cannot write, or not without leaving it.

        Raises:
            LogError: says what is in the way.
        """
        layout = self.layout
        self._check_directory()
        check_plain(layout, cache=not self.owned_by_msb)
        nearest = next(path for path in (layout.db, *layout.db.parents) if os.path.lexists(path))
        for path in (nearest, layout.database):
            if os.path.lexists(path) and not os.access(path, os.W_OK, effective_ids=True):
                raise _cannot_write(path)

    def prepare(self) -> None:
        """Load now what making a database takes, if there is none: that is most of the time it costs."""
        if not is_there(self.layout.database):
            from msb_cache.migrations import schema  # noqa: F401

    def open_to_write(self) -> None:
        """Open the database for writing, making it if there is none, before any file is published.

        Raises:
            HomeOwnedByMicrosandboxError: msb owns this cache.
        """
        self.check_ours()
        here = self.here
        with here.used():
            self._writer(here)

    def _locked(self) -> None:
        self.note(locked(self.layout.database))

    def _waiting(self) -> None:
        self.note(f"waiting for another process that is writing to {self.layout.database}")

    def doing(
        self, what: str, unit: Unit | None = None, total: int | None = None
    ) -> AbstractContextManager[Count]:
        """Tell that something goes on in a block that takes long, and, by what is given, how far it is."""
        from msb_cache.activity import Activities

        return Activities(self._progress)(what, unit, total)

    @property
    def owned_by_msb(self) -> bool:
        """Whether msb keeps this cache: ``db/msb.db`` exists."""
        return os.path.lexists(self.layout.msb_database)

    def check_ours(self) -> None:
        """Refuse a home that msb owns.

        Raises:
            HomeOwnedByMicrosandboxError: ``db/msb.db`` exists.
        """
        if self.owned_by_msb:
            raise HomeOwnedByMicrosandboxError(
                f"{self.layout.home} belongs to msb since a moment ago (msb.db is there now); "
                "nothing was changed, try again"
            )

    def _check_owner(self, owner: Owner) -> None:
        if owner == "ours":
            self.check_ours()
        elif owner == "msb" and not self.owned_by_msb:
            raise LogError(f"{self.layout.home} does not belong to msb")

    def _reader(self, here: Opened) -> sqlite3.Connection | None:
        if here.content is not None:
            from msb_cache.home.readonly import content

            if content(self.layout.database) != here.content:
                here.disconnect()
        if here.connection is None:
            self._check_directory()
            check_not_inherited(self.layout.database)
            noted = self.head_file.read()  # before the log, which may go on meanwhile
            if (opened := open_to_read(self.layout, self.note)) is not None:
                here.connection, here.content = opened
                self._set_moment(here, here.connection)
            self._compare(here.connection, noted)
        return here.connection

    def _writer(self, here: Opened) -> sqlite3.Connection:
        if here.content is not None:
            here.disconnect()
        if here.connection is None:
            self._check_directory()
            check_not_inherited(self.layout.database)
            noted = self.head_file.read()
            here.connection = open_database(self.layout, self.note)
            self._set_moment(here, here.connection)
            here.alone = is_exclusive(here.connection)
            self._compare(here.connection, noted)
        return here.connection

    def _set_moment(self, here: Opened, connection: sqlite3.Connection) -> None:
        # Neither the ledger itself nor what is open: it has the connection, and they would keep each other
        # from being dropped.
        ledger, opened = ref(self), ref(here)

        def moment() -> int:
            mine, found = ledger(), opened()
            assert mine is not None  # noqa: S101
            live = None if found is None else found.connection
            return mine.clock() - (0 if live is None else mine.clock_ahead(live))

        set_moment(connection, moment)

    def _compare(self, connection: sqlite3.Connection | None, noted: HeadNote | None) -> None:
        """Say, once, if the log that was opened does not go on from the note of it outside."""
        if noted is None or not self.tells_of_head:
            return
        try:
            found = self.head_file.mismatch(connection, noted)
        except sqlite3.Error:
            return  # what is wrong with the database is said when it is read
        if found is not None and self._unlike.is_new(found.sentence):
            self.note(f"{found.sentence}; `msb-cache verify` says more")

    # -- a disk that is full -----------------------------------------------------------------------------

    @contextmanager
    def drawing_on_reserve(self, events: int) -> Iterator[None]:
        """Let what is written in the block draw on the reserve, if there is no room; then make it again.

        Args:
            events: at most how many of them one transaction in the block will append.
        """
        from msgspec.json import encode

        from msb_cache.home import reserve

        needed = reserve.needed(events, len(encode(self.actor)))
        here = self.here
        before, here.drawing = here.drawing, max(here.drawing, needed)
        reserve.make_room(self.layout)
        try:
            yield
        finally:
            here.drawing = before
            if not before:
                with suppress(MicrosandboxError, OSError):
                    self._restore_reserve()

    def _make_room(self, here: Opened, connection: sqlite3.Connection) -> bool:
        """Give the transaction that has begun the room it may need; return whether that may be too much."""
        from msb_cache.home import reserve

        database = self.layout.database
        if self._holes is None:
            self._holes = shared_memory.is_left_with_holes(database)
        while self._holes and not here.alone and not shared_memory.allocate(database, connection):
            if not here.drawing or not reserve.give_up(self.layout, reserve.STEP):
                raise LogError(f"there is no room for {database}-shm; make room and try again")
        return here.drawing > 0 and reserve.draw(self.layout, here.drawing)

    def _trim_log(self, connection: sqlite3.Connection) -> None:
        from msb_cache.home import reserve

        with suppress(OSError, sqlite3.OperationalError):
            reserve.trim(self.layout, connection)

    def _restore_reserve(self) -> None:
        from msb_cache.home import reserve

        with self.read() as connection:
            size = 0 if connection is None else _wanted(connection)
        if reserve.held(self.layout) < size:
            self.close()  # the log goes into the database first, which may need room for that
        reserve.restore(self.layout, size)

    def _keep_reserve(self, connection: sqlite3.Connection, seq: int) -> None:
        from msb_cache.home import reserve

        reserve.keep(self.layout, _wanted(connection))
        self._look_at = seq + _MANY_EVENTS

    @contextmanager
    def _unchanged(self, here: Opened) -> Iterator[None]:
        """Refuse what was read of a file that changed meanwhile, where SQLite does not see to that."""
        try:
            yield
        finally:
            if here.content is not None:
                from msb_cache.home.readonly import content

                path = self.layout.database
                if content(path)[:3] != here.content[:3]:
                    raise BusyError(f"another process wrote to {path} while it was read; try again")

    def _check_directory(self) -> None:
        if os.path.isdir(self.layout.home):
            return
        home = self.layout.db.parent
        nearest = next(path for path in (home, *home.parents) if os.path.lexists(path))
        if not nearest.is_dir():
            raise LogError(f"{home} can be no home of microsandbox: {nearest} is no directory")


def _wanted(connection: sqlite3.Connection) -> int:
    from msb_cache.home import reserve

    # As large as actors were of late: who will delete something is not known yet.
    images, actor = connection.execute(
        "SELECT (SELECT count(*) FROM image), (SELECT coalesce(max(length(CAST(actor AS BLOB))), 0) "
        "FROM (SELECT actor FROM events ORDER BY seq DESC LIMIT 100))"
    ).fetchone()
    return reserve.wanted(images, actor)


def _cannot_write(path: str | Path) -> LogError:
    return LogError(f"{path} cannot be written to by this user; use an account that may, or another --home")


@contextmanager
def _translate_sqlite_errors(layout: Layout) -> Iterator[None]:
    path = layout.database
    try:
        yield
    except sqlite3.OperationalError as error:
        if is_busy(error):
            raise BusyError(f"another process is writing to {path}; try again") from None
        check_complete(path, error)
        if "malformed" in str(error):
            raise CorruptLogError(f"{path} is damaged: {error}") from None
        if "readonly" in str(error):
            raise _cannot_write(path) from None
        raise LogError(f"cannot use {path}: {in_words(error)}") from None
    except sqlite3.ProgrammingError:
        raise  # a mistake in the calling program
    except sqlite3.DatabaseError as error:
        raise CorruptLogError(f"{path} is damaged: {error}") from None
