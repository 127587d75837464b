"""The events of many hosts' logs, in one order: all, those of an image's history, or those that come.

They are in the order in which they were recorded, and within a log in its own. An event is told when it is
folded: until then the folder has not checked it again, and not taken an image's configuration out of it.

What the server keeps no index for is asked here, of one page of events after another, and in the words of one
host's log (``eventstore.where``); so both databases answer alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from msgspec.structs import replace

from msb_cache.errors import FleetError, ImageNotFoundError, InvalidConfigError, OperationNotFoundError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.row import COLUMNS
from msb_cache.eventstore.store import StoredEvent, decode_row
from msb_cache.eventstore.upcasting import CATALOGUE
from msb_cache.eventstore.where import ANYTHING, Where
from msb_cache.fleet.hosts import HELD, KnownLog, OnHost, on_host
from msb_cache.fleet.place import Place, Reading, Values, marks, within
from msb_cache.fleet.schema import SELDOM
from msb_cache.oci.digest import shown
from msb_cache.projections.history import (
    OF_LAYER,
    OF_MANIFEST,
    HistoryEvent,
    Known,
    Scope,
    history_of,
)
from msb_cache.projections.images import AFTER_HEX
from msb_cache.queries import resolve
from msb_cache.queries.events import Query
from msb_cache.wording import short_log_id

_AFTER_ALL = "\U0010ffff"
_AT_ONCE = 32
"""So many logs are looked at in one read, if as many can be next."""
_CHUNK = 500
"""So many texts are asked for in one statement."""
_BUFFERED = 50_000
"""About so many events, or 16 of each log, are in memory while those of all are brought into one order."""
_FIRST_PAGE, _PAGE = 16, 1000
_DAY_NS = 86_400 * 10**9
"""No event is thought to be recorded so much earlier than it occurred: clocks differ by less."""

_ROW = f"e.log_id, {', '.join(f'e.{name}' for name in (*COLUMNS, 'hash'))}"
_FOLDED = "FROM msb_cache.event e JOIN msb_cache.fold_state f ON f.log_id = e.log_id AND e.seq <= f.seq"
_REMOVES = (ev.ImageRemoved.type, ev.ManifestDeleted.type)
_NOT_TOLD = tuple(each.type for each in ev.EVENT_TYPES if each.about == "artifact" and not each.in_history)
"""The types of events on a reference that are not of its history."""
_OUTCOMES = (*OF_LAYER, ev.FlatDeleted.type)

T = TypeVar("T", bound=StoredEvent)
Span = tuple[int, int]
"""Positions of a log: greater than the first, up to the second."""
Key = tuple[int, str, int]
"""What events of all logs are ordered by: ``recorded_at``, the log's id, and the position."""


def decoded(row: Values) -> StoredEvent:
    """Return an event from a row that begins with its log's id."""
    return decode_row(row[1:12], CATALOGUE.decode)


def key_of(log_id: str, event: StoredEvent) -> Key:
    """Return what an event is ordered by among those of all logs."""
    return event.recorded_at_ns, log_id, event.seq


# -- names -----------------------------------------------------------------------------------------


class Means(NamedTuple):
    """What a text means at a place.

    Attributes:
        references: canonical ones.
        digests: the logs that know it as a digest, or as the beginning of one, with the whole ones.
    """

    references: tuple[str, ...] = ()
    digests: tuple[tuple[str, str], ...] = ()


