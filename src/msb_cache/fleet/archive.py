"""Let a fleet's server go of old events: whole beginnings of logs go to Parquet files, and an anchor stays.

A beginning is exported, read back and durable before its events are deleted, in one transaction with the
anchor from which on the log is checked and folded. So a run that is stopped anywhere has deleted nothing or
all of a beginning, and the next one goes on; a file that it has left is used if it is whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msb_cache.activity import Activities
from msb_cache.artifacts import files
from msb_cache.audit.admit import admit
from msb_cache.errors import CorruptLogError, FleetError, MicrosandboxError
from msb_cache.failpoints import reached
from msb_cache.fleet import archive_files, stored
from msb_cache.fleet.archive_files import Row, Stretch, TornFileError
from msb_cache.fleet.connect import Postgres, connected, told
from msb_cache.fleet.hosts import KnownLog
from msb_cache.fleet.place import Reading
from msb_cache.fleet.roles import OWNER
from msb_cache.fleet.stored import Anchor, Followed
from msb_cache.interchange import parquet
from msb_cache.projections import FOLD_VERSION
from msb_cache.shapes import Result

if TYPE_CHECKING:
    from msb_cache.activity import Count

# Where a log is cut: behind its last event that was recorded before the time. Times of a log never go back,
# so that is found by halving. A scalar subquery each time: it takes one row by the primary key, whatever a
# planner thinks of the rest.
_MIDDLE = "(halved.low + halved.high + 1) / 2"
_RECORDED = (
    f"(SELECT e.recorded_at FROM msb_cache.events e WHERE e.log_id = halved.log_id AND e.seq = {_MIDDLE})"
)
_CUTS = f"""
WITH RECURSIVE halved (log_id, low, high) AS (
  SELECT h.log_id, coalesce(a.seq, 0), h.size
    FROM msb_cache.head h LEFT JOIN msb_cache.anchor a ON a.log_id = h.log_id
  UNION ALL
  SELECT halved.log_id,
         CASE WHEN {_RECORDED} < ? THEN {_MIDDLE} ELSE halved.low END,
         CASE WHEN {_RECORDED} < ? THEN halved.high ELSE {_MIDDLE} - 1 END
    FROM halved WHERE halved.low < halved.high
)
SELECT c.log_id, coalesce(a.seq, 0), c.low, coalesce(f.seq, 0)
  FROM halved c
  LEFT JOIN msb_cache.anchor a ON a.log_id = c.log_id
  LEFT JOIN msb_cache.fold_state f ON f.log_id = c.log_id
 WHERE c.low = c.high
