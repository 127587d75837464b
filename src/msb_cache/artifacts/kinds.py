"""The kinds of artifacts: one entry for each says where its files lie, and what in the index needs one.

What becomes of an artifact in a deletion is told by the event of the kind's name (``layer.deleted``), and its
lock is the file beside it. The order matters: of the kinds that one record needs, a later one refers to the
earlier, so a deletion takes them from the end.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

ArtifactKind = Literal["metadata", "layer", "fsmeta", "vmdk"]
Need = Literal["image", "manifest", "layer"]
"""A record of the index: a reference, a manifest or a layer."""


class Kind(Struct, frozen=True):
    """A kind of artifact.

    Attributes:
        name: the kind.
        folder: where its files lie, under ``<home>/cache``.
        suffix: how their names end. They begin with the digest that the artifact is about (``sha256_…``), or
            with the SHA-256 of its reference.
        needed_by: which record needs an artifact of this kind; without that it is an orphan.
    """

    name: ArtifactKind
    folder: str
    suffix: str
    needed_by: Need

    @property
    def pattern(self) -> str:
        """A regular expression for the files' names; its group has the digits."""
        prefix = "" if self.needed_by == "image" else "sha256_"
        return rf"{prefix}([0-9a-f]{{64}})\{self.suffix}"


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("metadata", "manifests", ".json", "image"),
        Kind("layer", "layers", ".erofs", "layer"),
        Kind("fsmeta", "fsmeta", ".erofs", "manifest"),
        Kind("vmdk", "vmdk", ".vmdk", "manifest"),
    )
}


def needing(record: Need) -> list[ArtifactKind]:
    """Return the kinds of artifacts that a record of the index needs."""
    return [kind.name for kind in KINDS.values() if kind.needed_by == record]


def needed_by(kind: str) -> Need:
    """Return which record of the index needs artifacts of a kind; a manifest's own record is its kind too."""
    return "manifest" if kind == "manifest" else KINDS[kind].needed_by
