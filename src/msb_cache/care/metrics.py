"""What a cache is like now, in numbers for a monitoring system: ``CacheMetrics``.

Asked of the index by SQL that adds up, so that it may be asked every minute: no state of the whole index is
built, and no files are counted but flat roots, which the index does not have. How it is printed,
``exposition`` says.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from msb_cache.artifacts import files
from msb_cache.artifacts.files import BLOCK
from msb_cache.artifacts.measured import MeasuredFiles
from msb_cache.care.recorded import NO_FILES, RecordedFiles, recorded_files
from msb_cache.eventstore.events import EVENT_TYPES
from msb_cache.migrations import SCHEMA_VERSION
from msb_cache.projections import FOLD_VERSION, images
from msb_cache.projections.moment import LASTS
from msb_cache.shapes import Result

if TYPE_CHECKING:
    from msb_cache.artifacts.layout import Layout
    from msb_cache.session import Session

HOUR = 3600
DAY = 24 * HOUR
IDLE_BOUNDS = (HOUR, 6 * HOUR, DAY, 7 * DAY, 14 * DAY, 30 * DAY, 90 * DAY)
"""The upper bounds of ``IdleTimes``, in seconds."""

HOLDER_KINDS = ("sandbox", "snapshot", "other")
LEFT_BECAUSE = ("busy", "left", "owned", "failed")
"""Why a file stayed that was to go: those of ``artifact.kept``, and ``failed`` for an error of the system."""

_ALWAYS_TOLD = (("remove", "remove"), ("prune", "unused"), ("prune", "due"), ("external", "external"))
_EVENT_TYPES = tuple(each.type for each in EVENT_TYPES)

OTHER = "other"
"""Under which all that is not named is counted, so that what a log holds does not make labels without end."""

MOST_RULES = 100
"""So many rules are told apart, the first that deleted anything; names are cut to ``LONGEST_RULE``."""
LONGEST_RULE = 100


class DeletedImages(Result, Struct, frozen=True):
    """How many images have left the index in all, for one cause and by one rule.

    Attributes:
        cause: ``remove``, ``prune``, or ``external`` for what another program deleted.
        rule: the rule of the policy file that decided, else the rule of docs/retention.md: ``due``, without
            rules ``unused``; ``remove`` and ``external`` as the cause; ``other`` for the rest of very many.
        images: how many.
    """

    cause: str
    rule: str
    images: int


class IdleTimes(Result, Struct, frozen=True):
    """For how long images are idle. In use is idle for 0 seconds.

    Attributes:
        bounds: pairs of a time in seconds and of how many images are idle for so long or less.
        images: how many there are.
        sum_seconds: their idle times, added up.
    """

    bounds: tuple[tuple[int, int], ...]
    images: int
    sum_seconds: float


class LastPrune(Result, Struct, frozen=True):
    """The last prune that has ended.

    Attributes:
        finished_at_ns: when it did, in ns since the epoch, UTC.
        duration_ns: how long it took, in ns.
        outcome: ``completed`` or ``partial``.
        freed_bytes: how long the files were that went, flat roots by what they took of the disk.
    """

    finished_at_ns: int
    duration_ns: int
    outcome: str
    freed_bytes: int


class CacheMetrics(Result, Struct, frozen=True, kw_only=True):
    """What a cache is like now. Sizes in bytes; times in ns since the epoch, UTC.

    Attributes:
        images: how many references are in the cache.
        manifests: how many manifests the index has.
        unreferenced_manifests: how many of them no reference points at.
        files: the files of the index by kind, as they measured when they came; metadata is not among them.
        flat_roots: how many flat roots lie in the cache; these are measured.
        flat_bytes: what they take of the disk.
        holders: how many sandboxes, snapshots and others hold an image, by that word.
        running: how many boots last.
        pins: how many references and manifests are pinned.
        idle: for how long the images are idle.
        last_prune: the last prune that has ended; None: there was none.
        deleted: how many images have left the index, by cause and rule, since the log began.
        events: how many events the log has, by type; types that this release does not know are ``other``.
        unfinished_deletions: how many have begun and not ended: running now, or cut short.
        leftover_files: how many files deletions had to leave, and the log has not seen go, by reason.
        damaged_images: how many lack a file that another program deleted, as far as the log knows.
        disk_free_bytes: what the file system of the cache has left for this user.
        disk_size_bytes: how large that file system is.
        kept_by_msb: msb keeps the home.
        sync_age_ns: ns since msb's database was last read into the log, which happens only when it has
            changed; None: it never was, or the home is ours.
        sync_failed: what msb did could not be recorded now, so the rest lacks it.
        log_position: the last event's; 0: there is no log.
        log_bytes: what the log takes of the disk, with what is folded from it.
        schema: the version of the log's schema.
        fold: the version of the fold.
    """

    images: int = 0
    manifests: int = 0
    unreferenced_manifests: int = 0
    files: tuple[RecordedFiles, ...] = NO_FILES
    flat_roots: int = 0
    flat_bytes: int = 0
    holders: dict[str, int] = field(default_factory=lambda: dict.fromkeys(HOLDER_KINDS, 0))
    running: int = 0
    pins: int = 0
    idle: IdleTimes = IdleTimes(tuple((bound, 0) for bound in IDLE_BOUNDS), 0, 0.0)
    last_prune: LastPrune | None = None
    deleted: tuple[DeletedImages, ...] = tuple(DeletedImages(*each, 0) for each in _ALWAYS_TOLD)
    events: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_EVENT_TYPES, 0))
    unfinished_deletions: int = 0
    leftover_files: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LEFT_BECAUSE, 0))
    damaged_images: int = 0
    disk_free_bytes: int
    disk_size_bytes: int
    kept_by_msb: bool
    sync_age_ns: int | None = None
    sync_failed: bool = False
    log_position: int = 0
    log_bytes: int
    schema: int = SCHEMA_VERSION
    fold: int = FOLD_VERSION

    @property
    def reclaimable_bytes(self) -> int:
        """How long the files were that a prune without rules would delete now; without flat roots."""
        return sum(each.reclaimable_bytes for each in self.files)


def metrics(session: Session) -> CacheMetrics:
    """Return what a cache is like now; writes nothing but what msb did, as every reading does."""
    is_synced = session.observe()
    layout, kept_by_msb = session.layout, session.kept_by_msb
    found: dict[str, Any] = {}
    with session.ledger.read() as connection:
        if connection is not None:
            found = _of_index(session, connection)
    disk = MeasuredFiles(layout)
    flat_roots = [layout.artifact("flat", digest) for digest in layout.sizes("flat")]
    return CacheMetrics(
        flat_roots=len(flat_roots),
        flat_bytes=sum(files.measure_artifact("flat", path) or 0 for path in flat_roots),
        disk_free_bytes=disk.free_bytes,
        disk_size_bytes=disk.capacity_bytes,
        kept_by_msb=kept_by_msb,
        sync_failed=not is_synced,
        log_bytes=_log_bytes(layout),
        **found,
    )


_COUNTS = f"""
SELECT (SELECT count(*) FROM image), manifests, unreferenced, (SELECT count(*) FROM open_use),
    (SELECT count(*) FROM pin WHERE {LASTS}), (SELECT count(*) FROM deletion WHERE finished_at IS NULL),
    (SELECT max(seq) FROM events), (SELECT synced_at FROM sync_state)
