"""Which events a query asks for, and reading them page by page.

The log only grows, so a page is one short transaction and the next goes on behind it: nothing is held open
while a person reads slowly, and the whole is still what the log was when it was asked.
"""

from __future__ import annotations

import re
import sqlite3
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypedDict, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from msb_cache.errors import InvalidConfigError, OperationNotFoundError
from msb_cache.eventstore.store import EventStore, StoredEvent
from msb_cache.eventstore.upcasting import CATALOGUE
from msb_cache.eventstore.where import ANYTHING, Where
from msb_cache.home.ledger import Ledger
from msb_cache.projections import images
from msb_cache.projections.history import HistoryEvent, Scope, history
from msb_cache.queries import resolve
from msb_cache.wording import as_text

if TYPE_CHECKING:
    from msb_cache.queries.deletions import DeletionReport
    from msb_cache.queries.times import Moment

_OPERATION_PREFIX = r"[0-9a-f-]{4,36}"
_WHOLE_DIGEST = 71  # characters
_LONGEST = 1000  # characters of a text to look for
_FIRST_PAGE, _LARGEST_PAGE = 500, 32_000
_BEFORE_FOLLOWING = 10
_SHOWN_OF_ID = 13  # characters, as `prunes` shows it
_Bound = tuple[int | None, int | None]  # a time in ns, or a position


class Filters(TypedDict, total=False):
    """What an event must fit; everything that is given must hold.

    Times are those of ``msb_cache.queries.times``, and ``@5``: from the event at that position, or up to it.

    Attributes:
        since: occurred at or after this time.
        until: occurred at or before this time.
        recorded_since: recorded at or after this time, which can be long after it occurred.
        recorded_until: recorded at or before this time.
        occurred_since, occurred_until: older names of ``since`` and ``until``.
        after: only positions greater than this.
        types: only these event types, such as ``image.pulled``.
        subject: only about these: references, wildcards, digests or beginnings of them, operations; one or
            several.
        operation: only of this operation; a unique beginning of its id will do.
        actor: only what this user did, or one who had logged in so, or ``user@host``; or what was claimed: a
            value or ``name=value``.
        host: only what was done on this machine.
        holder: only holds, releases and uses of this holder.
        digest: only about this manifest or layer, or naming it; a unique beginning will do.
        grep: only with this text in the subject, the data or the actor; the case of ASCII letters is ignored.
        reverse: newest first.
        limit: at most this many: the newest of them, in the order that is asked for. With ``after``, and
            where the log is followed, the first that come: so a program goes through the log in pieces.
    """

    since: Moment | None
    until: Moment | None
    recorded_since: Moment | None
    recorded_until: Moment | None
    occurred_since: Moment | None
    occurred_until: Moment | None
    after: int
    types: Iterable[str] | None
    subject: str | Sequence[str] | None
    operation: str | None
    actor: str | None
    host: str | None
    holder: str | None
    digest: str | None
    grep: str | None
    reverse: bool
    limit: int | None


class Span(Struct, frozen=True):
    """Positions: greater than ``after``, up to ``until``; at most ``limit`` events, newest first or last."""

    after: int
    until: int
    limit: int | None
    reverse: bool = False


E = TypeVar("E", bound=StoredEvent)
Reader = Callable[[sqlite3.Connection, EventStore, Span], Iterator[E]]
"""Reads what fits between two positions; it looks names up anew each time, for the log may have new ones."""