def means(reading: Reading, text: str, logs: Collection[str] | None, *, subject: bool = False) -> Means:
    """Return what a text ever meant in these logs (None: all): as ``resolve.in_log`` does in one.

    Args:
        reading: the place.
        text: a reference, one with wildcards, or a digest or the beginning of one.
        logs: where.
        subject: whether it may be any other subject of events, too, as it is written.

    Raises:
        InvalidReferenceError: the text can be none of these.
    """
    within, among = in_logs("log_id", logs)
    if subject and _is_subject(reading, text, within, among):
        return Means((text,))
    if resolve.is_pattern(text):
        fits = resolve.matcher(text)
        return Means(tuple(name for name in known_references(reading, logs) if fits(name)))
    parsed, prefix = resolve.as_reference(text), resolve.digest_prefix(text)
    if prefix is None:
        assert parsed is not None  # noqa: S101
        found = _is_subject(reading, parsed.canonical, within, among)
        return Means((parsed.canonical,) if found else ())
    references: tuple[str, ...] = ()
    named: set[str] = set()
    if parsed is not None:
        rows = reading.rows(
            f"SELECT DISTINCT log_id FROM msb_cache.event WHERE subject = ?{within}",
            (parsed.canonical, *among),
        )
        named = {log_id for (log_id,) in rows}
        references = (parsed.canonical,) if named else ()
    known = digests(reading, prefix, logs)
    return Means(references, tuple((log_id, digest) for log_id, digest in known if log_id not in named))


def digests(reading: Reading, prefix: str, logs: Collection[str] | None) -> list[tuple[str, str]]:
    """Return the digests of manifests and layers that begin so, each with a log that knows it, in order."""
    within, among = in_logs("log_id", logs)
    found: set[tuple[str, str]] = set()
    for column, table in (("subject", "event"), ("diff_id", "layer")):
        rows = reading.rows(
            f"SELECT DISTINCT log_id, {column} FROM msb_cache.{table} "
            f"WHERE {column} >= ? AND {column} < ?{within}",
            (prefix, prefix + AFTER_HEX, *among),
        )
        found.update((log_id, digest) for log_id, digest in rows)
    return sorted(found)


def known_references(reading: Reading, logs: Collection[str] | None = None) -> list[str]:
    """Return every canonical reference that was ever pulled on some host, or tried to be, in order."""
    within, among = in_logs("log_id", logs)
    rows = reading.rows(
        f"SELECT reference FROM msb_cache.pointed_at WHERE 1 = 1{within} "
        f"UNION SELECT subject FROM msb_cache.event WHERE {SELDOM} AND type = 'image.pull_failed'{within} "
        "ORDER BY 1",
        (*among, *among),
    )
    return [name for (name,) in rows]


def never_seen(text: str, known: Iterable[str]) -> ImageNotFoundError:
    """Return the error about what no host's log has seen, with the known names most like it."""
    if resolve.is_pattern(text):
        return ImageNotFoundError(f"no image of any host matches {shown(text)}{HELD}")
    parsed = resolve.as_reference(text)
    if parsed is None or text.startswith("sha256:"):
        return ImageNotFoundError(f"no host's log has seen a manifest or layer {shown(text)}{HELD}")
    from msb_cache.queries.near import image_meant  # only an error offers what was probably meant

    offered = image_meant(text, map(resolve.familiar, known))
    return ImageNotFoundError(f"no host's log has seen {parsed.familiar}{offered or HELD}")


def together(found: Iterable[Means], text: str) -> Means:
    """Return what a text means at all places.

    Raises:
        InvalidReferenceError: several digests begin with it.
    """
    every = [*found]
    digests = sorted({digest for each in every for _, digest in each.digests})
    if len(digests) > 1:
        resolve.only(digests, text, "in the logs")
    references = dict.fromkeys(chain.from_iterable(each.references for each in every))
    return Means(tuple(references), tuple(chain.from_iterable(each.digests for each in every)))


def operations(reading: Reading, prefix: str, logs: Collection[str] | None) -> list[str]:
    """Return at most two operations whose ids begin so."""
    within, among = in_logs("log_id", logs)
    rows = reading.rows(
        "SELECT DISTINCT operation FROM msb_cache.event "
        f"WHERE operation >= ? AND operation < ?{within} LIMIT 2",
        (prefix, prefix + _AFTER_ALL, *among),
    )
    return [operation for (operation,) in rows]


