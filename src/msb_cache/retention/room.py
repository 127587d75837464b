"""How much comes free when images go: by the set of them, for they share layers, and names share manifests.

Bytes are those that the disk has back: what other names of a file keep, and layers that others need, are
none.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple, Protocol

from msb_cache.projections.state import ImageFacts, IndexState


class Considered(NamedTuple):
    """An image, or a manifest without a reference: its name (or digest), where it points, and its facts."""

    subject: str
    digest: str
    facts: ImageFacts


class Files(Protocol):
    """What the files of images take of the disk, in bytes; measured once."""

    @property
    def total_bytes(self) -> int:
        """What the whole cache takes."""

    @property
    def free_bytes(self) -> int:
        """What the file system of the cache has left for this user."""

    @property
    def capacity_bytes(self) -> int:
        """How large that file system is."""

    @property
    def going_anyway_bytes(self) -> int:
        """What comes free by files that go whatever is chosen."""

    def freed(self, kind: str, subject: str) -> int:
        """Return what deleting this artifact frees: 0 if it is not there, or has another name."""

    def size(self, kind: str, subject: str) -> int:
        """Return what this artifact takes of the disk: 0 if it is not there."""

    def flat_root(self, manifest_digest: str) -> str | None:
        """Return the digest of a manifest's flat root, None if there is none."""

    def flat_names(self, root_digest: str) -> int:
        """Return how many manifests a flat root is of, those included that the index does not have."""


_OF_MANIFEST = ("fsmeta", "vmdk", "flat_ref")


class Room:
    """The room that comes free as images are taken, and is needed again as they are put back.

    Args:
        state: the index.
        files: what its files take.
    """

    def __init__(self, state: IndexState, files: Files) -> None:
        self._state, self._files = state, files
        naming = state.naming
        self._names = Counter(state.references.values())
        self._spellings = (
            Counter(map(naming.reference, state.references))
            if naming.references
            else Counter(state.references.keys())
        )
        self._layers: Counter[str] = Counter(state.coming.layers)
        self._roots: Counter[str] = Counter()
        self._own: dict[str, int] = {}
        for digest, layers in state.manifests.items():
            self._layers.update(dict.fromkeys(layers, 1))
            if (root := files.flat_root(digest)) is not None:
                self._roots[root] = files.flat_names(root)

    def take(self, each: Considered) -> int:
        """Take an image away; return how many bytes come free by it, after those taken before."""
        state, freed = self._state, 0
        if each.subject in state.references:
            reference = state.naming.reference(each.subject)
            self._spellings[reference] -= 1
            if not self._spellings[reference]:
                freed += self._files.freed("metadata", reference)
            self._names[each.digest] -= 1
        if self._names[each.digest] or state.kept(each.digest) or each.digest not in state.manifests:
            return freed
        freed += self._files_of(each.digest)
        for layer in dict.fromkeys(state.manifests[each.digest]):
            self._layers[layer] -= 1
            if not self._layers[layer]:
                freed += self._files.freed("layer", layer)
        if (root := self._files.flat_root(each.digest)) is not None:
            self._roots[root] -= 1
            if not self._roots[root]:
                freed += self._files.freed("flat", root)
        return freed

    def put_back(self, each: Considered) -> int:
        """Put an image back that was taken; return how many bytes less come free without it."""
        state, less = self._state, 0
        if not (self._names[each.digest] or state.kept(each.digest) or each.digest not in state.manifests):
            less += self._files_of(each.digest)
            for layer in dict.fromkeys(state.manifests[each.digest]):
                if not self._layers[layer]:
                    less += self._files.freed("layer", layer)
                self._layers[layer] += 1
            if (root := self._files.flat_root(each.digest)) is not None:
                if not self._roots[root]:
                    less += self._files.freed("flat", root)
                self._roots[root] += 1
        if each.subject in state.references:
            reference = state.naming.reference(each.subject)
            if not self._spellings[reference]:
                less += self._files.freed("metadata", reference)
            self._spellings[reference] += 1
            self._names[each.digest] += 1
        return less

    def size(self, each: Considered) -> int:
        """Return what all files of an image take of the disk, whoever needs them too."""
        state, measure = self._state, self._files.size
        total = 0
        if each.subject in state.references:
            total += measure("metadata", state.naming.reference(each.subject))
        total += sum(measure(kind, each.digest) for kind in _OF_MANIFEST)
        total += sum(measure("layer", layer) for layer in set(state.manifests.get(each.digest, ())))
        root = self._files.flat_root(each.digest)
        return total + (0 if root is None else measure("flat", root))

    def _files_of(self, digest: str) -> int:
        found = self._own.get(digest)
        if found is None:
            found = self._own[digest] = sum(self._files.freed(kind, digest) for kind in _OF_MANIFEST)
        return found