class Query:
    """A checked selection.

    Args:
        filters: what was asked for.
        now_ns: the present, for times such as ``yesterday``; ns since the epoch, UTC.

    Raises:
        TypeError: there is no filter of that name.
        InvalidConfigError: a time, type, number or text in it makes no sense.
    """

    def __init__(self, filters: Filters, now_ns: int) -> None:
        _check_names(filters)

        def bound(name: str) -> _Bound:
            moment = _moment(filters, name)
            position = None
            if isinstance(moment, str) and "@" in moment:
                from msb_cache.queries.as_of import position_in  # with the msgspec types of holds and uses

                position = position_in(moment)
            if moment is None or position is not None:
                return None, position
            from msb_cache.queries.times import as_ns  # with dateutil

            return as_ns(moment, now_ns), None

        since_ns, since = bound("since")
        until_ns, until = bound("until")
        self.recorded_since_ns, recorded_since = bound("recorded_since")
        self.recorded_until_ns, recorded_until = bound("recorded_until")
        after = checked_number(filters.get("after", 0), "after")
        self.in_pieces = "after" in filters
        self.after = max(after, *(seq - 1 for seq in (since, recorded_since) if seq), 0)
        self.until = min((seq for seq in (until, recorded_until) if seq is not None), default=None)
        beginnings = (since_ns, since, self.recorded_since_ns, recorded_since)
        self.has_beginning = self.in_pieces or any(each is not None for each in beginnings)
        types = filters.get("types")
        self.types = None if types is None else _known_types(types)
        subject = filters.get("subject")
        self.subjects = [subject] if isinstance(subject, str) else subject
        self.operation = filters.get("operation")
        self.digest = filters.get("digest")
        limit = filters.get("limit")
        self.limit = None if limit is None else checked_number(limit, "limit")
        self.reverse = filters.get("reverse", False)
        if (holder := filters.get("holder")) is not None:
            resolve.check_holder(holder)
        self.asked = Where(
            actor=_text(filters.get("actor")),
            host=_text(filters.get("host")),
            holder=holder,
            text=_text(filters.get("grep")),
            occurred_from_ns=since_ns,
            occurred_until_ns=until_ns,
        )

    def first(self, store: EventStore) -> int:
        """Return the position behind which the selection begins."""
        # When an event occurred bounds no positions: a clock that was set back since, or msb's, can have been
        # ahead of the one that the event was recorded by.
        since_ns = self.recorded_since_ns
        return self.after if since_ns is None else max(self.after, store.position_at(since_ns - 1))

    def last(self, store: EventStore) -> int:
        """Return the last position of the selection, as the log is now."""
        head = store.head()
        end = 0 if head is None else head.seq
        if self.until is not None:
            end = min(end, self.until)
        until_ns = self.recorded_until_ns
        return end if until_ns is None else min(end, store.position_at(until_ns))

    def where(self, connection: sqlite3.Connection) -> Where:
        """Return the conditions that no index serves, with a digest written out."""
        if self.digest is None:
            return self.asked
        digest = resolve.digest_prefix(self.digest)
        if digest is None or len(digest) < _WHOLE_DIGEST:  # a whole one may be a blob's or a config's as well
            digest = resolve.digest_in_log(connection, self.digest)
        return replace(self.asked, digest=digest)

    def events(self, connection: sqlite3.Connection, store: EventStore, span: Span) -> Iterator[StoredEvent]:
        """Yield the events that fit."""
        subjects = None if self.subjects is None else _subjects(connection, self.subjects)
        operation = None if self.operation is None else operation_in_log(connection, self.operation)
        return store.read(
            after=span.after,
            until=span.until,
            types=self.types,
            subjects=subjects,
            operation=operation,
            where=self.where(connection),
            reverse=span.reverse,
            limit=span.limit,
        )

    def history_of(self, scope_in: Callable[[sqlite3.Connection], Scope]) -> Reader[HistoryEvent]:
        """Return what reads a history as far as it fits.

        Args:
            scope_in: says whose history, asked for each page: in a log that is followed, a wildcard can come
                to mean more.
        """

        def read(connection: sqlite3.Connection, store: EventStore, span: Span) -> Iterator[HistoryEvent]:
            found = self._in_history(connection, store, scope_in(connection), span)
            if span.reverse:
                return reversed(deque(found, span.limit))
            return islice(found, span.limit)

        return read

    def _in_history(
        self, connection: sqlite3.Connection, store: EventStore, scope: Scope, span: Span
    ) -> Iterator[HistoryEvent]:
        found = history(connection, store, scope, after=span.after, until=span.until)
        for fits in self._tests(connection, store):
            found = filter(fits, found)
        return found

    def _tests(
        self, connection: sqlite3.Connection, store: EventStore
    ) -> Iterator[Callable[[HistoryEvent], bool]]:
        """Yield what has to be asked of each event: nothing, as a rule."""
        if self.types is not None:
            types = set(self.types)
            yield lambda event: event.type in types
        if self.subjects is not None:
            subjects = set(_subjects(connection, self.subjects))
            yield lambda event: event.subject in subjects
        if self.operation is not None:
            operation = operation_in_log(connection, self.operation)
            yield lambda event: event.operation == operation
        where = self.where(connection)
        since_ns, until_ns = where.occurred_from_ns, where.occurred_until_ns
        if since_ns is not None:
            yield lambda event: event.occurred_at_ns >= since_ns
        if until_ns is not None:
            yield lambda event: event.occurred_at_ns <= until_ns
        asked_of_log = replace(where, occurred_from_ns=None, occurred_until_ns=None)
        if asked_of_log != ANYTHING:
            yield lambda event: store.fits(event.seq, asked_of_log)