def only_operation(found: Sequence[str], prefix: str) -> str:
    """Return the one operation that was found.

    Raises:
        OperationNotFoundError: there is none, or there are several.
    """
    unique = {*found}
    if len(unique) == 1:
        return unique.pop()
    said = shown(prefix[:100])
    if unique:
        raise OperationNotFoundError(f"several operations begin with {said}; give more of the id")
    raise OperationNotFoundError(
        f"no operation of any host has the id {said}; `msb-cache fleet events --format json` shows the ids"
    )


# -- what is asked for -----------------------------------------------------------------------------


class Asked(NamedTuple):
    """A selection of events, with what names in it mean; None: any.

    Attributes:
        query: the selection.
        logs: in which logs.
        subjects: about which subjects.
        operation: of which operation.
        where: what else must fit; a digest in it is whole.
    """

    query: Query
    logs: tuple[str, ...] | None = None
    subjects: tuple[str, ...] | None = None
    operation: str | None = None
    where: Where = ANYTHING

    @property
    def is_everything(self) -> bool:
        """Whether all events fit."""
        query = self.query
        bounds = (query.types, query.until, query.recorded_since_ns, query.recorded_until_ns)
        named = (self.subjects, self.operation)
        return not query.after and all(each is None for each in (*bounds, *named)) and self.where == ANYTHING

    @property
    def test(self) -> Callable[[Values], bool]:
        """What a row must fit that SQL does not ask for."""
        # Whether it occurred within a span is for the SQL.
        where = replace(self.where, occurred_from_ns=None, occurred_until_ns=None)
        if where == ANYTHING:
            return lambda _row: True
        fits = where.test()
        return lambda row: fits(row[5], row[7], row[9], row[10])

    def conditions(self) -> tuple[str, list[Any]]:
        """Return what SQL asks of ``e``, each with AND before it, and the arguments."""
        query, where = self.query, self.where
        found: list[tuple[str, Sequence[Any]]] = []
        if query.types is not None:
            found.append((f"e.type IN ({marks(query.types)})" if query.types else "1 = 0", query.types))
        if self.subjects is not None:
            found.append(
                (f"e.subject IN ({marks(self.subjects)})" if self.subjects else "1 = 0", self.subjects)
            )
        if self.operation is not None:
            found.append(("e.operation = ?", [self.operation]))
        for condition, value in (
            ("e.occurred_at >= ?", where.occurred_from_ns),
            ("e.occurred_at <= ?", where.occurred_until_ns),
            ("e.recorded_at >= ?", query.recorded_since_ns),
            ("e.recorded_at <= ?", query.recorded_until_ns),
        ):
            if value is not None:
                found.append((condition, [value]))
        return (
            "".join(f" AND {condition}" for condition, _ in found),
            [value for _, values in found for value in values],
        )


def check_positions(query: Query, logs: Sequence[KnownLog]) -> None:
    """Refuse a position where several logs are asked, for each has its own.

    Raises:
        InvalidConfigError: there is one.
    """
    if query.after or query.until is not None:
        check_one(logs)


def check_one(logs: Sequence[KnownLog]) -> None:
    """Refuse a position where not one log is asked; raises InvalidConfigError."""
    if len(logs) > 1:
        raise InvalidConfigError(
            f"a position, such as @5, is one of one log, and {len(logs)} logs are asked; "
            "choose one with --host, or give a time"
        )


# -- all events ------------------------------------------------------------------------------------


