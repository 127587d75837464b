"""What a prune or a remove would delete: pure functions from the index to a plan.

No database, no disk, no clock. The caller guarantees that the state is one consistent position of the
index, and runs the plan again inside the deciding transaction, restricted to what was shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from msb_cache.projections.state import IndexState, Naming

HELD = "held"
REFERENCED = "referenced"
UNKNOWN = "unknown"
SHARED = "shared"


@dataclass(frozen=True)
class Kept:
    """An image, by name, or a manifest that stays, and why.

    ``held`` by holders, ``referenced`` by others; in a home that msb keeps also ``shared``: its layers are
    those of images that stay and that msb does not know; or ``unknown`` to msb, where it cannot be told what
    msb needs.
    """

    subject: str
    rule: str
    by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What goes, in the order in which it goes out of the index.

    Attributes:
        references: an image's name to the manifest digest it points at.
        manifests: digests of manifests that then nothing reaches.
        layers: diff ID of each layer that then no manifest needs.
        sharing_counts: for those of ``layers`` that more than one of ``manifests`` had, how many had it.
        kept: what stays although asked for or considered, and by which rule.
        naming: what the images' names mean.
        metadata: canonical references of which no image is left, so that their metadata goes.
    """

    references: Mapping[str, str] = field(default_factory=dict)
    manifests: Sequence[str] = ()
    layers: Sequence[str] = ()
    sharing_counts: Mapping[str, int] = field(default_factory=dict)
    kept: tuple[Kept, ...] = ()
    naming: Naming = field(default_factory=Naming)
    metadata: Collection[str] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing would go."""
        return not (self.references or self.manifests or self.layers)


def plan_prune(state: IndexState, *, shown: Plan | None = None) -> Plan:
    """Plan a prune: whatever no sandbox and no snapshot uses (UPSTREAM's ``prune``).

    References whose manifest has no holder go, then the manifests that nothing reaches, then the layers
    that no remaining manifest has.

    Args:
        state: the index.
        shown: a plan that was shown before; nothing outside of it goes, and less may.
    """
    bounds = Bounds(state, _unknown_going(state, shown))
    references: dict[str, str] = {}
    kept = []
    for reference, digest in state.references.items():
        holders = state.holders_of(reference) if state.holders else ()
        kept_back = Kept(reference, HELD, holders) if holders else bounds(reference, digest)
        if kept_back is not None:
            kept.append(kept_back)
        elif shown is None or shown.references.get(reference) == digest:
            references[reference] = digest
    if state.holders:
        pointed_at = set(state.references.values())
        kept += [
            Kept(digest, HELD, tuple(state.holders[digest]))
            for digest in state.manifests
            if digest in state.holders and digest not in pointed_at
        ]
    candidates = [digest for digest in state.manifests if bounds(digest, digest) is None]
    return _complete(state, references, candidates, state.layers, state.sharing_counts, kept, shown)


def _unknown_going(state: IndexState, shown: Plan | None) -> set[str]:
    """Return the manifests of images that msb does not know and that a prune deletes."""
    if state.unjudged:
        return set()
    digests = {state.references.get(name, name) for name in state.unknown_to_msb}
    staying = set(state.holders)
    if shown is not None:
        staying.update(
            digest for name, digest in state.references.items() if shown.references.get(name) != digest
        )
    return digests - staying


class Bounds:
    """Says what in a home is out of reach of the program that deletes there; of our own engine nothing is.

    Args:
        state: the index.
        going: manifests that the same deletion takes away, before msb deletes anything.
    """

    def __init__(self, state: IndexState, going: Collection[str] = ()) -> None:
        self._unknown = state.unknown_to_msb
        self._unjudged = state.unjudged
        self._manifests = state.manifests
        digests = {state.references.get(name, name) for name in state.unknown_to_msb}.difference(going)
        self._layers = {diff_id: digest for digest in digests for diff_id in state.manifests.get(digest, ())}

    def __call__(self, subject: str, digest: str) -> Kept | None:
        """Return what keeps ``subject``, which is or points at the manifest ``digest``; None: nothing."""
        if subject in self._unknown or digest in self._unknown:
            return Kept(subject, UNKNOWN) if self._unjudged else None
        if self._layers:
            # msb would take the layers away from the images that it does not know.
            own = self._manifests.get(digest, ())
            by = {self._layers[diff_id] for diff_id in own if diff_id in self._layers}
            if by:
                return Kept(subject, SHARED, tuple(sorted(by)))
        return None


def plan_remove(
    state: IndexState, references: Sequence[str], *, force: bool = False, shown: Plan | None = None
) -> Plan:
    """Plan the removal of references (UPSTREAM's ``remove``); those not in the index are passed over.

    With ``force`` a reference goes although its manifest is held; the manifest then stays. A manifest
    goes when the last reference to it goes and it has no holder, a layer with its last manifest.
    """
    going: dict[str, str] = {}
    kept = []
    for reference in dict.fromkeys(references):
        digest = state.references.get(reference)
        if digest is None or (shown is not None and shown.references.get(reference) != digest):
            continue
        holders = state.holders_of(reference)
        if holders and not force:
            kept.append(Kept(reference, HELD, holders))
        else:
            going[reference] = digest
    pointed_at = dict.fromkeys(going.values())
    for digest in pointed_at:
        others = tuple(name for name, own in state.references.items() if name not in going and own == digest)
        if digest in state.holders:
            kept.append(Kept(digest, HELD, tuple(state.holders[digest])))
        elif others:
            kept.append(Kept(digest, REFERENCED, others))
    candidates = [digest for digest in pointed_at if digest in state.manifests]
    had = Counter(diff_id for digest in candidates for diff_id in set(state.manifests[digest]))
    sharing_counts = {diff_id: manifests for diff_id, manifests in had.items() if manifests > 1}
    return _complete(state, going, candidates, sorted(had), sharing_counts, kept, shown)


def _complete(
    state: IndexState,
    references: Mapping[str, str],
    candidate_manifests: Sequence[str],
    candidate_layers: Sequence[str],
    sharing_counts: Mapping[str, int],
    kept: Sequence[Kept],
    shown: Plan | None,
) -> Plan:
    reached = set(state.holders)
    if len(references) < len(state.references):
        for reference in state.references:
            if reference not in references:
                reached.add(state.references[reference])
    manifests = _without(candidate_manifests, reached)
    if shown is not None:
        shown_manifests = set(shown.manifests)
        manifests = [digest for digest in manifests if digest in shown_manifests]
    needed: set[str] = set()
    if len(manifests) < len(state.manifests):
        gone = set(manifests)
        needed.update(*(layers for digest, layers in state.manifests.items() if digest not in gone))
    # All manifests that had a layer which goes are candidates, and go.
    layers = _without(candidate_layers, needed)
    if shown is not None:
        shown_layers = set(shown.layers)
        layers = [diff_id for diff_id in layers if diff_id in shown_layers]
    return Plan(
        references=references,
        manifests=tuple(manifests),
        layers=tuple(layers),
        sharing_counts=sharing_counts,
        kept=tuple(kept),
        naming=state.naming,
        metadata=_unnamed(state, references),
    )


def _unnamed(state: IndexState, gone: Mapping[str, str]) -> Collection[str]:
    """Return the canonical references of which no image is left."""
    reference = state.naming.reference
    if not state.naming.references:
        return gone.keys()
    left = {reference(name) for name in state.references if name not in gone}
    return dict.fromkeys(found for name in gone if (found := reference(name)) not in left)


def _without(candidates: Sequence[str], staying: Collection[str]) -> Sequence[str]:
    # As a rule nothing stays, and then 100,000 digests need not be hashed.
    return [each for each in candidates if each not in staying] if staying else candidates
