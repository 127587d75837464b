"""Mend what ``doctor`` finds, as far as that is safe: by the means that each part of a home has for it.

What was cut short is finished or undone, what is derived is made anew from the log, files of images by the
engine that the home has. Nothing goes that may be some person's: orphans, foreign files and what is another
user's stay. A log that is not what it was is evidence, and then nothing is done at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from msb_cache.audit.verify import rebuild
from msb_cache.care.doctor import EVIDENCE, Finding, diagnose
from msb_cache.engines.decision import NO_IMAGE
from msb_cache.engines.engine import Mending, MendRequest, Progress, Wrong
from msb_cache.errors import MicrosandboxError
from msb_cache.oci.registry.options import RegistryOptions
from msb_cache.session import Session
from msb_cache.shapes import Result, fields
from msb_cache.waiting import Note
from msb_cache.wording import as_sentence


class LeftFinding(Result, Struct, frozen=True):
    """A finding that is there still; ``why``: what kept it from being mended, None: that was not tried."""

    finding: Finding
    why: str | None = None

    def _shape(self) -> dict[str, Any]:
        return {**fields(self.finding), "why": self.why}


class RepairReport(Result, Struct, frozen=True):
    """What became of what was wrong.

    Attributes:
        mended: what was wrong, and is not any more.
        left: what is wrong now.
        differs: the files among those mended that have other bytes than msb-cache had made before.
    """

    mended: tuple[Finding, ...]
    left: tuple[LeftFinding, ...]
    differs: tuple[Finding, ...] = ()

    def _shape(self) -> dict[str, Any]:
        return {
            "sound": not self.left,
            "findings": self.left,
            "mended": [{**fields(each), "differs": each in self.differs} for each in self.mended],
        }


def repair(
    session: Session,
    *,
    pull: bool,
    options: RegistryOptions,
    jobs: int,
    progress: Progress | None,
    note: Note | None,
) -> RepairReport:
    """Mend what is wrong, and look again; parameters and errors as for ``ImageCache.repair``."""
    began = time.monotonic_ns()
    found = diagnose(session)
    kinds = {finding.kind for finding in found if finding.fixable}
    if any(finding.kind in EVIDENCE for finding in found):
        why = "the log is not what it was, so nothing is written to it"
        return RepairReport((), tuple(LeftFinding(each, why if each.fixable else None) for each in found))
    if not kinds:
        return RepairReport((), tuple(map(LeftFinding, found)))
    steps = _Steps()
    if kinds & _REBUILT:
        steps.run(lambda: rebuild(session), *_REBUILT)
    steps.run(session.begin_writing, "unfinished", "dead-staging")
    if "leftover" in kinds:
        steps.run(lambda: _retry(session), "leftover")
    if not session.kept_by_msb:
        steps.run(lambda: _tidy(session), "stale-download", "lone-lock")
    request = MendRequest(
        wrong=_wrong(found),
        pull=pull,
        began_ns=began,
        options=options,
        jobs=jobs,
        progress=progress,
        note=note,
    )
    mending = Mending([], {})
    if request.wrong:
        done = steps.run(lambda: session.engine().mend(request), *_FILES)
        mending = done or mending
    return _report(found, diagnose(session), mending, steps.failed)


_REBUILT = frozenset({"log-schema", "index-differs", "index-copy", "tree-differs"})
_FILES = ("file-missing", "file-size", "file-damaged", "file-other", "file-moved", "file-altered")


class _Steps:
    """Steps of which each is tried, whatever became of those before; ``failed`` says why, by kind."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}

    def run(self, step: Callable[[], Any], *kinds: str) -> Any:
        """Do it; return what it does, None if it failed."""
        try:
            return step()
        except (MicrosandboxError, OSError) as error:
            self.failed.update(dict.fromkeys(kinds, as_sentence(error)))
            return None


def _wrong(found: Sequence[Finding]) -> list[Wrong]:
    """Return the files that can be made anew."""
    return [
        Wrong(each.artifact, each.subject, each.kind.removeprefix("file-"))  # type: ignore[arg-type]
        for each in found
        if each.fixable and each.kind in _FILES and each.artifact is not None and each.subject is not None
    ]


def _retry(session: Session) -> None:
    """Let a deletion of nothing else take up what earlier ones had to leave."""
    session.engine().delete(NO_IMAGE, kind="prune", policy={"rule": "leftovers"})


def _tidy(session: Session) -> None:
    from msb_cache.engines.own.delete import tidy_locks
    from msb_cache.engines.own.downloads import collect_stale

    collect_stale(session.layout)
    tidy_locks(session.layout)


def _report(
    found: Sequence[Finding], now: Sequence[Finding], mending: Mending, failed: dict[str, str]
) -> RepairReport:
    left = {finding.identity for finding in now}
    mended = tuple(finding for finding in found if finding.identity not in left)
    others = {(each.kind, each.subject) for each in mending.mended if each.differs}
    tried = {finding.identity for finding in found if finding.fixable}

    def why(finding: Finding) -> str | None:
        if finding.identity not in tried:
            return None
        said = mending.why_not.get((finding.artifact or "", finding.subject or ""))
        return said or failed.get(finding.kind)

    return RepairReport(
        mended,
        tuple(LeftFinding(finding, why(finding)) for finding in now),
        tuple(finding for finding in mended if (finding.artifact, finding.subject) in others),
    )