def pages(ledger: Ledger, query: Query, read: Reader[E]) -> Iterator[E]:
    """Yield what fits, up to the log's end as it was at the beginning."""
    with ledger.read() as connection:
        if connection is None:
            return
        store = ledger.store(connection)
        span = Span(query.first(store), query.last(store), query.limit, query.reverse)
    if span.limit and not (span.reverse or query.in_pieces):
        span = _newest(ledger, read, span)
    yield from _read(ledger, read, span)


def _newest(ledger: Ledger, read: Reader[E], span: Span) -> Span:
    """Return the part of a span that has its newest events, as many as its limit; none is kept in memory."""
    oldest = deque(_read(ledger, read, replace(span, reverse=True)), 1)
    return replace(span, after=oldest[0].seq - 1) if oldest else span


def follow(ledger: Ledger, query: Query, read: Reader[E], looks: Iterable[None]) -> Iterator[E]:
    """Yield what fits and, after each look, what has come since. Without a beginning, the last ten first.

    Args:
        ledger: the home.
        query: its end and its direction do not matter.
        read: reads what is asked for.
        looks: one for each look; its end is the end.
    """
    position: int | None = None
    left = query.limit
    for _ in looks:
        latest: list[E] = []
        with ledger.read() as connection:
            if connection is None:
                continue
            store = ledger.store(connection)
            head = store.head()
            end = 0 if head is None else head.seq
            if position is None and not query.has_beginning:
                latest = [*read(connection, store, Span(0, end, _BEFORE_FOLLOWING, reverse=True))]
                position = end
            elif position is None:
                position = query.first(store)
            elif position == end:
                continue
        for event in (*reversed(latest), *_read(ledger, read, Span(position, end, left))):
            if left is not None:
                left -= 1
            yield event
            if left == 0:
                return
        position = end


def _read(ledger: Ledger, read: Reader[E], span: Span) -> Iterator[E]:
    """Yield what fits in a span, in pages; later ones are larger, for some selections are sorted for each."""
    size, left = _FIRST_PAGE, span.limit
    while left != 0:
        size = size if left is None else min(size, left)
        with ledger.read() as connection:
            if connection is None:
                return
            page = [*read(connection, ledger.store(connection), replace(span, limit=size))]
        yield from page
        if len(page) < size:
            return
        end = page[-1].seq
        span = replace(span, until=end - 1) if span.reverse else replace(span, after=end)
        left = None if left is None else left - len(page)
        size = min(2 * size, _LARGEST_PAGE)


def operation_in_log(connection: sqlite3.Connection, prefix: str) -> str:
    """Return the operation whose id begins with ``prefix``, at least four characters of it.

    Raises:
        OperationNotFoundError: none does, or several do.
    """
    found = []
    if re.fullmatch(_OPERATION_PREFIX, prefix):
        from msb_cache.projections import deletions

        found = deletions.operations_with(connection, prefix)
    if len(found) != 1:
        raise _no_operation(connection, prefix, several=bool(found))
    return found[0]


