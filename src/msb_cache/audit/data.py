"""The bytes of the files that an index names, each compared with the digest that the log has of it.

They are read in processes beside this one, those first that were looked at longest ago, so that a check which
is broken off, or is of a sample, goes on the next time where it was. What the log has no digest of gets one:
as first seen.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from msb_cache.artifacts.hashing import Hashing
from msb_cache.artifacts.kinds import KINDS
from msb_cache.artifacts.layout import lease_path, lock_path
from msb_cache.artifacts.locks import is_free
from msb_cache.audit.files import DiskProblem, IndexedFiles
from msb_cache.engines.digesting import Measured, record, rewritten_by_msb, stamp
from msb_cache.errors import BusyError, LogError, MicrosandboxError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import EventStore
from msb_cache.failpoints import reached
from msb_cache.home import checks
from msb_cache.home.checks import Check
from msb_cache.home.ledger import Ledger
from msb_cache.projections.digests import Artifact
from msb_cache.projections.rows import DigestRow
from msb_cache.shapes import Result, Time, fields
from msb_cache.waiting import TURN_SECONDS, end_if_asked
from msb_cache.wording import as_text

_WORTH = 256 << 10
"""Bytes of a file that is read in another process; the pipe to that costs as much."""
_BATCH_SECONDS = 2.0
_LOOKS = 6
_PAUSE = 0.05


@dataclass(frozen=True)
class DataProgress(Result):
    """How far a check of the files' bytes is; of ``total_files`` and ``total_bytes``, so many are done."""

    files: int
    total_files: int
    bytes: int
    total_bytes: int


@dataclass(frozen=True)
class DataRequest:
    """Which files' bytes to look at.

    Attributes:
        sample: the part of all bytes to look at, above 0 and up to 1: of the files that were not looked at
            for longest, so many that they have it. Files that were not as they were are always looked at.
        max_age_ns: leave out what was looked at no longer ago, in nanoseconds; None: nothing.
        progress: gets how far it is, in the caller's thread.
    """

    sample: float = 1.0
    max_age_ns: int | None = None
    progress: Callable[[DataProgress], None] | None = None


@dataclass
class DataCheck(Result):
    """What was looked at. What was found to be altered is among the problems of the disk."""

    files: int = 0
    """How many files were read."""
    bytes: int = 0
    """How many bytes they have."""
    left_out: int = 0
    """How many were not, because they are not in the sample, or were looked at lately."""
    digested: list[Path] = field(default_factory=list)
    """Of these the log had no digest, and has one now."""
    undigested: list[Path] = field(default_factory=list)
    """Of these it had none, and they changed while they were read."""
    busy: list[Path] = field(default_factory=list)
    """Another process was working with these, and they were not as they were: nothing is said of them."""
    rewritten: dict[Path, int] = field(default_factory=dict)
    """These are not as they were, and msb wrote them anew; by path, the position of the event saying so."""
    not_recorded: str | None = None
    """Why the log did not get what was found; None: it did."""
    oldest_ns: int | None = None
    """Of all files, the longest that any was not looked at, since the epoch; None: one never was."""

    def _shape(self) -> dict[str, Any]:
        return {
            **fields(self, without=("oldest_ns",)),
            "rewritten": [{"path": path, "seq": seq} for path, seq in self.rewritten.items()],
            "oldest": Time.or_none(self.oldest_ns),
        }


class _Item:
    def __init__(self, artifact: Artifact, path: Path, size: int) -> None:
        self.artifact, self.path, self.size = artifact, path, size


