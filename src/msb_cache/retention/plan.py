"""What a prune or a remove would delete: pure functions from the index to a plan.

No database, no disk, no clock. The caller guarantees that the state is one consistent position of the
index, and runs the plan again inside the deciding transaction, restricted to what was shown. Which images
the rules of a policy choose, ``rules`` says; what goes with them is said here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec import Struct

from msb_cache.projections.state import ImageFacts, IndexState, Naming

HELD = "held"
RUNNING = "running"
PINNED = "pinned"
UNUSED = "unused"
MSB_ONLY = "msb-only"
REFERENCED = "referenced"
UNKNOWN = "unknown"
SHARED = "shared"
COMING = "coming"


class Verdict(Struct, frozen=True, gc=False):
    """Whether an image, by name, or a manifest goes or stays, and which rule decided.

    It stays: ``held`` by holders, ``running`` in sandboxes, ``pinned`` by a user, ``referenced`` by others;
    in a home that msb keeps also ``shared``: its layers are those of images that stay and that msb does not
    know; or ``unknown`` to msb, where it cannot be told what msb needs. The rules of a policy are those of
    ``rules``.

    Attributes:
        subject: the image's name, or the manifest's digest.
        rule: the rule.
        by: who holds it, runs from it or pinned it, or what refers to it or shares with it.
        idle_ns: for how long it was idle, where rules were asked; None: it is in use.
        age_ns: for how long it has been what it is, where rules were asked.
        rank: its place among the manifests of its repository, the most recent being 1.
        until_ns: when its pin ends, in ns since the epoch.
        facts: what was looked at, where rules were asked.
        policy_rule: the name of the policy file's rule that it is by.
    """

    subject: str
    rule: str
    by: tuple[str, ...] = ()
    idle_ns: int | None = None
    age_ns: int | None = None
    rank: int | None = None
    until_ns: int | None = None
    facts: ImageFacts | None = None
    policy_rule: str | None = None


@dataclass(frozen=True)
class Plan:
    """What goes, in the order in which it goes out of the index.

    Attributes:
        references: an image's name to the manifest digest it points at.
        manifests: digests of manifests that then nothing reaches.
        layers: diff ID of each layer that then no manifest needs.
        sharing_counts: for those of ``layers`` that more than one of ``manifests`` had, how many had it.
        kept: what stays although asked for or considered, and by which rule.
        going: with the rules of a policy, which of them decided of each image that goes.
        shortfall: how many bytes too few all that may go would free for the room that was asked for; then
            nothing goes, but with best effort.
        short_of: the name of the rule that this room is asked for by, if it has one.
        naming: what the images' names mean.
        metadata: canonical references of which no image is left, so that their metadata goes.
    """

    references: Mapping[str, str] = field(default_factory=dict)
    manifests: Sequence[str] = ()
    layers: Sequence[str] = ()
    sharing_counts: Mapping[str, int] = field(default_factory=dict)
    kept: tuple[Verdict, ...] = ()
    going: tuple[Verdict, ...] = ()
    shortfall: int = 0
    short_of: str | None = None
    naming: Naming = field(default_factory=Naming)
    metadata: Collection[str] = ()

    @property
    def empty(self) -> bool:
        """Whether nothing would go."""
        return not (self.references or self.manifests or self.layers)


def never_goes(state: IndexState, subject: str, digest: str) -> Verdict | None:
    """Return what keeps an image, or a manifest, from every prune; None: nothing does."""
    if state.holders and digest in state.holders:
        return Verdict(subject, HELD, tuple(state.holders[digest]))
    if state.running and digest in state.running:
        return Verdict(subject, RUNNING, tuple(state.running[digest]))
    if state.pins and (pin := state.pin_of(subject, digest)) is not None:
        return Verdict(subject, PINNED, (pin.by,), until_ns=pin.until_ns)
    return None


def plan_prune(state: IndexState, *, shown: Plan | None = None) -> Plan:
    """Plan a prune: whatever no sandbox and no snapshot uses (UPSTREAM's ``prune``), and no pin keeps.

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
        kept_back = never_goes(state, reference, digest) or bounds(reference, digest)
        if kept_back is not None:
            kept.append(kept_back)
        elif shown is None or shown.references.get(reference) == digest:
            references[reference] = digest
    kept += _kept_without_reference(state)
    out_of_reach = _out_of_reach(state) if state.pins else ()
    kept += [Verdict(digest, MSB_ONLY) for digest in out_of_reach]
    candidates = [
        digest for digest in state.manifests if bounds(digest, digest) is None and digest not in out_of_reach
    ]
    return _complete(state, references, candidates, state.layers, state.sharing_counts, kept, shown)


def _kept_without_reference(state: IndexState) -> list[Verdict]:
    if not (state.holders or state.running or state.pins):
        return []
    found = (never_goes(state, digest, digest) for digest in state.unreferenced)
    return [kept for kept in found if kept is not None]


def _out_of_reach(state: IndexState) -> Collection[str]:
    """Return the manifests that msb deletes only when it prunes all: it is not asked to beside a pin."""
    if not state.kept_by_msb:
        return ()
    known = (digest for digest in state.unreferenced if digest not in state.unknown_to_msb)
    return {digest: None for digest in known if not state.kept(digest)}


def _unknown_going(state: IndexState, shown: Plan | None) -> set[str]:
    """Return the manifests of images that msb does not know and that a prune deletes."""
    if state.unjudged:
        return set()
    digests = {state.references.get(name, name) for name in state.unknown_to_msb}
    staying = {*state.holders, *state.running, *state.pins}
    if state.pins:
        staying.update(digest for name, digest in state.references.items() if state.pin_of(name, digest))
    if shown is not None:
        staying.update(
            digest for name, digest in state.references.items() if shown.references.get(name) != digest
        )
    return digests - staying


def needed_by_coming(state: IndexState, subject: str, digest: str) -> bool:
    """Return whether an image, or a manifest, stays for what is about to be added to the cache.

    So it is where it is that image, or its name comes to point elsewhere; and in a home of msb where it
    shares a layer, for msb deletes the layers of what it removes.
    """
    coming = state.coming
    if not coming.layers and not coming.references:
        return False
    if digest in coming.manifests:
        return True
    if subject in state.references and state.naming.reference(subject) in coming.references:
        return True
    if not state.kept_by_msb or subject in state.unknown_to_msb:
        return False
    return not coming.layers.isdisjoint(state.manifests.get(digest, ()))


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

    def __call__(self, subject: str, digest: str) -> Verdict | None:
        """Return what keeps ``subject``, which is or points at the manifest ``digest``; None: nothing."""
        if subject in self._unknown or digest in self._unknown:
            return Verdict(subject, UNKNOWN) if self._unjudged else None
        if self._layers:
            # msb would take the layers away from the images that it does not know.
            own = self._manifests.get(digest, ())
            by = {self._layers[diff_id] for diff_id in own if diff_id in self._layers}
            if by:
                return Verdict(subject, SHARED, tuple(sorted(by)))
        return None


def plan_remove(
    state: IndexState, subjects: Sequence[str], *, force: bool = False, shown: Plan | None = None
) -> Plan:
    """Plan the removal of images (UPSTREAM's ``remove``); those not in the index are passed over.

    With ``force`` a reference goes although its manifest is held or it is pinned; the manifest then stays if
    it is held, in use, or pinned by its digest. A manifest goes when the last reference to it goes, a layer
    with its last manifest.

    Args:
        state: the index.
        subjects: names of images, and digests of manifests that no reference points at.
        force: remove what is held, too.
        shown: a plan that was shown before; nothing outside of it goes, and less may.
    """
    going: dict[str, str] = {}
    kept = []
    candidates: dict[str, None] = {}
    for subject in dict.fromkeys(subjects):
        digest = state.references.get(subject)
        if digest is None:
            if subject in state.manifests:
                candidates[subject] = None
            continue
        if shown is not None and shown.references.get(subject) != digest:
            continue
        kept_back = None if force else never_goes(state, subject, digest)
        if kept_back is not None:
            kept.append(kept_back)
        else:
            going[subject] = digest
            candidates[digest] = None
    staying: dict[str, list[str]] = {}
    for name, digest in state.references.items():
        if name not in going:
            staying.setdefault(digest, []).append(name)
    for digest in candidates:
        others = tuple(staying.get(digest, ()))
        kept_back = never_goes(state, digest, digest)
        if kept_back is not None:
            kept.append(kept_back)
        elif others:
            kept.append(Verdict(digest, REFERENCED, others))
    manifests = [digest for digest in candidates if digest in state.manifests]
    return complete(state, going, manifests, kept, shown)


def complete(
    state: IndexState,
    references: Mapping[str, str],
    candidate_manifests: Sequence[str],
    kept: Sequence[Verdict],
    shown: Plan | None,
) -> Plan:
    """Plan what goes with references: of the manifests those that nothing needs, and layers.

    Args:
        state: the index.
        references: the references that go, and where they point.
        candidate_manifests: manifests that may go; those that are reached still do not.
        kept: the verdicts on what stays.
        shown: a plan that was shown before; nothing outside of it goes.
    """
    had = Counter(diff_id for digest in candidate_manifests for diff_id in set(state.manifests[digest]))
    sharing_counts = {diff_id: manifests for diff_id, manifests in had.items() if manifests > 1}
    return _complete(state, references, candidate_manifests, sorted(had), sharing_counts, kept, shown)


def _complete(
    state: IndexState,
    references: Mapping[str, str],
    candidate_manifests: Sequence[str],
    candidate_layers: Sequence[str],
    sharing_counts: Mapping[str, int],
    kept: Sequence[Verdict],
    shown: Plan | None,
) -> Plan:
    reached = {*state.holders, *state.running, *state.pins}
    if len(references) < len(state.references):
        for reference in state.references:
            if reference not in references:
                reached.add(state.references[reference])
    manifests = _without(candidate_manifests, reached)
    if shown is not None:
        shown_manifests = set(shown.manifests)
        manifests = [digest for digest in manifests if digest in shown_manifests]
    needed = set(state.coming.layers)
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
