"""Small caches for the tests of retention, and what of their files comes free, counted from scratch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from msb_cache.projections.state import ImageFacts, IndexState, Naming, Pin

NOW = 20
NAMES = ("a:1", "a:2", "b:1", "b:2", "A:1", "B/a:2")
SPELLED = {"A:1": "a:1", "B/a:2": "a:2"}
"""Of which reference two of the names are another spelling."""
DIGESTS = ("K", "L", "M", "N")
LAYERS = "wxyz"
ROOTS = ("P", "Q")
OF_MANIFEST = ("fsmeta", "vmdk", "flat_ref")


@dataclass
class Disk:
    """Files: of each kind and subject what it takes of the disk, and what deleting it frees."""

    files: Mapping[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    roots: Mapping[str, str] = field(default_factory=dict)
    total_bytes: int = 0
    free_bytes: int = 0
    capacity_bytes: int = 0
    going_anyway_bytes: int = 0

    def size(self, kind: str, subject: str) -> int:
        return self.files.get((kind, subject), (0, 0))[0]

    def freed(self, kind: str, subject: str) -> int:
        return self.files.get((kind, subject), (0, 0))[1]

    def flat_root(self, manifest_digest: str) -> str | None:
        return self.roots.get(manifest_digest)

    def flat_names(self, root_digest: str) -> int:
        return [*self.roots.values()].count(root_digest)


def cache(
    images: Mapping[str, tuple[str, ImageFacts]],
    manifests: Mapping[str, Sequence[str]],
    *,
    unnamed: Mapping[str, int] | None = None,
    holders: Mapping[str, Sequence[str]] | None = None,
    running: Mapping[str, Sequence[str]] | None = None,
    pins: Mapping[str, Pin] | None = None,
    labels: Mapping[str, Mapping[str, str]] | None = None,
    unknown: Collection[str] = (),
    kept_by_msb: bool = False,
    unjudged: bool = False,
    now: int = NOW,
) -> IndexState:
    """Images, newest first: where each points, and its facts; manifests without one: since when."""
    facts = {name: found for name, (_, found) in images.items()}
    facts |= {digest: ImageFacts(since, since, since) for digest, since in (unnamed or {}).items()}
    every = {layer for own in manifests.values() for layer in own}
    counts = {layer: sum(layer in own for own in manifests.values()) for layer in every}
    return IndexState(
        {name: digest for name, (digest, _) in images.items()},
        {digest: tuple(own) for digest, own in sorted(manifests.items())},
        sorted(every),
        holders or {},
        {layer: count for layer, count in counts.items() if count > 1},
        frozenset(unknown),
        kept_by_msb,
        unjudged,
        Naming({name: SPELLED[name] for name in images if name in SPELLED}),
        now,
        pins or {},
        running or {},
        facts,
        labels or {},
    )


def unnamed(state: IndexState) -> list[str]:
    """The manifests at which no reference points."""
    return [digest for digest in state.manifests if digest not in state.references.values()]


def manifests_left(state: IndexState, going: Collection[str]) -> set[str]:
    """The manifests that are there when images have gone: a manifest goes with its last name."""
    names = {name: digest for name, digest in state.references.items() if name not in going}
    without = {digest for name, digest in state.references.items() if name in going} | {*going}
    gone = without - {*names.values(), *state.holders, *state.running, *state.pins}
    return set(state.manifests) - gone


def files(state: IndexState, disk: Disk, going: Collection[str] = ()) -> set[tuple[str, str]]:
    """The files that are needed when images have gone."""
    found = {
        ("metadata", state.naming.references.get(name, name))
        for name in state.references
        if name not in going
    }
    for digest in manifests_left(state, going):
        found |= {(kind, digest) for kind in OF_MANIFEST}
        found |= {("layer", layer) for layer in state.manifests[digest]}
        found |= {("flat", root) for of, root in disk.roots.items() if of == digest}
    return found


def freed(state: IndexState, disk: Disk, going: Collection[str]) -> int:
    """What of the disk comes free when images go."""
    # A flat ref of a manifest that the index does not have stays, and with it the root that it names.
    strays = {("flat", root) for of, root in disk.roots.items() if of not in state.manifests}
    gone = files(state, disk) - files(state, disk, going) - strays
    return sum(disk.freed(kind, subject) for kind, subject in gone)


times = st.integers(0, NOW + 4)


@st.composite
def caches(draw: st.DrawFn, *, of_msb: bool = False) -> IndexState:
    """Up to six names in two repositories, over up to four manifests; some of these have no record."""
    manifests = draw(st.dictionaries(st.sampled_from(DIGESTS), st.text(LAYERS, max_size=3), max_size=4))
    pointing = draw(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(DIGESTS), max_size=6))
    some = st.dictionaries(st.sampled_from(DIGESTS), st.just(("sandbox:one",)), max_size=1)
    holders, running = draw(some), draw(some)
    lasting = st.builds(Pin, st.just("alice"), st.none() | st.integers(NOW + 1, NOW + 9))
    pins = draw(st.dictionaries(st.sampled_from((*NAMES[:4], *DIGESTS)), lasting, max_size=2))
    images = {
        name: (
            digest,
            ImageFacts(None if digest in running else draw(times), draw(times), draw(times)),
        )
        for name, digest in pointing.items()
    }
    without = [digest for digest in manifests if digest not in pointing.values()]
    labelled = draw(st.sets(st.sampled_from(DIGESTS), max_size=2))
    known = st.sets(st.sampled_from((*NAMES, *DIGESTS)), max_size=3) if of_msb else st.just(set())
    return cache(
        images,
        manifests,
        unnamed={digest: draw(times) for digest in without},
        holders=holders,
        running=running,
        pins=pins,
        labels={digest: {"label": "yes"} for digest in labelled},
        unknown=draw(known) & {*images, *manifests},
        kept_by_msb=of_msb or draw(st.booleans()),
    )


@st.composite
def disks(draw: st.DrawFn) -> Disk:
    """Files of all that ``caches`` can have; some are missing, and some have another name."""
    subjects = [("metadata", name) for name in NAMES[:4]] + [("layer", layer) for layer in LAYERS]
    subjects += [(kind, digest) for kind in OF_MANIFEST for digest in DIGESTS]
    subjects += [("flat", root) for root in ROOTS]
    found = {}
    for each in subjects:
        size = draw(st.sampled_from((0, 1, 2, 4, 7)))
        found[each] = size, draw(st.sampled_from((size, size, 0)))
    roots = draw(st.dictionaries(st.sampled_from(DIGESTS), st.sampled_from(ROOTS)))
    numbers = st.integers(0, 60)
    return Disk(found, roots, draw(numbers), draw(numbers), 100, draw(st.sampled_from((0, 0, 3, 50))))