def check(
    ledger: Ledger,
    index: IndexedFiles,
    known: Mapping[Artifact, DigestRow],
    request: DataRequest,
    *,
    by_msb: bool,
    broken: Set[Path],
    observe: Callable[[], object],
    unsound: str | None,
) -> tuple[DataCheck, list[DiskProblem]]:
    """Look at the bytes of files; what is wrong with them is returned beside.

    Args:
        ledger: the home.
        index: the files that the index names.
        known: the digests that the log has.
        request: which of them.
        by_msb: whether msb keeps the home.
        broken: files that are known to be wrong, and are left out.
        observe: records what msb did.
        unsound: why nothing is recorded, in a log that is not what it was; None: it is.
    """
    found, problems = DataCheck(), list[DiskProblem]()
    found.not_recorded = unsound
    last = _last(ledger)
    items = _items(index, broken)
    items.sort(key=lambda item: _checked_at(last, item) or 0)
    chosen = _chosen(items, last, request)
    found.left_out = len(items) - len(chosen)
    total = sum(item.size for item in chosen)
    recorder = _Recorder(ledger, found, recording=unsound is None)
    with closing(recorder), closing(_measured(chosen)) as results:
        for item, measured in results:
            found.files += 1
            found.bytes += item.size
            expected = known.get(item.artifact)
            if isinstance(measured, OSError):
                measured = None if stamp(item.path) is None else measured
            if measured is None:
                pass  # it went meanwhile: what is missing is told elsewhere
            elif isinstance(measured, OSError):
                recorder.bad[item.artifact] = None
                problems.append(_problem(index, item, "damaged", measured.strerror or "cannot be read"))
            elif item.artifact[0] == "flat" and measured.digest != item.artifact[1]:
                recorder.bad[item.artifact] = None
                detail = f"its digest is {measured.digest}, and msb named it by that which it had"
                problems.append(_problem(index, item, "altered", detail))
            elif expected is None:
                recorder.seen.append(measured)
            elif measured.digest == expected.digest:
                recorder.good[item.artifact] = measured.stamp.inode
            else:
                observe()
                problems += _looked_again(ledger, index, item, recorder, by_msb=by_msb)
            if request.progress is not None:
                request.progress(DataProgress(found.files, len(chosen), found.bytes, total))
            recorder.now_and_then()
            reached("verify.measured")
    recorder.forget_others()
    times = _last(ledger)
    ages = [_checked_at(times, item) for item in items]
    if ages and None not in ages:
        found.oldest_ns = min(age for age in ages if age is not None)
    return found, problems


def _items(index: IndexedFiles, broken: Set[Path]) -> list[_Item]:
    items = []
    for path, artifact in index.artifacts():
        looks = None if path in broken else stamp(path)
        if looks is not None:
            items.append(_Item(artifact, path, looks.size))
    return items


def _chosen(items: Sequence[_Item], last: Mapping[Artifact, Check], request: DataRequest) -> list[_Item]:
    now, chosen = time.time_ns(), []
    left = request.sample * sum(item.size for item in items)
    for item in items:
        time_ns = _checked_at(last, item)
        if time_ns is None and item.artifact in last:
            chosen.append(item)  # it was not as it was
            continue
        lately = time_ns is not None and time_ns <= now  # one from the future says nothing
        if lately and request.max_age_ns is not None and now - (time_ns or 0) <= request.max_age_ns:
            continue
        if left > 0:
            left -= item.size
            chosen.append(item)
    return chosen


def _checked_at(last: Mapping[Artifact, Check], item: _Item) -> int | None:
    found = last.get(item.artifact)
    return None if found is None else found.checked_at


def _measured(items: Sequence[_Item]) -> Generator[tuple[_Item, Measured | OSError | None]]:
    """Yield each file with its digest, as they come."""
    count = _processors()
    with ExitStack() as stack:
        # Its threads are waited for last, when what they wait for has ended.
        pool = stack.enter_context(ThreadPoolExecutor(count, thread_name_prefix="msb-cache-data"))
        idle: SimpleQueue[Hashing] = SimpleQueue()
        for _ in range(count):
            idle.put(stack.enter_context(Hashing(worth=_WORTH)))

        def measure(item: _Item) -> Measured | OSError | None:
            hashing = idle.get()
            try:
                looks = stamp(item.path)
                if looks is None:
                    return None
                algorithm = KINDS[item.artifact[0]].algorithm
                return Measured(item.artifact, item.path, looks, hashing.digest(algorithm, item.path))
            except OSError as error:
                return error
            finally:
                idle.put(hashing)

        running: dict[Future[Measured | OSError | None], _Item] = {}
        waiting = iter(items)
        try:
            while True:
                for item in waiting:
                    running[pool.submit(measure, item)] = item
                    if len(running) >= 4 * count:
                        break
                if not running:
                    return
                end_if_asked()
                done, _ = wait(running, TURN_SECONDS, FIRST_COMPLETED)
                for future in done:
                    yield running.pop(future), future.result()
        finally:
            for future in running:
                future.cancel()


def _processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):  # on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _last(ledger: Ledger) -> dict[Artifact, Check]:
    # Beside the index, and no evidence: where it cannot be read, all is looked at.
    with suppress(MicrosandboxError, sqlite3.Error), ledger.read() as connection:
        if connection is not None:
            return checks.all_of(connection)
    return {}