class _Cursor:
    """One log, read in one direction.

    Attributes:
        log: which.
        waiting: what was read and is not told yet.
        key: where what comes next stands in the order of all; it can stand later.
    """

    def __init__(
        self, log: KnownLog, rank: int, first: int, last: int, *, begins_at: int, ends_at: int, reverse: bool
    ) -> None:
        self.log, self._rank, self._reverse = log, rank, reverse
        self._first, self._last = first, last
        self.waiting: deque[StoredEvent] = deque()
        self._size = _FIRST_PAGE
        self.key = self._key(ends_at, last) if reverse else self._key(begins_at, first)

    def load(self, reading: Reading, asked: Asked, most: int) -> None:
        """Read on until something fits, or the log ends."""
        conditions, arguments = asked.conditions()
        fits = asked.test
        order = "DESC" if self._reverse else "ASC"
        while not self.waiting and self._first < self._last:
            size = min(self._size, most)
            self._size *= 4
            rows = reading.rows(
                f"SELECT {_ROW} FROM msb_cache.event e "
                f"WHERE e.log_id = ? AND e.seq > ? AND e.seq <= ?{conditions} ORDER BY e.seq {order} LIMIT ?",
                (self.log.log_id, self._first, self._last, *arguments, size),
            )
            self.waiting.extend(decoded(row) for row in rows if fits(row))
            if len(rows) < size:
                self._first = self._last
            elif self._reverse:
                self._last = rows[-1][1] - 1
            else:
                self._first = rows[-1][1]
        self._look()

    def next(self) -> OnHost[StoredEvent]:
        """Return what comes next, which is waiting."""
        event = self.waiting.popleft()
        self._look()
        return on_host(self.log, event)

    @property
    def ended(self) -> bool:
        """Whether nothing comes any more."""
        return not self.waiting and self._first >= self._last

    def _look(self) -> None:
        if self.waiting:
            event = self.waiting[0]
            self.key = self._key(event.recorded_at_ns, event.seq)

    def _key(self, recorded_at_ns: int, seq: int) -> tuple[int, int, int]:
        sign = -1 if self._reverse else 1
        return sign * recorded_at_ns, sign * self._rank, sign * seq


def spans_of(reading: Reading, asked: Asked) -> list[tuple[KnownLog, int, int, int]]:
    """Return the logs that can have what is asked for; after and up to which position; and when it ends.

    The time is when the last folded event was recorded, in ns since the epoch, UTC.
    """
    query = asked.query
    within, among = in_logs("h.log_id", asked.logs)
    if asked.operation is not None or asked.subjects is not None:
        column, values = "operation", [asked.operation or ""]
        if asked.subjects is not None and asked.operation is None:
            column, values = "subject", [*asked.subjects]
        some = f"SELECT log_id FROM msb_cache.event WHERE {column} IN ({marks(values)})" if values else ""
        within += f" AND h.log_id IN ({some})" if some else " AND 1 = 0"
        among = [*among, *values]
    rows = reading.rows(
        "SELECT h.log_id, f.host, h.role, h.size, f.seq, f.recorded_at FROM msb_cache.head h "
        f"JOIN msb_cache.fold_state f ON f.log_id = h.log_id WHERE f.seq > 0{within}",
        among,
    )
    begins: dict[str, int] = dict(reading.rows("SELECT log_id, seq FROM msb_cache.anchor"))
    found = []
    for *of, recorded in rows:
        log = KnownLog(*of)
        end = log.folded_seq if query.until is None else min(log.folded_seq, query.until)
        found.append((log, max(query.after, begins.get(log.log_id, 0)), end, recorded))
    since_ns = query.recorded_since_ns
    occurred_ns = asked.where.occurred_from_ns
    if occurred_ns is not None:
        since_ns = max(occurred_ns - _DAY_NS, since_ns or 0)
    if since_ns is None:
        return found
    found = [each for each in found if each[3] >= since_ns]
    first = positions_before(reading, {log.log_id: (after, end) for log, after, end, _ in found}, since_ns)
    return [(log, max(after, first[log.log_id]), end, recorded) for log, after, end, recorded in found]