"""


@dataclass(frozen=True)
class Archived(Result):
    """What went of one log to an archive, or would go.

    Attributes:
        host: the log's host.
        log_id: its id.
        first: the first event that went; 0 where none did.
        last: the last one.
        events: how many.
        path: their file; None: it was not written, as only was asked what would go, or there is a problem.
        bytes: the file's size; None: there is none.
        not_folded: how many more were recorded before the time, and stay as they are not folded yet.
        problem: why they did not go, in one sentence; None: they did, or would.
    """

    host: str
    log_id: str
    first: int
    last: int
    events: int
    path: Path | None
    bytes: int | None
    not_folded: int
    problem: str | None = None


@dataclass(frozen=True)
class Refolded(Result):
    """A log of which the anchor was folded anew from the archive.

    Attributes:
        host: the log's host.
        log_id: its id.
        archived_seq: the anchor's position.
        problem: why it was not, in one sentence; None: it was.
    """

    host: str
    log_id: str
    archived_seq: int
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class _Cut:
    """A beginning of a log that is old enough: what is behind ``after`` up to ``upto``."""

    log: KnownLog
    after: int
    upto: int
    not_folded: int


def cuts(reading: Reading, logs: Sequence[KnownLog], before_ns: int) -> list[_Cut]:
    """Return what of these logs was recorded before a time and is folded."""
    known = {log.log_id: log for log in logs}
    found = []
    for log_id, after, upto, folded in reading.rows(_CUTS, (before_ns, before_ns)):
        if log_id in known and upto > after:
            end = max(after, min(upto, folded))
            found.append(_Cut(known[log_id], after, end, upto - end))
    return sorted(found, key=lambda cut: (cut.log.host, cut.log.log_id))


def planned(reading: Reading, logs: Sequence[KnownLog], before_ns: int) -> list[Archived]:
    """Return what would go of these logs; of those of which nothing would, nothing."""
    return [_outcome(cut) for cut in cuts(reading, logs, before_ns)]


def archive(
    place: Postgres, logs: Sequence[KnownLog], before_ns: int, folder: Path, activities: Activities
) -> Iterator[Archived]:
    """Let go of what of these logs was recorded before a time; yields what became of each as it is done.

    Args:
        place: the server that has them.
        logs: the logs.
        before_ns: the time, in ns since the epoch, UTC.
        folder: the archive; made if it is not there.
        activities: tells how far it is.

    Raises:
        FleetError: the server cannot be asked, or this role is no member of its owner's.
        LogError: the folder cannot be written to, or another run works there.
        UnsupportedError: DuckDB is not installed.
    """
    parquet.check_installed()
    with place.read() as reading:
        _check_may_delete(reading)
        found = cuts(reading, logs, before_ns)
    with archive_files.working_in(folder):
        for cut in found:
            if cut.upto == cut.after:
                yield _outcome(cut)
            else:
                yield from _archived(place, cut, folder, activities)


def refold(
    place: Postgres, logs: Sequence[KnownLog], folder: Path, activities: Activities
) -> Iterator[Refolded]:
    """Fold anew, from the archive, what the anchors of these logs keep, and put it there where it differs.

    Yields what became of each as it is done; of logs whose anchors are as they must be, nothing.

    Raises:
        FleetError: the server cannot be asked, or this role is no member of its owner's.
        LogError: the folder cannot be read.
        UnsupportedError: DuckDB is not installed.
    """
    parquet.check_installed()
    known = archive_files.listed(folder)
    with place.read() as reading:
        _check_may_delete(reading)
    for log in logs:
        with place.read() as reading:
            anchor = stored.anchor_of(reading, log.log_id)
        if anchor is None:
            continue
        with activities(f"folding {log.host}", "events", anchor.seq) as count:
            try:
                followed = Followed()
                for stretch in archive_files.leading_to(known.get(log.log_id, ()), anchor.seq):
                    for row, hash_ in archive_files.checked(stretch, followed.checker):
                        followed.take(hash_, admit((row, hash_)))
                        count(followed.checker.seq)
                if followed.checker.head != anchor.hash:
                    raise CorruptLogError(
                        f"the archive leads to another event {anchor.seq} than was archived"
                    )
            except CorruptLogError as error:
                yield Refolded(log.host, log.log_id, anchor.seq, str(error))
                continue
        folded = followed.packed()
        if (anchor.fold_version, anchor.rows) == (FOLD_VERSION, folded):
            continue
        with connected(place.dsn) as connection, told(), connection.transaction():
            connection.execute(f"SET LOCAL ROLE {OWNER}".encode())
            connection.execute(
                "UPDATE msb_cache.anchor SET rows = %s, fold_version = %s "
                "WHERE log_id = %s AND seq = %s AND hash = %s",
                (folded, FOLD_VERSION, log.log_id, anchor.seq, anchor.hash),
            )
        yield Refolded(log.host, log.log_id, anchor.seq)


def _check_may_delete(reading: Reading) -> None:
    if reading.rows("SELECT pg_has_role(?, 'MEMBER')", (OWNER,)) != [(True,)]:
        raise FleetError(
            f"only members of {OWNER} may delete events that are in an archive; connect as the role that "
            "made the fleet"
        )


def _archived(place: Postgres, cut: _Cut, folder: Path, activities: Activities) -> Iterator[Archived]:
    after = cut.after
    try:
        known = archive_files.listed(folder).get(cut.log.log_id, [])
        # What a run that was stopped has written is a stretch of its own.
        ends = sorted(each.last for each in known if each.first == after + 1 and each.last < cut.upto)
        for upto in (*ends[:1], cut.upto):
            path = archive_files.place_of(folder, cut.log.log_id, after + 1, upto)
            stretch = Stretch(path, cut.log.log_id, after + 1, upto)
            with activities(f"archiving {cut.log.host}", "events", upto - after) as count:
                _let_go(place, stretch, count)
            yield _outcome(cut, stretch)
            after = upto
    except MicrosandboxError as error:
        if isinstance(error, FleetError) and error.temporary:
            raise
        yield _outcome(cut, problem=str(error))


def _outcome(cut: _Cut, done: Stretch | None = None, problem: str | None = None) -> Archived:
    log = cut.log
    if problem is not None:
        return Archived(log.host, log.log_id, 0, 0, 0, None, None, cut.not_folded, problem)
    first, last = (cut.after + 1, cut.upto) if done is None else (done.first, done.last)
    events = last - first + 1
    if not events:
        first = last = 0
    path = None if done is None else done.path
    size = None if path is None else files.measure(path)
    return Archived(log.host, log.log_id, first, last, events, path, size, cut.not_folded)


def _let_go(place: Postgres, stretch: Stretch, count: Count) -> None:
    """Have a stretch in its file, and then no more on the server."""
    with place.read() as reading:
        anchor = stored.anchor_of(reading, stretch.log_id)
        if (0 if anchor is None else anchor.seq) != stretch.first - 1:
            raise FleetError("another run has archived of this log meanwhile")
        followed = _of_file(reading, anchor, stretch, count)
        if followed is None:
            followed = Followed(anchor)
            rows = stored.events(reading, stretch.log_id, stretch.first - 1, stretch.last)
            archive_files.write(stretch, _following(followed, count.each(rows)), Followed.before(anchor))
    reached("archive.exported")
    folded = followed.packed()
    with connected(place.dsn) as connection, told(), connection.transaction():
        connection.execute(f"SET LOCAL ROLE {OWNER}".encode())
        connection.execute(
            "SELECT msb_cache.archive(%s, %s, %s, %s, %s, %s)",
            (
                *(stretch.log_id, stretch.first - 1, stretch.last),
                *(followed.checker.head, FOLD_VERSION, folded),
            ),
        )
        reached("archive.deleted")
    reached("archive.committed")


def _of_file(reading: Reading, anchor: Anchor | None, stretch: Stretch, count: Count) -> Followed | None:
    """Follow a log by the file that a run has left that was stopped; None: there is none that is whole.

    Raises:
        CorruptLogError: there is one of other events, which may be all that is left of them.
    """
    if files.measure(stretch.path) is None:
        return None
    followed = Followed(anchor)
    try:
        for row, hash_ in count.each(archive_files.checked(stretch, followed.checker)):
            followed.take(hash_, admit((row, hash_)))
    except TornFileError:
        return None
    last = reading.rows(
        "SELECT hash FROM msb_cache.events WHERE log_id = ? AND seq = ?", (stretch.log_id, stretch.last)
    )
    if last != [(followed.checker.head,)]:
        raise CorruptLogError(
            f"{stretch.path} is there and has other events than the server; archive into another folder"
        )
    archive_files.make_durable(stretch)
    return followed


def _following(followed: Followed, rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows of a log that is sound; raises CorruptLogError where it is not."""
    for row, hash_ in rows:
        found = followed.checker.check(row, hash_)
        if found is not None:
            raise CorruptLogError(f"{found.problem}; look at `msb-cache fleet verify`")
        followed.take(hash_, admit((row, hash_)))
        yield row, hash_