def _looked_again(
    ledger: Ledger, index: IndexedFiles, item: _Item, recorder: _Recorder, *, by_msb: bool
) -> list[DiskProblem]:
    """Return what is wrong with a file that seemed to be, and was not only being made anew just then."""
    for number in range(_LOOKS):
        time.sleep(_PAUSE * number)
        with ledger.read() as connection:
            expected = None if connection is None else _in_log(ledger.store(connection), item.artifact)
        looks = stamp(item.path)
        if expected is None or looks is None:
            return []
        try:
            with Hashing(worth=_WORTH) as hashing:
                digest = hashing.digest(KINDS[item.artifact[0]].algorithm, item.path)
        except OSError as error:
            return [_problem(index, item, "damaged", error.strerror or "cannot be read")]
        measured = Measured(item.artifact, item.path, looks, digest)
        if digest == expected[0]:
            recorder.good[item.artifact] = looks.inode
            return []
        locks = (lock_path(item.path), lease_path(item.path))
        if all(map(is_free, locks)) and stamp(item.path) == looks:
            break
    else:
        recorder.found.busy.append(item.path)
        return []
    if by_msb and item.artifact[0] != "flat":
        with ledger.read() as connection:
            last = None if connection is None else checks.last(connection, item.artifact)
            seq = None if connection is None else rewritten_by_msb(connection, measured, last)
        if seq is not None:
            recorder.found.rewritten[item.path] = seq
            recorder.seen.append(measured._replace(before=expected[0]))
            return []
    recorder.bad[item.artifact] = None
    was, how, event = expected
    since = "when it was made" if how == "made" else "when it was first seen"
    detail = f"its digest is {measured.digest}, and was {was} {since} (event {event})"
    return [_problem(index, item, "altered", detail)]


def _in_log(store: EventStore, artifact: Artifact) -> tuple[str, str, int] | None:
    """Return an artifact's digest, how it is known and the event that says so, as the log itself has it."""
    kind, subject = artifact
    types = [ev.ArtifactDigested.type, ev.OUTCOMES[kind].type]
    for event in store.read(subjects=[subject], types=types, reverse=True):
        if isinstance(event.data, ev.ArtifactDeleted):
            return None
        if isinstance(event.data, ev.ArtifactDigested) and event.data.kind == kind:
            return event.data.digest, event.data.how, event.seq
    return None


def _problem(index: IndexedFiles, item: _Item, problem: str, detail: str) -> DiskProblem:
    kind, subject = item.artifact
    needing = index.needing(kind, subject)
    said = as_text(detail)
    return DiskProblem(problem, kind, item.path, detail=said, references=needing, subject=subject)


class _Recorder:
    """Takes down what was found every few seconds, so that a check which is broken off is not for nothing."""

    def __init__(self, ledger: Ledger, found: DataCheck, *, recording: bool) -> None:
        self.found = found
        self._ledger = ledger
        self._recording = recording
        self.good: dict[Artifact, int | None] = {}
        self.bad: dict[Artifact, int | None] = {}
        self.seen: list[Measured] = []
        self._at = time.monotonic()

    def now_and_then(self) -> None:
        if time.monotonic() - self._at >= _BATCH_SECONDS:
            self._write()

    def close(self) -> None:
        """Take down what was found until now, also where the check is broken off."""
        self._write()

    def forget_others(self) -> None:
        """Drop what is known of files that there are no more."""
        if self._recording and self.found.not_recorded is None:
            with suppress(LogError, BusyError), self._ledger.write(uuid7(), owner="any") as transaction:
                checks.forget_others(transaction.connection)

    def _write(self) -> None:
        self._at = time.monotonic()
        if not self._recording or not (self.good or self.bad or self.seen):
            return
        try:
            with self._ledger.write(uuid7(), owner="any") as transaction:
                recorded = record(transaction, self.good, self.seen)
                checks.remember(transaction.connection, self.bad, None)  # what reuses one looks at it
        except (LogError, BusyError) as error:
            self.found.not_recorded = str(error)
            return  # tried again with what is found next
        self.found.not_recorded = None
        for each in self.seen:
            if each.before is None:
                (self.found.digested if each.artifact in recorded else self.found.undigested).append(
                    each.path
                )
        self.good, self.bad, self.seen = {}, {}, []
