"""Remove images by name, pattern or digest, as one operation: what is refused, and the report of what went.

What goes with them is decided in ``retention.plan``, and the engine that the home has deletes it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msb_cache.commands import reports
from msb_cache.engines.decision import Planner, Preview
from msb_cache.errors import (
    BusyError,
    HomeOwnedByMicrosandboxError,
    ImageInUseError,
    ImageNotFoundError,
    InvalidReferenceError,
    MicrosandboxError,
    MsbProgramError,
)
from msb_cache.models import ImagePruneReport
from msb_cache.projections import images
from msb_cache.projections.state import IndexState
from msb_cache.queries import resolve
from msb_cache.queries.resolve import seen
from msb_cache.retention.plan import PINNED, RUNNING, UNKNOWN, Bounds, Plan, Verdict, never_goes, plan_remove
from msb_cache.retention.room import Files
from msb_cache.session import Session
from msb_cache.wording import short

Refused = Callable[[MicrosandboxError], None]
"""Told of each image that is not removed, and why."""

_ATTEMPTS = 5


@dataclass(frozen=True)
class _Target:
    """An image by its name, or a manifest without a reference by its digest (``reference`` is None then)."""

    subject: str
    seen: str
    reference: str | None = None


def remove(
    session: Session, texts: Sequence[str], *, force: bool, refused: Refused | None = None
) -> ImagePruneReport:
    """Remove images; parameters, result and errors as for ``ImageCache.remove``."""
    session.begin_writing()
    targets = _targets(session, texts, force, refused)
    policy = {"references": [each.reference or each.subject for each in targets], "force": force}
    removal = _Removal(session, targets, force, strict=refused is None)
    for _ in range(_ATTEMPTS if targets else 0):
        operation, shown = session.engine().delete(Planner(removal.plan), kind="remove", policy=policy)
        if operation is None and not removal.all_refused:
            continue  # something moved to another image between plan and decision: plan again
        for error in removal.refusals:
            _say(error, refused)
        if operation is not None:
            for error in _left(session, operation, removal.taken):
                _say(error, refused)
        return reports.of_operation(session, operation, shown)
    if targets:
        _say(BusyError(f"{targets[0].seen} keeps changing; try again"), refused)
    return ImagePruneReport(0, 0, 0, 0, 0, None)


def preview_remove(
    session: Session, texts: Sequence[str], *, force: bool, refused: Refused | None = None
) -> Preview:
    """Return what a removal would delete; parameters and errors as for ``ImageCache.remove``."""
    session.observe()
    removal = _Removal(session, _targets(session, texts, force, refused), force, strict=refused is None)
    shown = session.engine().plan(Planner(removal.plan))
    for error in removal.refusals:
        _say(error, refused)
    return shown


def _say(error: MicrosandboxError, refused: Refused | None) -> None:
    if refused is None:
        raise error
    refused(error)


def _targets(
    session: Session, texts: Sequence[str], force: bool, refused: Refused | None
) -> Sequence[_Target]:
    found: dict[str, _Target] = {}
    with session.index() as connection:
        for text in texts:
            try:
                meant = _meant(connection, text, force)
                if force and connection is not None and session.kept_by_msb:
                    for each in meant:
                        _check_msb_knows_what_keeps(connection, each)
            except MicrosandboxError as error:
                _say(error, refused)
            else:
                found.update((each.subject, each) for each in meant)
    return [*found.values()]


def _meant(connection: sqlite3.Connection | None, text: str, force: bool) -> Sequence[_Target]:
    """Return what a text means: an image, those that a pattern or (forced) a digest means, or a manifest."""
    if resolve.is_pattern(text):
        names = resolve.in_index(connection, text)
        found = (images.handle(connection, name) for name in names if connection is not None)
        return [_Target(row.name, seen(row), row.reference) for row in found if row is not None]
    try:
        row = resolve.reference(connection, text)
    except ImageNotFoundError:
        if connection is None or resolve.digest_prefix(text) is None:
            raise
        digest = resolve.manifest(connection, text)
        return [_Target(digest, short(digest))]
    except InvalidReferenceError:
        prefix = resolve.digest_prefix(text)
        if not force or prefix is None or connection is None:
            raise
        rows = images.handles_of(connection, resolve.manifest(connection, text))
        return [_Target(row.name, seen(row), row.reference) for row in rows]
    return [_Target(row.name, seen(row), row.reference)]


class _Removal:
    """What is left of a removal after what the index, as it is by then, refuses."""

    def __init__(self, session: Session, targets: Sequence[_Target], force: bool, *, strict: bool) -> None:
        self._session, self._targets, self._force, self._strict = session, targets, force, strict
        self.refusals: list[MicrosandboxError] = []
        self.taken: list[_Target] = []

    @property
    def all_refused(self) -> bool:
        """Whether nothing is left of it."""
        return not self.taken

    def plan(self, state: IndexState, shown: Plan | None, files: Files) -> Plan:
        """Return the plan, without what is refused; raises the first refusal if there may be none."""
        self.refusals, self.taken = [], []
        for each in self._targets:
            error = self._refusal(state, each)
            if error is None:
                self.taken.append(each)
            elif self._strict:
                raise error
            else:
                self.refusals.append(error)
        return plan_remove(state, [each.subject for each in self.taken], force=self._force, shown=shown)

    def _refusal(self, state: IndexState, each: _Target) -> MicrosandboxError | None:
        digest = state.references.get(each.subject)
        if digest is None:
            if each.reference is not None or each.subject not in state.manifests:
                return ImageNotFoundError(f"image not found: {each.seen}")
            digest = each.subject
        # A manifest without a reference is all there is to remove of it, so what keeps it is not overruled.
        kept = never_goes(state, each.subject, digest)
        if kept is None or (self._force and each.reference is not None):
            return _unreachable(state, each, digest)
        error = _in_use(self._session, each, kept)
        if kept.rule == PINNED:
            error.pinned = each.seen if each.reference in state.pins else short(digest)
        known = digest in state.unknown_to_msb or digest in state.held_in_msb
        if state.kept_by_msb and not known and (digest in state.holders or digest in state.pins):
            # It is no sandbox of msb's, and by force msb would delete what is kept.
            error.seen_in_msb = error.forcible = False
        return error


def _check_msb_knows_what_keeps(connection: sqlite3.Connection, each: _Target) -> None:
    """Refuse to have msb drop a reference whose manifest only holds or pins of ours keep."""
    row = images.handle(connection, each.subject)
    if row is None or row.name in images.unknown_to_msb(connection):
        return
    digest = row.manifest_digest
    if not images.kept_beside_msb(connection, digest):
        return
    holders = images.holders(connection, digest)
    what, pinned = f"held by {_listed(holders)}", ""
    if not holders:
        what, pinned = "pinned by its digest", short(digest)
    error = ImageInUseError(
        f"{each.seen} is {what}, which msb does not know, so it would delete what is kept"
    )
    error.pinned, error.forcible = pinned, False
    raise error


def _unreachable(state: IndexState, each: _Target, digest: str) -> MicrosandboxError | None:
    """Return why msb, which keeps the home, cannot remove an image, or would take it from others."""
    if not state.kept_by_msb:
        return None
    if each.reference is None and digest not in state.unknown_to_msb:
        return HomeOwnedByMicrosandboxError(
            f"{each.seen} is not removed: msb, which keeps this home, deletes what has no reference only "
            "when it prunes all that nothing uses"
        )
    kept = Bounds(state)(each.subject, digest)
    if kept is None:
        return None
    why = (
        "msb keeps this home, and its index cannot be read as a whole, so what it needs cannot be told"
        if kept.rule == UNKNOWN
        else "msb, which keeps this home, would delete layers of images that it does not know; "
        "`msb-cache hand-over` makes them known to it"
    )
    return HomeOwnedByMicrosandboxError(f"{each.seen} is not removed: {why}")


def _in_use(session: Session, each: _Target, kept: Verdict | Sequence[str]) -> ImageInUseError:
    by = kept.by if isinstance(kept, Verdict) else kept
    what = "in use"
    if isinstance(kept, Verdict) and kept.rule == PINNED:
        what = "pinned"
    elif isinstance(kept, Verdict) and kept.rule == RUNNING:
        what = "running"
    error = ImageInUseError(f"{each.seen} is {what}{f' by {_listed(by)}' if by else ''}")
    error.seen_in_msb = session.engine().name == "msb"
    error.forcible = each.reference is not None
    return error


def _left(session: Session, operation: str, taken: Sequence[_Target]) -> Sequence[MicrosandboxError]:
    """Return why references that msb was asked to remove are still there."""
    with session.ledger.read() as connection:
        there = [
            each
            for each in taken
            if connection is not None
            and each.reference is not None
            and images.handle(connection, each.subject)
        ]
    if not there or not session.kept_by_msb:
        return []
    report = reports.whole(session, operation)
    outcomes = {each.subject: each for each in report.artifacts if each.kind == "metadata"}
    removed = {resolve.as_typed(reference, data.spelling) for reference, data in report.images}
    found: list[MicrosandboxError] = []
    for each in there:
        artifact = outcomes.get(each.reference or "")
        if artifact is None or each.seen in removed:  # it went, and came back since
            continue
        if artifact.outcome == "kept" and artifact.holders:
            found.append(_in_use(session, each, artifact.holders))
        elif artifact.outcome == "kept" and artifact.reason == "busy":
            found.append(_in_use(session, each, ["another process that works with it"]))
        elif artifact.outcome == "kept":
            found.append(
                MsbProgramError(f"msb said nothing against it, but {each.seen} is still there; try again")
            )
        elif artifact.outcome == "failed":
            found.append(MsbProgramError(f"msb could not remove {each.seen}: {artifact.reason}"))
    return found


def _listed(names: Sequence[str], most: int = 3) -> str:
    text = ", ".join(names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"