def positions_before(reading: Reading, within: Mapping[str, tuple[int, int]], time_ns: int) -> dict[str, int]:
    """Return of each log the last position that was recorded before a time, by halves, all logs at once.

    Raises:
        FleetError: an event between the two positions of its log is not there.
    """
    low = {log_id: after for log_id, (after, _) in within.items()}
    high = {log_id: end for log_id, (_, end) in within.items()}
    while asking := [
        (log_id, (low[log_id] + high[log_id] + 1) // 2) for log_id in low if low[log_id] < high[log_id]
    ]:
        times = _recorded_at(reading, asking)
        for log_id, seq in asking:
            if log_id not in times:
                raise FleetError(
                    f"event {seq} of the log {short_log_id(log_id)} is not there; "
                    "look at `msb-cache fleet verify`"
                )
            if times[log_id] < time_ns:
                low[log_id] = seq
            else:
                high[log_id] = seq - 1
    return low


def _recorded_at(reading: Reading, asking: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Return when events were recorded, one of each log, by log; those that are not there are left out."""
    times: dict[str, int] = {}
    for some in _chunks(asking):
        pairs = ", ".join(["(?, ?)"] * len(some))
        rows = reading.rows(
            f"SELECT log_id, recorded_at FROM msb_cache.event WHERE (log_id, seq) IN (VALUES {pairs})",
            [*chain.from_iterable(some)],
        )
        times.update(rows)
    return times


def of_place(
    place: Place,
    asked: Asked,
    *,
    reverse: bool,
    limit: int | None,
    within: Mapping[str, Span] | None = None,
) -> Iterator[OnHost[StoredEvent]]:
    """Yield what fits of a place's logs, in order; nothing is held open between two pages.

    Args:
        place: where.
        asked: what.
        reverse: newest first.
        limit: at most so many.
        within: of these logs alone, and of each what is in this span; None: everything.
    """
    spans = []
    with place.read() as reading:
        for log, first, last, ends_at in spans_of(reading, asked):
            after, until = (first, last) if within is None else within.get(log.log_id, (0, 0))
            first, last = max(first, after), min(last, until)
            if first < last:
                spans.append((log, first, last, ends_at))
        # Of a few, reading them says as much.
        asks = not reverse and len(spans) > _AT_ONCE
        begins = _recorded_at(reading, [(log.log_id, first + 1) for log, first, *_ in spans]) if asks else {}
    heap = []
    for rank, (log, first, last, ends_at) in enumerate(sorted(spans, key=lambda each: each[0].log_id)):
        begins_at = begins.get(log.log_id, 0)
        cursor = _Cursor(log, rank, first, last, begins_at=begins_at, ends_at=ends_at, reverse=reverse)
        heap.append((cursor.key, rank, cursor))
    heapify(heap)
    size = max(16, min(_PAGE, _BUFFERED // max(len(heap), 1), limit or _PAGE))
    left = limit
    while heap and left != 0:
        if not heap[0][2].waiting:
            # A log is read when its turn can have come: of a hundred thousand, ten have the newest events.
            # Those whose turn may be next are read by the way, as each read may be on another connection.
            several = _AT_ONCE if left is None else min(left, _AT_ONCE)
            ready = []
            with place.read() as reading:
                while heap and several > 0:
                    _, rank, cursor = heappop(heap)
                    if not cursor.waiting:
                        cursor.load(reading, asked, size)
                    several -= 1
                    if cursor.waiting:
                        ready.append((cursor.key, rank, cursor))
            for each in ready:
                heappush(heap, each)
            continue
        _, rank, cursor = heappop(heap)
        yield cursor.next()
        left = None if left is None else left - 1
        if not cursor.ended:
            heappush(heap, (cursor.key, rank, cursor))


def ends(reading: Reading, logs: Collection[str] | None) -> dict[str, int]:
    """Return up to which position each log is folded."""
    within, among = in_logs("log_id", logs)
    return dict(reading.rows(f"SELECT log_id, seq FROM msb_cache.fold_state WHERE 1 = 1{within}", among))


# -- histories -------------------------------------------------------------------------------------


class _Held:
    """The events of one log that can concern a history; it is asked as the log itself is."""

    def __init__(self, host: str, folded_seq: int) -> None:
        self.host, self.folded_seq = host, folded_seq
        self._events: dict[int, StoredEvent] = {}
        self._subjects: dict[str, list[StoredEvent]] = {}
        self._operations: dict[str, list[StoredEvent]] = {}
        self.rows: dict[int, Values] = {}

    def add(self, row: Values) -> None:
        """Take an event, once."""
        if row[1] not in self._events:
            event = self._events[row[1]] = decoded(row)
            self.rows[row[1]] = row
            self._subjects.setdefault(event.subject, []).append(event)
            self._operations.setdefault(event.operation, []).append(event)

    def read(
        self,
        *,
        after: int = 0,
        until: int | None = None,
        types: Iterable[str] | None = None,
        subjects: Iterable[str] | None = None,
        operation: str | None = None,
    ) -> Iterator[StoredEvent]:
        """Yield the events that fit, in position order."""
        wanted = None if types is None else {*types}
        about = None if subjects is None else {*subjects}
        if operation is not None:
            found: Iterable[StoredEvent] = self._operations.get(operation, ())
        elif about is not None:
            found = chain.from_iterable(self._subjects.get(subject, ()) for subject in about)
        else:
            found = self._events.values()
        for event in sorted(found, key=lambda event: event.seq):
            fits = event.seq > after and (until is None or event.seq <= until)
            if (
                fits
                and (wanted is None or event.type in wanted)
                and (about is None or event.subject in about)
            ):
                yield event


class _Candidates:
    """What logs of a place have that can concern a history, fetched in a few statements for all of them."""

    def __init__(
        self, reading: Reading, asked: Means, logs: Collection[str] | None, newest: int | None
    ) -> None:
        self._reading = reading
        self._of_digest = dict(asked.digests)
        self._asked = asked
        self.scopes: dict[str, Scope] = {}
        self.known: dict[str, Known] = {}
        self.held: dict[str, _Held] = {}
        self._within, self._among = in_logs("e.log_id", logs)
        self._since_ns: int | None = None
        self._fetch(newest)

    def _take(
        self, condition: str, arguments: Sequence[Any], *, new: bool = False, newest: int | None = None
    ) -> list[Values]:
        """Take the events that fit; with ``new``, not those that are too old to be asked for.

        Or so many of the newest of them.
        """
        since = "" if self._since_ns is None or not new else " AND e.recorded_at >= ?"
        first = " ORDER BY e.recorded_at DESC, e.log_id DESC, e.seq DESC LIMIT ?" if newest else ""
        rows = self._reading.rows(
            f"SELECT {_ROW}, f.host, f.seq {_FOLDED} WHERE {condition}{since}{self._within}{first}",
            (*arguments, *([self._since_ns] if since else []), *self._among, *([newest] if newest else [])),
        )
        for row in rows:
            self.held.setdefault(row[0], _Held(row[12], row[13])).add(row)
        return rows

    def _on_references(self, newest: int | None) -> list[Values]:
        """Take what is about the references; if the newest are enough, these, and note since when they are.

        What was recorded before is not among the newest of the histories then, and is not fetched.
        """
        references = self._asked.references
        if newest and not self._of_digest and len(references) <= _CHUNK:
            condition = f"e.subject IN ({marks(references)}) AND e.type NOT IN ({marks(_NOT_TOLD)})"
            found = self._take(condition, (*references, *_NOT_TOLD), newest=newest)
            if len(found) == newest:
                self._since_ns = found[-1][8]
            return found
        return [
            row for some in _chunks(references) for row in self._take(f"e.subject IN ({marks(some)})", some)
        ]

    def _fetch(self, newest: int | None) -> None:
        pointed: dict[str, dict[str, int]] = {}
        found = self._on_references(newest) if self._asked.references else []
        for some in _chunks(self._asked.references):
            rows = self._reading.rows(
                "SELECT e.log_id, e.manifest_digest, min(e.seq) FROM msb_cache.pointed_at e "
                f"WHERE e.reference IN ({marks(some)}){self._within} GROUP BY 1, 2 ORDER BY 3",
                (*some, *self._among),
            )
            for log_id, digest, seq in rows:
                of_log = pointed.setdefault(log_id, {})
                of_log[digest] = min(seq, of_log.get(digest, seq))
        for log_id in {row[0] for row in found} | {*pointed}:
            self.scopes[log_id] = Scope(self._asked.references)
        found += self._of_digests(pointed)
        digests = sorted({digest for of_log in pointed.values() for digest in of_log})
        found += self._on_manifests(digests)
        removed = sorted({row[6] for row in found if row[3] in _REMOVES})
        damaged = self._damaged()
        logs = sorted({row[0] for row in found if row[3] in _REMOVES} | {*damaged})
        for of_logs in _chunks(logs):  # of these it matters which layers the manifests have
            for some in _chunks(digests):
                condition = f"e.subject IN ({marks(some)}) AND e.type = ? AND e.log_id IN ({marks(of_logs)})"
                self._take(condition, (*some, ev.ManifestAdded.type, *of_logs))
        for some in _chunks(removed):
            condition = f"e.operation IN ({marks(some)}) AND e.type IN ({marks(_OUTCOMES)})"
            self._take(condition, (*some, *_OUTCOMES), new=True)
        for some in _chunks(sorted(set().union(*damaged.values()))):
            condition = f"e.subject IN ({marks(some)}) AND e.type = ?"
            self._take(condition, (*some, ev.LayerDeleted.type), new=True)
        for log_id in self.scopes:
            self.known[log_id] = Known(pointed.get(log_id, {}), damaged.get(log_id, set()))

    def _on_manifests(self, digests: Sequence[str]) -> list[Values]:
        """Take what is about the manifests.

        And of what is too old to be asked for, what removed the images by a deletion that may still have
        deleted their layers since.
        """
        since_ns, types = self._since_ns, OF_MANIFEST
        if self._of_digest:
            types = (*OF_MANIFEST, ev.ManifestAdded.type)
        if since_ns is None:
            condition = f"e.type IN ({marks(types)})"
            arguments: list[Any] = [*types]
        else:
            digests = [*self._asked.references, *digests]
            condition = (
                f"(e.recorded_at >= ? AND e.type IN ({marks(types)}) OR "
                f"e.recorded_at < ? AND e.type IN ({marks(_REMOVES)}) AND EXISTS ("
                "SELECT 1 FROM msb_cache.deletion d WHERE d.log_id = e.log_id AND d.operation = e.operation "
                "AND (d.finished_at IS NULL OR d.finished_at >= ?)))"
            )
            arguments = [since_ns, *types, since_ns, *_REMOVES, since_ns - _DAY_NS]
        return [
            row
            for some in _chunks(digests)
            for row in self._take(f"e.subject IN ({marks(some)}) AND {condition}", (*some, *arguments))
        ]

    def _of_digests(self, pointed: dict[str, dict[str, int]]) -> list[Values]:
        """Take what concerns the digest that is asked about, of logs where it is one."""
        if not self._of_digest:
            return []
        digest = next(iter(self._of_digest.values()))
        rows = self._reading.rows(
            "SELECT e.log_id, e.reference FROM msb_cache.pointed_at e "
            f"WHERE e.manifest_digest = ?{self._within} ORDER BY e.reference",
            (digest, *self._among),
        )
        references: dict[str, list[str]] = {log_id: [] for log_id in self._of_digest}
        for log_id, reference in rows:
            if log_id in references:
                references[log_id].append(reference)
        for log_id, of_log in references.items():
            self.scopes[log_id] = Scope(of_log, digest)
            pointed[log_id] = {digest: 0}
        found: list[Values] = []
        for some in _chunks(sorted({*chain.from_iterable(references.values())})):
            found += self._take(f"e.subject IN ({marks(some)})", some)
        return found

    def _damaged(self) -> dict[str, set[str]]:
        damaged: dict[str, set[str]] = {}
        for some in _chunks(sorted(self.scopes)):
            rows = self._reading.rows(
                f"SELECT log_id, subject FROM msb_cache.damage WHERE log_id IN ({marks(some)}) "
                "AND kind = 'layer'",
                some,
            )
            for log_id, subject in rows:
                damaged.setdefault(log_id, set()).add(subject)
        return damaged


def history(
    reading: Reading,
    meant: Means,
    asked: Asked,
    *,
    spans: Mapping[str, Span] | None = None,
    newest: int | None = None,
) -> list[OnHost[HistoryEvent]]:
    """Return the histories of what was asked about at a place, in the order of all logs.

    Args:
        reading: the place.
        meant: whose history.
        asked: what the events must fit besides; its subjects are asked of the histories' events.
        spans: of these logs alone, and of each what is in this span; None: everything.
        newest: so many of the newest are enough; there may be more, and of what is older not all.
    """
    candidates = _Candidates(reading, meant, asked.logs if spans is None else [*spans], newest)
    if not candidates.scopes:
        return []
    query, fits = asked.query, asked.test
    found: list[OnHost[HistoryEvent]] = []
    for log_id, scope in candidates.scopes.items():
        held = candidates.held.get(log_id)
        if held is None:
            continue
        after, end = (0, held.folded_seq) if spans is None else spans[log_id]
        first, last = max(query.after, after), end if query.until is None else min(end, query.until)
        events = history_of(held, scope, candidates.known[log_id], after=first, until=last)
        found += [
            OnHost(held.host, log_id, held.folded_seq, event)
            for event in events
            if _fits(asked, event) and fits(held.rows[event.seq])
        ]
    found.sort(key=lambda each: key_of(each.log_id, each.found))
    return found


def _fits(asked: Asked, event: StoredEvent) -> bool:
    query, where = asked.query, asked.where
    return (
        (query.types is None or event.type in query.types)
        and (asked.subjects is None or event.subject in asked.subjects)
        and (asked.operation is None or event.operation == asked.operation)
        and (where.occurred_from_ns is None or event.occurred_at_ns >= where.occurred_from_ns)
        and (where.occurred_until_ns is None or event.occurred_at_ns <= where.occurred_until_ns)
        and (query.recorded_since_ns is None or event.recorded_at_ns >= query.recorded_since_ns)
        and (query.recorded_until_ns is None or event.recorded_at_ns <= query.recorded_until_ns)
    )


def named(reading: Reading, log_ids: Sequence[str]) -> list[KnownLog]:
    """Return the logs of a place with these ids, as far as any event of them is folded."""
    rows: list[Values] = []
    for some in _chunks(log_ids):
        rows += reading.rows(
            "SELECT h.log_id, f.host, h.role, h.size, f.seq FROM msb_cache.head h "
            f"JOIN msb_cache.fold_state f ON f.log_id = h.log_id WHERE h.log_id IN ({marks(some)})",
            some,
        )
    return [KnownLog(*row) for row in rows]


def _is_subject(reading: Reading, text: str, within: str, among: Sequence[str]) -> bool:
    rows = reading.rows(
        f"SELECT 1 FROM msb_cache.event WHERE subject = ?{within} LIMIT 1",
        (text, *among),
    )
    return bool(rows)


def in_logs(column: str, logs: Collection[str] | None) -> tuple[str, list[str]]:
    """Return what restricts a question to some logs, with AND before it, and its arguments."""
    condition, arguments = within(column, logs)
    return f" AND {condition}", arguments


S = TypeVar("S")


def _chunks(values: Sequence[S]) -> Iterator[Sequence[S]]:
    return (values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK))
