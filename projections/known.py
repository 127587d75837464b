"""What the log knows of references, manifests, layers and holds: the side that a sync compares msb's with."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import NamedTuple


class KnownImage(NamedTuple):
    """An image: where it points, when it was last used (ns since the epoch, UTC), and msb's row for it."""

    reference: str
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


class KnownHold(NamedTuple):
    """A hold: msb's row for it (None: the hold is ours), and what was last recorded of a sandbox of msb's."""

    row: str | None
    status: str | None = None
    root: str | None = None
    labels: str | None = None
    """JSON; None: there are none."""


class KnownUse(NamedTuple):
    """A boot that has not ended, of a manifest by a canonical reference."""

    reference: str
    manifest_digest: str
    holder: str | None


class Known(NamedTuple):
    """The index at one position.

    Attributes:
        images: by name.
        manifests: by digest.
        layers: diff ID to the size of its EROFS image in bytes, None when that is unknown.
        holds: by manifest digest and holder.
        uses: boots that have not ended, by msb's record of them.
        damage: kind and subject of files that are known to be gone although images need them.
    """

    images: Mapping[str, KnownImage]
    manifests: Mapping[str, KnownManifest]
    layers: Mapping[str, int | None]
    holds: Mapping[tuple[str, str], KnownHold]
    uses: Mapping[str, KnownUse]
    damage: frozenset[tuple[str, str]] = frozenset()

    @property
    def observed(self) -> bool:
        """Whether anything in the index was seen in msb's."""
        return (
            any(image.row is not None for image in self.images.values())
            or any(manifest.row is not None for manifest in self.manifests.values())
            or any(hold.row is not None for hold in self.holds.values())
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
            name: KnownImage(*rest)
            for name, *rest in connection.execute(
                "SELECT name, reference, manifest_digest, last_used_at, msb_row FROM image"
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
            (digest, holder): KnownHold(*rest)
            for digest, holder, *rest in connection.execute(
                "SELECT manifest_digest, holder, msb_row, status, root, labels FROM hold"
            )
        },
        uses={
            run: KnownUse(*rest)
            for run, *rest in connection.execute(
                "SELECT run, reference, manifest_digest, holder FROM open_use ORDER BY since, seq"
            )
        },
        damage=frozenset(connection.execute("SELECT kind, subject FROM damage WHERE mended IS NULL")),
    )
