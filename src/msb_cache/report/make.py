"""The report of a home: what it looks like at a position of its log, and how it came to that.

Of now, the disk is measured and the index read at one position; of the past, the index as it was is asked and
the disk is left alone. All else is told by the log, from its chronicle.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from msb_cache.care.disk_usage import measured
from msb_cache.errors import InvalidConfigError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import EventStore
from msb_cache.interchange.privacy import Privacy
from msb_cache.projections import deletions
from msb_cache.queries.as_of import AsOf, position_in
from msb_cache.queries.last_used import Standing, standings
from msb_cache.queries.times import as_ns
from msb_cache.report.blocks import Blocks, blocks_now, blocks_then
from msb_cache.report.chronicle import Chronicle, Keeper
from msb_cache.report.cut import Cut
from msb_cache.report.facts import CacheReport, DeletionMark, EventLine, ImageLife, PersonLine, SizePoint
from msb_cache.report.idle import idle, idle_times
from msb_cache.report.lines import lines
from msb_cache.report.lives import lives
from msb_cache.report.marks import deletions_at, marks
from msb_cache.report.people import people
from msb_cache.report.sizes import sizes
from msb_cache.session import Session, Then


class Asked(NamedTuple):
    """What a report is asked to show: from which moment on, up to which, and what it tells strangers."""

    since: AsOf
    as_of: AsOf | None
    privacy: Privacy


class _Told(NamedTuple):
    """What the log tells, and what of the index is asked at the same position."""

    cut: Cut
    log_id: str
    first_ns: int
    sizes: tuple[SizePoint, ...]
    deletions: tuple[DeletionMark, ...]
    lives: tuple[ImageLife, ...]
    people: tuple[PersonLine, ...]
    lines: tuple[EventLine, ...]
    standings: list[Standing]


def report(session: Session, keeper: Keeper, asked: Asked) -> CacheReport:
    """Return the report of a home; writes nothing but what msb did, as every reading does.

    Raises:
        InvalidConfigError: a moment is none, or in the future, or the report would end before it begins.
        CorruptLogError, UnknownEventError: the log or the index is damaged.
    """
    if asked.as_of is None:
        return _of_now(session, keeper, asked)
    with session.then(asked.as_of) as then:
        return _of_then(session, keeper, asked, then)


def _of_now(session: Session, keeper: Keeper, asked: Asked) -> CacheReport:
    def ask(connection: sqlite3.Connection | None) -> tuple[_Told, int] | None:
        if connection is None:
            return None
        store = session.ledger.store(connection)
        head = store.head()
        if head is None:
            return None
        with keeper.chronicle(store) as chronicle:
            told = _told(chronicle, store, connection, asked, (head.seq, session.ledger.clock()))
            return told, session.corrected_time(connection)

    found, answer = measured(session, ask)
    now_ns = session.ledger.clock()
    told, idle_ns = None, {}
    if answer is None:
        _begin(None, asked.since, (0, now_ns))
    else:
        told, corrected_ns = answer
        idle_ns = idle_times(told.standings, corrected_ns)
    made = _made(session, asked, told, now_ns, blocks_now(found, idle_ns), found.usage.notes)
    return replace(
        made,
        bytes=found.usage.cache_total.allocated_bytes,
        prune_bytes=found.usage.prune_bytes,
        free_bytes=_free_bytes(session),
    )


def _of_then(session: Session, keeper: Keeper, asked: Asked, then: Then) -> CacheReport:
    notes = [] if then.unknown is None else [then.unknown]
    moment = (then.position, then.time_ns)
    if then.store is None or then.index is None:
        _begin(None, asked.since, moment)
        return replace(_made(session, asked, None, then.time_ns, Blocks((), {}), notes), is_past=True)
    with keeper.chronicle(then.store) as chronicle:
        told = _told(chronicle, then.store, then.index, asked, moment)
    blocks = blocks_then(
        then.index, _left_over(then.index, then.store), idle_times(told.standings, then.time_ns)
    )
    return replace(_made(session, asked, told, then.time_ns, blocks, notes), is_past=True)


def _told(
    chronicle: Chronicle,
    store: EventStore,
    index: sqlite3.Connection,
    asked: Asked,
    moment: tuple[int, int],
) -> _Told:
    position, at_ns = moment
    if position:
        # A clock that went back since says less than it did at the last event.
        at_ns = max(at_ns, chronicle.at_ns(position))
    after, since_ns = _begin(chronicle, asked.since, (position, at_ns))
    cut = Cut(chronicle, position, after, since_ns, at_ns, asked.privacy.people)
    first = store.at(1)
    found = deletions_at(cut, store)
    return _Told(
        cut,
        "" if first is None else first.subject,
        chronicle.at_ns(1),
        sizes(cut),
        marks(cut, found),
        lives(cut),
        people(cut, found),
        lines(cut, store, asked.privacy),
        [*standings(index)],
    )


def _begin(chronicle: Chronicle | None, since: AsOf, moment: tuple[int, int]) -> tuple[int, int]:
    """Return the position behind which the time shown begins, and that time: no earlier than what is known.

    Raises:
        InvalidConfigError: it is no moment, or later than the one that is shown.
    """
    position, at_ns = moment
    begin = position_in(since) if isinstance(since, str) else since
    if isinstance(begin, int):
        if not 0 <= begin <= position:
            raise InvalidConfigError(
                f"a report of event {position} cannot begin at event {begin}, which is later or none"
            )
        if chronicle is None:
            return 0, at_ns
        return max(0, begin - 1), min(at_ns, chronicle.at_ns(begin) if begin > 1 else chronicle.earliest_ns)
    assert not isinstance(since, int)  # noqa: S101
    since_ns = as_ns(since, at_ns)
    if since_ns > at_ns:
        raise InvalidConfigError(f"{str(since)!r} is later than the moment that the report tells of")
    if chronicle is None:
        return 0, since_ns
    return chronicle.after(since_ns), min(at_ns, max(since_ns, chronicle.earliest_ns))


def _made(
    session: Session,
    asked: Asked,
    told: _Told | None,
    at_ns: int,
    blocks: Blocks,
    notes: Sequence[str],
) -> CacheReport:
    """Put a report together; ``bytes`` is the sum of its blocks."""
    home, host = str(session.layout.home), session.ledger.actor.host
    if not asked.privacy.people:
        # Its path is in a person's folder, as a rule.
        shown, host = os.path.basename(home), ""
        home, notes = shown, [note.replace(home, shown) for note in notes]
    made = CacheReport(
        home=home,
        host=host,
        log_id=None,
        seq=0,
        at_ns=at_ns,
        made_at_ns=session.ledger.clock(),
        since_ns=at_ns,
        first_ns=None,
        events=0,
        image_count=0,
        bytes=sum(each.unique_bytes + each.flat_bytes for each in blocks.all),
        blocks=blocks.all,
        notes=tuple(notes),
    )
    if told is None:
        return made
    cut = told.cut
    return replace(
        made,
        log_id=told.log_id,
        seq=cut.until,
        at_ns=cut.at_ns,
        since_ns=cut.since_ns,
        first_ns=told.first_ns,
        events=cut.until,
        image_count=len(told.standings),
        sizes=told.sizes,
        deletions=told.deletions,
        lives=told.lives,
        idle=idle(cut, told.standings, blocks.images),
        people=told.people,
        lines=told.lines,
        lines_left_out=cut.until - cut.after - len(told.lines),
    )


def _left_over(index: sqlite3.Connection, store: EventStore) -> int:
    """Return the bytes of what deletions had had to leave, as they were measured before; 0 if never."""
    rows = deletions.leftovers(index)
    sizes: dict[tuple[str, str, str], int] = {}
    for operation in dict.fromkeys(row.operation for row in rows):
        for event in store.read(operation=operation, types=[ev.DeletionStarted.type]):
            if isinstance(event.data, ev.DeletionStarted):
                for each in event.data.artifacts:
                    sizes[operation, each.kind, each.subject] = each.bytes or 0
    return sum(sizes.get((row.operation, row.kind, row.subject), 0) for row in rows)


def _free_bytes(session: Session) -> int | None:
    """Return how many bytes of the cache's disk are free for this user; None: that cannot be told."""
    for folder in (session.layout.cache, session.layout.home):
        try:
            found = os.statvfs(folder)
        except OSError:
            continue
        return found.f_bavail * found.f_frsize
    return None
