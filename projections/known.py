"""What the log knows of references, manifests, layers and holds: the side that a sync compares msb's with."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import NamedTuple


class KnownImage(NamedTuple):
    """A reference: where it points, when it was last used (ns since the epoch, UTC), and msb's row for it."""

    manifest_digest: str
    last_used_at: int
    row: str | None


class KnownManifest(NamedTuple):
    """A manifest: its layers bottom to top, its files' sizes in bytes, and msb's row for it.

    ``size_bytes`` is that of its blobs, ``has_config`` whether its configuration is known, ``stored_digest``
    the SHA-256 digest of the manifest as msb keeps it; None: not seen.
    """

    layers: tuple[str, ...]
    fsmeta_bytes: int | None
    vmdk_bytes: int | None
    row: str | None
    size_bytes: int | None = None
    has_config: int = True
    stored_digest: str | None = None


class Known(NamedTuple):
    """The index at one position.

    Attributes:
        images: by canonical reference.
        manifests: by digest.
        layers: diff ID to the size of its EROFS image in bytes, None when that is unknown.
        holds: manifest digest and holder to msb's row for the hold; None: the hold is ours.
        damage: kind and subject of files that are known to be gone although images need them.
    """

    images: Mapping[str, KnownImage]
    manifests: Mapping[str, KnownManifest]
    layers: Mapping[str, int | None]
    holds: Mapping[tuple[str, str], str | None]
    damage: frozenset[tuple[str, str]] = frozenset()

    @property
    def observed(self) -> bool:
        """Whether anything in the index was seen in msb's."""
        return (
            any(image.row is not None for image in self.images.values())
            or any(manifest.row is not None for manifest in self.manifests.values())
            or any(row is not None for row in self.holds.values())
        )


def load(connection: sqlite3.Connection) -> Known:
    """Read the index; the caller's transaction makes it one consistent position."""
    layers: dict[str, list[str]] = {}
    for digest, diff_id in connection.execute(
        "SELECT manifest_digest, diff_id FROM manifest_layer ORDER BY manifest_digest, position"
    ):
        layers.setdefault(digest, []).append(diff_id)
    return Known(
        images={
            reference: KnownImage(*rest)
            for reference, *rest in connection.execute(
                "SELECT reference, manifest_digest, last_used_at, msb_row FROM image"
            )
        },
        manifests={
            digest: KnownManifest(tuple(layers.get(digest, ())), *rest)
            for digest, *rest in connection.execute(
                "SELECT digest, fsmeta_bytes, vmdk_bytes, msb_row, size_bytes, config IS NOT NULL, "
                "stored_digest FROM manifest"
            )
        },
        layers=dict(connection.execute("SELECT diff_id, erofs_bytes FROM layer").fetchall()),
        holds={
            (digest, holder): row
            for digest, holder, row in connection.execute("SELECT manifest_digest, holder, msb_row FROM hold")
        },
        damage=frozenset(connection.execute("SELECT kind, subject FROM damage WHERE mended IS NULL")),
    )
