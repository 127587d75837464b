"""What a prune or a remove would delete: pure functions from the index to a plan.

No database, no disk, no clock. The caller guarantees that the state is one consistent position of the
index, and runs the plan again inside the deciding transaction, restricted to what was shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msb_cache.projections.state import IndexState

HELD = "held"
REFERENCED = "referenced"


@dataclass(frozen=True)
class Kept:
    """A reference or manifest that stays, and why: ``held`` by holders, or ``referenced`` by others."""

    subject: str
    rule: str
    by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What goes, in the order in which it goes out of the index.

    Attributes:
        references: canonical reference and the manifest digest it points at.
        manifests: digests of manifests that then nothing reaches.
        layers: diff ID of each layer that then no manifest needs, and how many of ``manifests`` had it.
        kept: what stays although asked for or considered, and by which rule.
    """

    references: tuple[tuple[str, str], ...] = ()
    manifests: tuple[str, ...] = ()
    layers: tuple[tuple[str, int], ...] = ()
    kept: tuple[Kept, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing would go."""
        return not (self.references or self.manifests or self.layers)


def plan_prune(state: IndexState, *, within: Plan | None = None) -> Plan:
    """Plan a prune: whatever no sandbox and no snapshot uses (UPSTREAM's ``prune``).

    References whose manifest nobody holds go, then the manifests that nothing reaches, then the layers
    that no remaining manifest has.

    Args:
        state: the index.
        within: a plan that was shown before; nothing outside of it goes, and less may.
    """
    references = [
        (reference, digest)
        for reference, digest in state.references.items()
        if digest not in state.holders and (within is None or (reference, digest) in within.references)
    ]
    kept = [
        Kept(reference, HELD, tuple(state.holders[digest]))
        for reference, digest in state.references.items()
        if digest in state.holders
    ]
    pointed_at = set(state.references.values())
    kept += [
        Kept(digest, HELD, tuple(state.holders[digest]))
        for digest in state.manifests
        if digest in state.holders and digest not in pointed_at
    ]
    return _complete(state, references, state.manifests, state.layers, kept, within)


def plan_remove(
    state: IndexState, references: Sequence[str], *, force: bool = False, within: Plan | None = None
) -> Plan:
    """Plan the removal of references (UPSTREAM's ``remove``); those not in the index are passed over.

    With ``force`` a reference goes although its manifest is held; the manifest then stays. A manifest
    goes when the last reference to it goes and nobody holds it, a layer with its last manifest.
    """
    going, kept = [], []
    for reference in dict.fromkeys(references):
        digest = state.references.get(reference)
        if digest is None or (within is not None and (reference, digest) not in within.references):
            continue
        if digest in state.holders and not force:
            kept.append(Kept(reference, HELD, tuple(state.holders[digest])))
        else:
            going.append((reference, digest))
    candidates = dict.fromkeys(digest for _, digest in going)
    names = {reference for reference, _ in going}
    for digest in candidates:
        others = tuple(r for r, d in state.references.items() if d == digest and r not in names)
        if digest in state.holders:
            kept.append(Kept(digest, HELD, tuple(state.holders[digest])))
        elif others:
            kept.append(Kept(digest, REFERENCED, others))
    layers = {diff_id for digest in candidates for diff_id in state.manifests.get(digest, ())}
    return _complete(state, going, candidates, layers, kept, within)


def _complete(
    state: IndexState,
    references: Sequence[tuple[str, str]],
    candidate_manifests: Iterable[str],
    candidate_layers: Iterable[str],
    kept: Sequence[Kept],
    within: Plan | None,
) -> Plan:
    names = {reference for reference, _ in references}
    reached = {digest for reference, digest in state.references.items() if reference not in names}
    reached.update(state.holders)
    manifests = [
        digest for digest in candidate_manifests if digest in state.manifests and digest not in reached
    ]
    if within is not None:
        shown = set(within.manifests)
        manifests = [digest for digest in manifests if digest in shown]
    gone = set(manifests)
    needed = {
        diff_id for digest, layers in state.manifests.items() if digest not in gone for diff_id in layers
    }
    had = Counter(diff_id for digest in manifests for diff_id in set(state.manifests[digest]))
    layers = [diff_id for diff_id in sorted(candidate_layers) if diff_id not in needed]
    if within is not None:
        shown_layers = {diff_id for diff_id, _ in within.layers}
        layers = [diff_id for diff_id in layers if diff_id in shown_layers]
    return Plan(
        references=tuple(references),
        manifests=tuple(manifests),
        layers=tuple((diff_id, had[diff_id] or 1) for diff_id in layers),
        kept=tuple(kept),
    )
