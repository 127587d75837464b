"""A fleet's events as callers ask for them: names are looked up everywhere, answers put in one order."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from typing import NamedTuple, Protocol, TypeVar

from msgspec.structs import replace

from msb_cache.errors import FleetError
from msb_cache.eventstore.store import StoredEvent
from msb_cache.fleet import events as of_events
from msb_cache.fleet.events import Asked, Key, Means, Span, key_of
from msb_cache.fleet.hosts import KnownLog, OnHost
from msb_cache.fleet.hosts import logs as all_logs
from msb_cache.fleet.place import Place, Reading
from msb_cache.projections.history import HistoryEvent
from msb_cache.queries import resolve
from msb_cache.queries.events import Filters, Query

_BEFORE_FOLLOWING = 10
_MOST_LEFT_OUT = 63  # looks in a row, while a server is away: half a minute
_WHOLE_DIGEST = 71  # characters
T = TypeVar("T")
E = TypeVar("E", bound=StoredEvent)


class Everywhere(Protocol):
    """Asks every place of a fleet, all at the same time; see ``Fleet``."""

    def __call__(self, question: Callable[[Reading], Iterable[T]], /) -> list[T]:
        """Return what the places have found, the first place's first."""
        ...


class Timeline(NamedTuple):
    """The events of a fleet.

    Attributes:
        everywhere: asks all places.
        places: names them.
        now_ns: the present, for times such as ``yesterday``.
        logs: only these; None: all.
    """

    everywhere: Everywhere
    places: Callable[[], list[Place]]
    now_ns: int
    logs: tuple[KnownLog, ...] | None = None

    @property
    def _ids(self) -> tuple[str, ...] | None:
        return None if self.logs is None else tuple(log.log_id for log in self.logs)

    def events(self, filters: Filters) -> Iterator[OnHost[StoredEvent]]:
        """Yield the events that fit; see ``Fleet.events``."""
        query = Query(filters, self.now_ns)
        self._check(query)
        asked = self._asked(query)
        limited = query.limit is not None
        if limited and not (query.reverse or query.in_pieces):  # the newest, but the oldest of them first
            return reversed([*self._merged(asked, reverse=True)])
        return self._merged(asked, reverse=query.reverse)

    def history(self, reference: str, filters: Filters) -> list[OnHost[HistoryEvent]]:
        """Return what happened to an image; see ``Fleet.history``."""
        query = Query(filters, self.now_ns)
        self._check(query)
        meant, asked = self._likely(reference), self._asked(query)
        newest = None if query.in_pieces or not asked.is_everything else query.limit
        found = self.everywhere(lambda reading: of_events.history(reading, meant, asked, newest=newest))
        if not found:
            self.means(reference)  # which says if it was never anywhere
        found.sort(key=_key)
        if query.in_pieces and not query.reverse:
            return found[: query.limit]
        if query.limit is not None:
            found = found[max(0, len(found) - query.limit) :]
        return found[::-1] if query.reverse else found

    def follow(
        self,
        reference: str | None,
        filters: Filters,
        looks: Iterable[None],
        said: Callable[[str], object] = lambda sentence: None,
    ) -> Iterator[OnHost[StoredEvent]]:
        """Yield what fits and, after each look, what has come since; see ``Fleet.follow``."""
        query = Query(filters, self.now_ns)
        self._check(query)
        if reference is not None:
            self.means(reference)
        self._asked(query)
        return self._follow(query, reference, _Patient(looks, said))

    def means(self, reference: str) -> Means:
        """Return what a text means in the logs.

        Raises:
            ImageNotFoundError: no log knows it.
            InvalidReferenceError: it is no reference, or several digests begin with it.
        """
        found = self._meant(reference, subject=False)
        if not found.references and not found.digests:
            raise of_events.never_seen(reference, self.known_references())
        return found

    def _likely(self, reference: str) -> Means:
        """Return what a text means; of what can only be a reference, whether or not a log knows it."""
        if not resolve.is_pattern(reference) and resolve.digest_prefix(reference) is None:
            parsed = resolve.as_reference(reference)
            if parsed is not None:
                return Means((parsed.canonical,))
        return self.means(reference)

    def known_references(self) -> list[str]:
        """Return every reference that was ever pulled in these logs, or tried to be."""
        ids = self._ids
        return sorted({*self.everywhere(lambda reading: of_events.known_references(reading, ids))})

    # -- what names mean ---------------------------------------------------------------------------

    def _check(self, query: Query) -> None:
        if query.after or query.until is not None:
            logs = self.logs
            of_events.check_positions(query, self.everywhere(all_logs) if logs is None else logs)

    def _meant(self, text: str, *, subject: bool) -> Means:
        ids = self._ids
        found = self.everywhere(lambda reading: [of_events.means(reading, text, ids, subject=subject)])
        return of_events.together(found, text)

    def _asked(self, query: Query) -> Asked:
        ids = self._ids
        subjects, operation, where = None, query.operation, query.asked
        if query.subjects is not None:
            named: dict[str, None] = {}
            for name in query.subjects:
                found = self._meant(name, subject=True)
                if not found.references and not found.digests:
                    raise of_events.never_seen(name, self.known_references())
                named.update(dict.fromkeys(chain(found.references, (digest for _, digest in found.digests))))
            subjects = tuple(named)
        if operation is not None:
            beginning = operation
            some = self.everywhere(lambda reading: of_events.operations(reading, beginning, ids))
            operation = of_events.only_operation(some, beginning)
        if query.digest is not None:
            where = replace(where, digest=self._digest(query.digest))
        return Asked(query, ids, subjects, operation, where)

    def _digest(self, text: str) -> str:
        prefix = resolve.digest_prefix(text)
        if prefix is not None and len(prefix) == _WHOLE_DIGEST:  # it may be a blob's or a config's as well
            return prefix
        if prefix is None:
            raise resolve.no_digest(text)
        ids, beginning = self._ids, prefix
        found = self.everywhere(lambda reading: of_events.digests(reading, beginning, ids))
        return resolve.only(sorted({digest for _, digest in found}), text, "in the hosts' logs")

    # -- in order ------------------------------------------------------------------------------------

    def _merged(self, asked: Asked, *, reverse: bool) -> Iterator[OnHost[StoredEvent]]:
        limit = asked.query.limit
        found = [of_events.of_place(place, asked, reverse=reverse, limit=limit) for place in self.places()]
        return islice(heapq.merge(*found, key=_key, reverse=reverse), limit)

    def _follow(self, query: Query, reference: str | None, looks: _Patient) -> Iterator[OnHost[StoredEvent]]:
        told: dict[str, int] = {}
        left = query.limit
        for is_first in looks:
            latest = _BEFORE_FOLLOWING if is_first and not query.has_beginning else None
            with looks.patience():
                for each in self._come_since(told, query, reference, latest):
                    told[each.log_id] = each.found.seq  # from there on, if the rest cannot be read
                    left = None if left is None else left - 1
                    yield each
                    if left == 0:
                        return

    def _come_since(
        self, told: dict[str, int], query: Query, reference: str | None, latest: int | None
    ) -> Iterator[OnHost[StoredEvent]]:
        """Yield what fits behind a position of each log, and note there up to where it was looked."""
        ids = self._ids
        ends = dict(self.everywhere(lambda reading: [*of_events.ends(reading, ids).items()]))
        # A log whose read models are made anew is folded less far for a while, and not told again.
        grown = {log_id: (told.get(log_id, 0), end) for log_id, end in ends.items()}
        grown = {log_id: span for log_id, span in grown.items() if span[0] < span[1]}
        if grown:
            yield from self._come(self._asked(query), reference, grown, latest)
            told |= {log_id: end for log_id, (_, end) in grown.items()}

    def _come(
        self, asked: Asked, reference: str | None, spans: Mapping[str, Span], latest: int | None
    ) -> Iterator[OnHost[StoredEvent]]:
        """Yield what fits between two positions of each log; the latest of them, if not all."""
        if reference is not None:
            meant = self.means(reference)
            found = self.everywhere(lambda reading: of_events.history(reading, meant, asked, spans=spans))
            found.sort(key=_key)
            return iter(found if latest is None else found[-latest:])  # type: ignore[arg-type]
        merged = [
            of_events.of_place(place, asked, reverse=latest is not None, limit=latest, within=spans)
            for place in self.places()
        ]
        every = heapq.merge(*merged, key=_key, reverse=latest is not None)
        return every if latest is None else reversed([*islice(every, latest)])


