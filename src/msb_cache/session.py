"""One opened home: what every use case does first, the engine it has, and the index as it is or was.

Reading first records what msb did, in a home that msb keeps; writing first finishes or undoes what a killed
process left. What the use cases do then stands in modules of their own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct

from msb_cache.errors import ImageNotFoundError
from msb_cache.home.ledger import Ledger
from msb_cache.waiting import Said

# A list of images is read without what records, recovers or looks into the past: imported when needed.
if TYPE_CHECKING:
    from msb_cache.activity import Tell
    from msb_cache.artifacts.layout import Layout
    from msb_cache.engines.choose import Choice, EngineChoice, NewHome
    from msb_cache.engines.engine import Engine
    from msb_cache.eventstore.store import Actor, Clock, EventStore
    from msb_cache.home.ledger import Who
    from msb_cache.queries.as_of import AsOf, Contents
    from msb_cache.waiting import Note


class Then(Struct, frozen=True):
    """A home at a moment of the past.

    Attributes:
        position: the last position of the log by then; 0: there was none.
        time_ns: the moment, in ns since the epoch, UTC.
        index: the index at that position; None: the home has no log.
        store: the log as it is now; None: there is none.
        unknown: a sentence if what was here then is not known; None: it is.
    """

    position: int
    time_ns: int
    index: sqlite3.Connection | None
    store: EventStore | None
    unknown: str | None


class Session:
    """A home in use, by any number of threads.

    Args:
        layout: the home.
        actor: who is recorded, or what says it; None: the user and program of this process.
        clock: nanoseconds since the epoch.
        note: told when another process has to be waited for, when what msb did cannot be recorded, and when a
            question is about a time of which the log knows nothing.
        sync: record what msb did before reading.
        engine: who shall keep the home; None: what is usual. See ``engines.choose``.
        is_default: the home is the one that msb itself would use here, and no caller named it.
        progress: told of what takes long.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        actor: Actor | Who | None,
        clock: Clock,
        note: Note | None,
        sync: bool,
        engine: EngineChoice | None = None,
        is_default: bool = False,
        progress: Tell | None = None,
    ) -> None:
        self.layout = layout
        self.ledger = Ledger(
            layout,
            actor=actor,
            clock=clock,
            note=note,
            committed=partial(_cache_index, layout),
            progress=progress,
        )
        self.note = self.ledger.note
        self._sync = sync
        self._asked = engine
        self.is_default = is_default
        self._noted = Said()
        self._unknown = Said()

    @property
    def home_named(self) -> str | None:
        """The home's absolute path, where a command has to name it; None: it is the environment's."""
        return None if self.is_default else self.layout.home

    @property
    def is_open(self) -> bool:
        """Whether a database is open, in any thread."""
        return self.ledger.is_open

    def close(self) -> None:
        """Close the databases of all threads, those of the past too; see ``Ledger.close``."""
        self.ledger.close()

    @property
    def kept_by_msb(self) -> bool:
        """Whether msb keeps this home now."""
        return self.ledger.owned_by_msb

    def engine(self) -> Engine:
        """Return the engine that this home has now.

        It is asked for once in each operation and never kept: any msb command, even one that only lists,
        makes a home of ours msb's. The deciding transaction checks it once more.
        """
        from msb_cache.engines.choose import engine_named

        self.check_engine()
        return engine_named("msb" if self.kept_by_msb else "msb-cache", self.ledger)

    def check_engine(self) -> None:
        """Refuse another engine than the home has, if one was asked for; see ``engines.choose``."""
        if self._asked is not None:
            self.choice().check(self.ledger)

    @contextmanager
    def making_home(self) -> Iterator[None]:
        """Decide who keeps a home that what is done in the block makes, and say so once it is made."""
        new = self.choice().new_home(self.ledger)
        if new is not None:
            new.make(self.ledger)
            if self.kept_by_msb:
                self.note(new.sentence)
                new = None
        # A pull that fails is recorded, and so makes the home as well.
        with self._telling(new):
            yield

    @contextmanager
    def making_own_home(self) -> Iterator[None]:
        """Say it once what is done in the block has made a home, which msb-cache itself keeps."""
        from msb_cache.engines.choose import NewHome

        is_new = self.choice().is_open(self.ledger)
        with self._telling(NewHome(self.layout.home, None) if is_new else None):
            yield

    @contextmanager
    def _telling(self, new: NewHome | None) -> Iterator[None]:
        try:
            yield
        finally:
            if new is not None and not self.choice().is_open(self.ledger):
                self.note(new.sentence)

    def choice(self) -> Choice:
        """Return what was said about who keeps this home."""
        from msb_cache.engines.choose import Choice

        return Choice(self._asked, self.is_default)

    def recorded(self) -> str | None:
        """Record what msb did, if it keeps this home; return a sentence if that cannot be done."""
        if not self._sync or not self.kept_by_msb:
            return None
        from msb_cache.msb.sync import sync_before_reading

        return sync_before_reading(self.ledger)

    def observe(self) -> bool:
        """Record what msb did, and say it once if that cannot be done; return whether it was."""
        sentence = self.recorded()
        if sentence is None:
            self._noted.forget()
        elif self._noted.is_new(sentence):
            self.note(sentence)
        return sentence is None

    def saying(self, reason: str | None, context: Mapping[str, str] | None) -> AbstractContextManager[None]:
        """Record a reason and a context with what one call does; see ``Ledger.saying``."""
        return self.ledger.saying(reason, context)

    def begin_writing(self) -> None:
        """Refuse a home that cannot be written to; finish or undo what a killed process left."""
        from msb_cache.engines.recover import recover

        self.ledger.check_writable()
        recover(self.ledger)

    @contextmanager
    def index(self, as_of: AsOf | None = None) -> Iterator[sqlite3.Connection | None]:
        """Observe, and read the index now or as it was; None when the home has no log yet.

        That the log does not know what was there then is said, or stands in the error about an image.
        """
        self.observe()
        with self.ledger.read() as connection:
            if as_of is None:
                yield connection
                return
            (position, time_ns), unknown = self._position(connection, as_of)
            try:
                yield self._index_at(connection, position, time_ns)
            except ImageNotFoundError as error:
                raise error if unknown is None else ImageNotFoundError(f"{error}; {unknown}") from None
            if unknown is not None and self._unknown.is_new(unknown):
                self.note(unknown)  # several questions about one moment need it once

    @contextmanager
    def then(self, as_of: AsOf) -> Iterator[Then]:
        """Observe, and read the index as it was, with the whole log beside it."""
        self.observe()
        with self.ledger.read() as connection:
            (position, time_ns), unknown = self._position(connection, as_of)
            index = self._index_at(connection, position, time_ns)
            store = None if connection is None else self.ledger.store(connection)
            yield Then(position, time_ns, index, store, unknown)

    @contextmanager
    def log(self) -> Iterator[tuple[sqlite3.Connection, EventStore] | None]:
        """Observe, and read the index with the events behind it; None when the home has no log yet."""
        with self.index() as connection:
            yield None if connection is None else (connection, self.ledger.store(connection))

    def corrected_time(self, connection: sqlite3.Connection) -> int:
        """Return the clock's time, in ns since the epoch, less by how much it is known to have jumped ahead.

        That is said, because all ages are counted without it.
        """
        ahead = self.ledger.clock_ahead(connection)
        if ahead:
            from msb_cache.wording import duration

            self.note(
                f"the computer's clock jumped ahead by {duration(ahead)}, which does not count here; "
                "set it right"
            )
        return self.ledger.clock() - ahead

    def knows(self, as_of: AsOf) -> bool:
        """Return whether the log knows what was there at a moment; the caller has observed."""
        with self.ledger.read() as connection:
            return self._position(connection, as_of)[1] is None

    def contents(self, as_of: AsOf | None) -> Contents:
        """Return what of the index is compared with another moment's; the caller has observed."""
        from msb_cache.queries.as_of import Contents, contents

        with self.ledger.read() as connection:
            if as_of is not None:
                (position, time_ns), unknown = self._position(connection, as_of)
                index = self._index_at(connection, position, time_ns)
                if unknown is not None:
                    self.note(unknown)
            else:
                head = None if connection is None else self.ledger.store(connection).head()
                position, index = 0 if head is None else head.seq, connection
            return Contents(position, {}, {}, {}, {}, 0) if index is None else contents(index, position)

    def _position(
        self, connection: sqlite3.Connection | None, as_of: AsOf
    ) -> tuple[tuple[int, int], str | None]:
        """Return position and time of a moment, and a sentence if what was there then is not known."""
        from msb_cache.queries.as_of import moment_of, unknown

        store = None if connection is None else self.ledger.store(connection)
        found = moment_of(store, as_of, self.ledger.clock())
        return found, unknown(connection, found[0], self.kept_by_msb)

    def _index_at(
        self, connection: sqlite3.Connection | None, position: int, time_ns: int
    ) -> sqlite3.Connection | None:
        from msb_cache.home.index_cache import index_at, may_write

        if connection is None:
            return None
        here = self.ledger.here
        if here.past is None or here.past.position != position:
            here.forget_past()
            store, layout = self.ledger.store(connection), self.layout
            keep = not self.kept_by_msb and may_write(layout.db)
            here.past = index_at(connection, store, position, layout.snapshots, keep=keep)
        here.past.asked_about(time_ns)
        return here.past.connection


def _cache_index(layout: Layout, connection: sqlite3.Connection, before: int, seq: int) -> None:
    from msb_cache.home.index_cache import keep_live

    keep_live(connection, before, seq, layout.snapshots)