def deletion_in_log(log: tuple[sqlite3.Connection, EventStore] | None, prefix: str) -> DeletionReport:
    """Return the report of the deletion whose id begins with ``prefix``; ``log`` is None when there is none.

    Raises:
        OperationNotFoundError: none does, or several do.
    """
    from msb_cache.projections import deletions
    from msb_cache.queries import deletions as reports

    if not re.fullmatch(_OPERATION_PREFIX, prefix):
        raise OperationNotFoundError(
            f"{as_text(prefix[:100])!r} is no operation id, nor four characters or more of one; "
            "`msb-cache prunes` lists them"
        )
    found = [] if log is None else deletions.find(log[0], prefix)
    if len(found) > 1:
        raise OperationNotFoundError(f"{len(found)} deletions begin with {prefix}; give more of the id")
    report = reports.report(*log, found[0].operation) if log is not None and found else None
    if report is None:
        if log is not None and deletions.operations_with(log[0], prefix):
            raise OperationNotFoundError(
                f"operation {prefix} deleted nothing; `msb-cache events --operation {prefix}` shows it"
            )
        offered = _deletion_meant(log, prefix) or "; `msb-cache prunes` lists them"
        raise OperationNotFoundError(f"no deletion has the id {prefix}{offered}")
    return report


def _check_names(filters: Filters) -> None:
    """Refuse a filter that there is not, as Python does with a keyword: else the whole log would fit."""
    for name in filters.keys() - Filters.__annotations__.keys():
        from difflib import get_close_matches

        like = get_close_matches(name, Filters.__annotations__, 1)
        hint = f"did you mean {like[0]}=?" if like else f"there are: {', '.join(Filters.__annotations__)}"
        raise TypeError(f"unexpected keyword argument {name!r}; {hint}")


def _no_operation(connection: sqlite3.Connection, prefix: str, *, several: bool) -> OperationNotFoundError:
    shown = repr(as_text(prefix[:100]))
    if several:
        return OperationNotFoundError(f"several operations begin with {shown}; give more of the id")
    from msb_cache.queries.near import operation_meant  # only an error offers what was probably meant

    offered = operation_meant(connection, prefix) or "; `msb-cache events --format json` shows the ids"
    return OperationNotFoundError(f"no operation has the id {shown}{offered}")


def _deletion_meant(log: tuple[sqlite3.Connection, EventStore] | None, prefix: str) -> str:
    if log is None:
        return ""
    from msb_cache.projections import deletions
    from msb_cache.queries.near import meant

    length = max(len(prefix), _SHOWN_OF_ID)
    return meant(prefix, (row.operation[:length] for row in reversed(deletions.find(log[0], ""))))


def _subjects(connection: sqlite3.Connection, names: Sequence[str]) -> list[str]:
    found: dict[str, None] = {}
    for name in names:
        if images.is_subject(connection, as_text(name)):
            found[name] = None
            continue
        references, digest = resolve.in_log(connection, name)
        found.update(dict.fromkeys(references if digest is None else [digest]))
    return [*found]


def _moment(filters: Filters, name: str) -> Moment | None:
    """Return one end of a selection, also where it has its older name."""
    given: Moment | None = filters.get(name)  # type: ignore[assignment]
    older: Moment | None = filters.get(f"occurred_{name}")  # type: ignore[assignment]
    if older is None:
        return given
    warnings.warn(f"occurred_{name} is called {name}", DeprecationWarning, stacklevel=6)
    if given is not None:
        raise InvalidConfigError(
            f"{name} and occurred_{name} are the same; give one, or recorded_{name} for when it was recorded"
        )
    return older


def _known_types(types: Iterable[str]) -> list[str]:
    chosen = [types] if isinstance(types, str) else [*types]
    for name in chosen:
        if name not in CATALOGUE.type_names:
            from msb_cache.queries.near import meant  # only an error offers what was probably meant

            known = CATALOGUE.type_names
            offered = meant(name, known) or f"; there are: {', '.join(known)}"
            raise InvalidConfigError(f"{as_text(name[:100])!r} is no event type{offered}")
    return chosen


def _text(text: str | None) -> str | None:
    if text is not None and not 0 < len(text) <= _LONGEST:
        raise InvalidConfigError(f"a text to look for has 1 to {_LONGEST} characters, not {len(text)}")
    return None if text is None else as_text(text)


def checked_number(value: int, name: str) -> int:
    """Return a position or a number of events; raises InvalidConfigError if no log has so many."""
    if not 0 <= value < 2**63:
        raise InvalidConfigError(f"{name} is a number from 0 to 2^63-1, not {value}")
    return value