class _Patient:
    """Looks that a server may be away for, once the first one has succeeded.

    Args:
        looks: come when it is time for one.
        said: gets a sentence when it goes away, and when it is there again.
    """

    def __init__(self, looks: Iterable[None], said: Callable[[str], object]) -> None:
        self._looks = looks
        self._said = said
        self._began = False
        self._left_out = 0
        self._waits = 0

    def __iter__(self) -> Iterator[bool]:
        """Yield for each look whether it is the first; while a server is away, not for all of them."""
        for _ in self._looks:
            if self._left_out:
                self._left_out -= 1
            else:
                yield not self._began

    @contextmanager
    def patience(self) -> Iterator[None]:
        """Look; where a server cannot be asked that could be, the next look comes later."""
        try:
            yield
        except FleetError as error:
            if not (self._began and error.temporary):
                raise
            if not self._waits:
                self._said(f"{error}; it is tried again until that passes")
            self._waits = min(2 * self._waits + 1, _MOST_LEFT_OUT)
            self._left_out = random.randint(self._waits // 2, self._waits)  # noqa: S311
            return
        if self._waits:
            self._said("the fleet can be asked again")
        self._began, self._waits = True, 0


def _key(each: OnHost[E]) -> Key:
    return key_of(each.log_id, each.found)