FROM (SELECT count(*) AS manifests, count(unnamed_since) AS unreferenced FROM manifest)
"""  # noqa: S608


def _of_index(session: Session, connection: sqlite3.Connection) -> dict[str, Any]:
    now_ns = session.corrected_time(connection)
    counts = connection.execute(_COUNTS).fetchone()
    manifests, unreferenced, running, pins, unfinished, position, synced_at = counts[1:]
    is_msbs = session.kept_by_msb and synced_at is not None
    return {
        "images": counts[0],
        "manifests": manifests,
        "unreferenced_manifests": unreferenced,
        "files": tuple(recorded_files(session, connection)),
        "holders": _holders(connection),
        "running": running,
        "pins": pins,
        "idle": _idle(connection, now_ns),
        "last_prune": _last_prune(connection),
        "deleted": _deleted(connection),
        "events": _counted(
            _EVENT_TYPES, connection.execute("SELECT type, count(*) FROM events GROUP BY type")
        ),
        "unfinished_deletions": unfinished,
        "leftover_files": _leftover_files(connection),
        "damaged_images": len({each.name for each in images.damage(connection)}),
        "sync_age_ns": max(0, now_ns - synced_at) if is_msbs else None,
        "log_position": position,
    }


def _counted(names: Iterable[str], found: Iterable[tuple[str, int]], rest: str = OTHER) -> dict[str, int]:
    """Return how many there are by name, 0 of those without; what has another name is counted as the rest."""
    counts = dict.fromkeys(names, 0)
    for name, count in found:
        known = name if name in counts else rest
        counts[known] = counts.get(known, 0) + count
    return counts


def _holders(connection: sqlite3.Connection) -> dict[str, int]:
    found = connection.execute(
        "SELECT CASE instr(holder, ':') WHEN 0 THEN '' ELSE substr(holder, 1, instr(holder, ':') - 1) END, "  # noqa: S608
        f"count(DISTINCT holder) FROM hold WHERE {LASTS} GROUP BY 1"
    )
    return _counted(HOLDER_KINDS, found)


def _leftover_files(connection: sqlite3.Connection) -> dict[str, int]:
    found = connection.execute("SELECT reason, count(*) FROM leftover GROUP BY reason")
    return _counted(LEFT_BECAUSE, found, "failed")  # other reasons are the words of the system


def _idle(connection: sqlite3.Connection, now_ns: int) -> IdleTimes:
    """Return for how long images are idle: as ``projections.state.ImageFacts`` says since when they are."""
    within = ", ".join(f"coalesce(sum(idle <= {bound * 10**9}), 0)" for bound in IDLE_BOUNDS)
    # Seconds are summed up as fractions: nanoseconds of many images are more than an integer has room for.
    count, total, *counts = connection.execute(
        f"SELECT count(*), total(idle / 1e9), {within} FROM (SELECT CASE WHEN in_use_since IS NULL "  # noqa: S608
        "THEN max(0, ? - max(last_used_at, coalesce(idle_since, 0), coalesce(ended, 0))) ELSE 0 END AS idle "
        "FROM image LEFT JOIN (SELECT manifest_digest AS held, max(until) AS ended FROM hold "
        "WHERE until <= moment() GROUP BY manifest_digest) ON held = manifest_digest)",
        (now_ns,),
    ).fetchone()
    return IdleTimes(tuple(zip(IDLE_BOUNDS, counts, strict=True)), count, total)


def _last_prune(connection: sqlite3.Connection) -> LastPrune | None:
    row = connection.execute(
        "SELECT finished_at, max(0, finished_at - started_at), outcome, "
        "coalesce(bytes_reclaimed, 0) + flat_bytes_reclaimed FROM deletion "
        "WHERE kind = 'prune' AND finished_at IS NOT NULL ORDER BY seq DESC LIMIT 1"
    ).fetchone()
    return None if row is None else LastPrune(*row)


def _deleted(connection: sqlite3.Connection) -> tuple[DeletedImages, ...]:
    """Return how many images were deleted. A rule told apart once always is, so that no count goes back."""
    counts = dict.fromkeys(_ALWAYS_TOLD, 0)
    rows = connection.execute("SELECT cause, rule, images FROM rule_count ORDER BY seq, cause, rule")
    for number, (cause, rule, count) in enumerate(rows):
        name = rule if number < MOST_RULES else OTHER
        key = cause, name[:LONGEST_RULE]
        counts[key] = counts.get(key, 0) + count
    return tuple(DeletedImages(*key, count) for key, count in counts.items())


def _log_bytes(layout: Layout) -> int:
    """Return what the log takes of the disk, with SQLite's files beside it."""
    found = 0
    for suffix in ("", "-wal", "-shm"):
        with suppress(OSError):  # there is none, or it is not to be seen
            found += os.lstat(f"{layout.database}{suffix}").st_blocks * BLOCK
    return found
