"""What msb's record of boots means: the uses that began and those that ended, as events.

Pure: no database, no clock; what became of a process is asked of a function.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from typing import Literal, NamedTuple

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.msb.database import MsbHold
from msb_cache.msb.runs import MsbRun, MsbRuns, number_of
from msb_cache.projections.known import KnownUse

Fate = Literal["lasts", "vanished", "restarted"]
"""What became of a run that msb says is open."""

FateOf = Callable[[MsbRun, str, MsbRun | None], tuple[Fate, int | None]]
"""Says, of a run that msb says is open, its holder and the sandbox's next run, what became of it.

And by when, in ns since the epoch; None: that is not known.
"""

_LATE = 2**63


class Happened(NamedTuple):
    """A use that began or ended, and when that sorts: no end before its beginning."""

    at: int
    event: NewEvent


def as_msb_says(run: MsbRun, holder: str, later: MsbRun | None) -> tuple[Fate, int | None]:
    """Return that a run lasts, as msb says."""
    return "lasts", None


def boots(
    runs: MsbRuns,
    sandboxes: Mapping[int, MsbHold],
    uses: Mapping[str, KnownUse],
    *,
    recorded: Container[str] = (),
    names: Mapping[str, tuple[str, str]],
    fate: FateOf = as_msb_says,
) -> Iterator[Happened]:
    """Yield the uses that began and those that ended.

    Args:
        runs: what msb says.
        sandboxes: by msb's id.
        uses: those that the log has as open, by run.
        recorded: runs that the log has already.
        names: for each manifest a reference and its spelling, for sandboxes of which that cannot be read.
        fate: what became of the runs that msb says are open.
    """
    found = sorted(runs.found, key=lambda run: number_of(run.key))
    following: dict[int | None, MsbRun] = {}
    later: dict[str, MsbRun] = {}
    for run in reversed(found):
        if run.sandbox in following:
            later[run.key] = following[run.sandbox]
        following[run.sandbox] = run
    for run in found:
        use, sandbox = uses.get(run.key), sandboxes.get(run.sandbox or 0)
        began = run.terminated_at_ns if run.started_at_ns is None else run.started_at_ns
        at = _LATE if began is None else began
        if use is not None:
            reference, digest, holder = use.reference, use.manifest_digest, use.holder
        elif sandbox is None or run.key in recorded:
            continue  # its root is no image, or nothing about it is new
        else:
            digest, holder = sandbox.manifest_digest, sandbox.holder
            reference, typed = sandbox.reference or "", sandbox.typed
            if not reference and digest in names:
                reference, typed = names[digest]
            if not reference:
                continue
            used = ev.ImageUsed(manifest_digest=digest, spelling=typed, holder=holder, run=run.key)
            yield Happened(at, NewEvent(used, reference, run.started_at_ns))
        how: Literal["ended", "vanished", "restarted"] = "ended"
        by = run.terminated_at_ns
        if run.is_open:
            became, by = fate(run, holder or "", later.get(run.key))
            if became == "lasts":
                continue
            how = became
        ended = ev.ImageUseEnded(manifest_digest=digest, run=run.key, how=how, holder=holder)
        yield Happened(max(at, _LATE if by is None else by), NewEvent(ended, reference, by))
    there = {run.key for run in found}
    for key, use in uses.items():
        if key not in there and number_of(key) <= runs.through:
            gone = ev.ImageUseEnded(
                manifest_digest=use.manifest_digest, run=key, how="vanished", holder=use.holder
            )
            yield Happened(_LATE, NewEvent(gone, use.reference))
