"""Keep a cache small by its policy file: one run, or one after the other for as long as a process stays.

A run is ``prune --policy --yes``. What is in the way of one run of several, such as another deletion, a
mistake in the file or a disk that fails, is what that run did, and the next one comes all the same.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from msb_cache import waiting
from msb_cache.care.apart import DiedError, Stopped, in_child
from msb_cache.commands import reports
from msb_cache.commands.prune import Prune
from msb_cache.engines.decision import DeletionCut, ImageVerdict, Preview, Report
from msb_cache.errors import BoundNotKeptError, InvalidConfigError, MicrosandboxError
from msb_cache.eventstore import events as ev
from msb_cache.memory import give_back
from msb_cache.models import ImagePruneReport
from msb_cache.projections import deletions
from msb_cache.queries import policy_file
from msb_cache.queries.policy import limit_of
from msb_cache.queries.times import parse_duration
from msb_cache.retention.policy import CachePolicy, PrunePolicy
from msb_cache.session import Session
from msb_cache.shapes import Result, fields
from msb_cache.wording import as_sentence

if TYPE_CHECKING:
    from msb_cache.audit.notary import SigningPlan
    from msb_cache.care.sign_apart import StayingNotary

Outcome = Literal["nothing", "completed", "partial", "stopped", "held-back", "mistake", "failed"]

SHORTEST = 1.0
"""Seconds that are at least between the beginnings of two runs."""

_SIGN_LOOK = 2.0
"""Seconds between two looks whether the log is to be signed."""

_NOTHING = ImagePruneReport(0, 0, 0, 0, 0, None)


class GcRun(Result, Struct, frozen=True, kw_only=True):
    """What one run of ``gc`` did.

    Attributes:
        outcome: ``nothing`` had to be done; what was decided is done (``completed``), or not all of it
            (``partial``), or a signal ended it (``stopped``). Of one run of several also why it deleted
            nothing: more would have gone than may (``held-back``), the policy file has a ``mistake`` or is
            gone, or it ``failed``.
        report: what it deleted, in numbers; its ``operation`` is None where it decided nothing.
        images: the images that it deleted, each with the policy's rule that took it, and the bytes that came
            free by it; the longest idle last.
        policy: what the log keeps of the policy; empty where the file could not be read.
        shortfall: how many bytes too few come free for the policy's bounds although all went that may.
        short_of: the policy's rule that asks for that room.
        error: what was in the way, as a sentence.
        again: the run before met the same.
        seconds: how long it took.
    """

    outcome: Outcome = "nothing"
    report: ImagePruneReport = _NOTHING
    images: tuple[ImageVerdict, ...] = ()
    policy: dict[str, Any] = {}
    shortfall: int = 0
    short_of: str | None = None
    error: str | None = None
    again: bool = False
    seconds: float = 0.0

    def _shape(self) -> dict[str, Any]:
        return {
            **fields(self.report),
            "outcome": self.outcome,
            "images": self.images,
            "bytes_missing": self.shortfall,
            "missing_for": self.short_of,
            "error": self.error,
            "seconds": round(self.seconds, 3),
        }


Told = Callable[[GcRun], object]
"""Called with what each run did."""


class _Ended(NamedTuple):
    """How a run ended, and what was in the way."""

    outcome: Outcome
    error: str | None


def collect(session: Session, policy: CachePolicy | None, report: Report | None = None) -> GcRun:
    """Run once; parameters, result and errors as for ``ImageCache.gc``."""
    found = policy or policy_file.read(policy_file.required(session.layout))
    run, cut = _run(session, found, report)
    if cut is not None:
        raise cut
    return run


def keep_small(
    session: Session,
    every: str | timedelta,
    told: Told,
    *,
    path: str | None,
    max_delete: str | int | None,
    stopped: Stopped,
    apart: bool,
    started: Callable[[], object],
    sign: SigningPlan | None,
) -> bool:
    """Run again and again; parameters, result and errors as for ``ImageCache.keep_small``."""
    seconds = _seconds(every, session.ledger.clock())
    if max_delete is not None:
        limit_of(PrunePolicy(max_delete=max_delete))
    policy_file.text_of(path or policy_file.required(session.layout))

    def read() -> CachePolicy:
        found = policy_file.read(path or policy_file.required(session.layout))
        return found if max_delete is None else replace(found, max_delete=max_delete)

    ended = _Ended("nothing", None)
    notary = None if sign is None else _notary(session, sign, stopped, apart=apart)
    session.close()
    started()
    while not waiting.over(stopped):
        began = time.monotonic()
        turn = partial(_turn, session, read, told, ended)
        ended = _turn_apart(turn, told, stopped) if apart else turn(stopped)
        if ended.outcome == "stopped":
            return True
        give_back()
        _rest(seconds - (time.monotonic() - began) % seconds, notary, stopped)
    return False


def _notary(session: Session, plan: SigningPlan, stopped: Stopped, *, apart: bool) -> StayingNotary:
    from msb_cache.care.sign_apart import StayingNotary  # most sign nothing

    return StayingNotary(session, plan, stopped, apart=apart)


def _rest(seconds: float, notary: StayingNotary | None, stopped: Stopped) -> None:
    """Wait so long, and sign the log meanwhile when that is due."""
    until = time.monotonic() + seconds
    while notary is not None:
        notary.turn()
        left = until - time.monotonic()
        if left <= _SIGN_LOOK or stopped():
            break
        with waiting.ended_by(stopped):
            waiting.pause(_SIGN_LOOK)
    with waiting.ended_by(stopped):
        waiting.pause(until - time.monotonic())


def _turn_apart(turn: Callable[[Stopped], _Ended], told: Told, stopped: Stopped) -> _Ended:
    try:
        return in_child(turn, _Ended, stopped)
    except DiedError as error:
        told(GcRun(outcome="failed", error=str(error)))
        return _Ended("failed", str(error))


def _turn(
    session: Session, read: Callable[[], CachePolicy], told: Told, before: _Ended, stopped: Stopped
) -> _Ended:
    """Run once, and tell of it; return how it ended."""
    try:
        with waiting.ended_by(stopped):
            run = _attempt(session, read)
    except KeyboardInterrupt:
        if stopped():
            return _Ended("nothing", None)  # before it decided anything
        raise
    finally:
        session.close()
    ended = _Ended(run.outcome, run.error)
    told(replace(run, again=run.error is not None and ended == before))
    return ended


def _attempt(session: Session, read: Callable[[], CachePolicy]) -> GcRun:
    """Run once; an error is what it did."""
    began = time.monotonic()
    policy: dict[str, Any] = {}
    outcome: Outcome = "mistake"
    try:
        found = read()
        policy, outcome = found.recorded(), "failed"
        return _run(session, found)[0]
    except BoundNotKeptError as error:
        outcome, said = "held-back", as_sentence(error)
    except (MicrosandboxError, OSError, sqlite3.Error, MemoryError) as error:
        said = as_sentence(error)
    return GcRun(outcome=outcome, policy=policy, error=said, seconds=time.monotonic() - began)


def _run(
    session: Session, policy: CachePolicy, report: Report | None = None
) -> tuple[GcRun, DeletionCut | None]:
    """Run once; what was asked to end after it had decided is in the result, and before that is raised."""
    began = time.monotonic()
    asked = Prune(session, policy)
    decided: list[Preview] = []
    cut = None

    def decide(shown: Preview) -> bool:
        waiting.end_if_asked()
        decided.append(shown)
        return True

    try:
        done = asked.run(confirm=decide, report=report)
    except DeletionCut as error:
        if not decided:
            raise  # what it ended is a deletion of another process, which that had left
        cut, done = error, reports.of_operation(session, error.operation, decided[0])
    images: tuple[ImageVerdict, ...] = ()
    outcome: Outcome = "nothing"
    if done.operation is not None:
        images, outcome = _went(session, done.operation, decided[0])
    run = GcRun(
        report=done,
        images=images,
        policy=policy.recorded(),
        outcome=outcome if cut is None else "stopped",
        shortfall=asked.shortfall,
        short_of=asked.short_of,
        seconds=time.monotonic() - began,
    )
    return run, cut


def _went(session: Session, operation: str, shown: Preview) -> tuple[tuple[ImageVerdict, ...], Outcome]:
    """Return the verdicts on the images that an operation took out of the index, and its outcome."""
    removed: set[tuple[str | None, str | None]] = set()
    with session.ledger.read() as connection:
        assert connection is not None  # noqa: S101
        store = session.ledger.store(connection)
        for event in store.read(operation=operation, types=[ev.ImageRemoved.type, ev.ManifestDeleted.type]):
            if isinstance(event.data, ev.ImageRemoved):
                removed.add((event.subject, event.data.spelling))
            else:
                removed.add((None, event.subject))
        (row,) = deletions.find(connection, operation)
    images = (each for each in shown.images() if each.goes)
    went = (
        each
        for each in images
        if (each.reference, each.manifest_digest if each.reference is None else each.spelling) in removed
    )
    return tuple(went), "partial" if row.outcome == "partial" else "completed"


def _seconds(every: str | timedelta, now_ns: int) -> float:
    """Return an interval in seconds; raises InvalidConfigError."""
    length = every.total_seconds() if isinstance(every, timedelta) else parse_duration(every, now_ns) / 1e9
    if length < SHORTEST:
        raise InvalidConfigError("the interval between two runs is at least a second, such as 15m")
    return length


def path_of(path: str | os.PathLike[str] | None) -> str | None:
    """Return a policy file's path as it is meant now, wherever the process goes."""
    return None if path is None else os.path.abspath(os.fsdecode(path))
