"""The kinds of artifacts: one entry for each says where its files lie, and what in the index needs one.

What becomes of an artifact in a deletion is told by the event of the kind's name (``layer.deleted``), and its
lock is the file beside it. The order matters: of the kinds that one record needs, a later one refers to the
earlier, so a deletion takes them from the end.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

ArtifactKind = Literal["metadata", "layer", "fsmeta", "vmdk", "flat_ref", "flat"]
Algorithm = Literal["fs-verity", "sha256"]
"""How an artifact's bytes are digested: as Linux does to check single blocks, or all at once."""

Need = Literal["image", "manifest", "layer", "flat_ref"]
"""What needs an artifact: a record of the index (a reference, a manifest, a layer), or a flat ref on disk."""


class Kind(Struct, frozen=True):
    """A kind of artifact.

    Attributes:
        name: the kind.
        folder: where its files lie, under ``<home>/cache``.
        suffix: how their names end. They begin with the digest that the artifact is about (``sha256_…``), or
            with the SHA-256 of its reference.
        needed_by: which record needs an artifact of this kind; without that it is an orphan.
        optional: whether only msb makes such artifacts, and not of every image.
        sparse: whether its files have holes, so that what they take of the disk counts and not their length.
        algorithm: how its files' bytes are digested.
    """

    name: ArtifactKind
    folder: str
    suffix: str
    needed_by: Need
    optional: bool = False
    sparse: bool = False
    algorithm: Algorithm = "sha256"

    @property
    def pattern(self) -> str:
        """A regular expression for the files' names; its group has the digits."""
        prefix = "" if self.needed_by == "image" else "sha256_"
        return rf"{prefix}([0-9a-f]{{64}})\{self.suffix}"


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("metadata", "manifests", ".json", "image"),
        Kind("layer", "layers", ".erofs", "layer", algorithm="fs-verity"),
        Kind("fsmeta", "fsmeta", ".erofs", "manifest", algorithm="fs-verity"),
        Kind("vmdk", "vmdk", ".vmdk", "manifest"),
        Kind("flat_ref", "flat/refs", ".json", "manifest", optional=True),
        Kind("flat", "flat/blobs", ".raw", "flat_ref", optional=True, sparse=True),
    )
}


def needing(record: Need) -> list[ArtifactKind]:
    """Return the kinds of artifacts that there must be of a record of the index."""
    return [kind for kind in belonging_to(record) if not KINDS[kind].optional]


def belonging_to(record: Need) -> list[ArtifactKind]:
    """Return the kinds of artifacts that go with a record of the index, optional ones included."""
    return [kind.name for kind in KINDS.values() if kind.needed_by == record]


FLAT = frozenset(kind.name for kind in KINDS.values() if kind.folder.startswith("flat/"))
"""The kinds of flat roots. msb itself never deletes one, so what they take is counted apart."""


def needed_by(kind: str) -> Need:
    """Return which record of the index needs artifacts of a kind; a manifest's own record is its kind too."""
    return "manifest" if kind == "manifest" else KINDS[kind].needed_by
