"""What a home of msb's says, by SQL and stat that are the tests' own: what msb-cache says is held against it.

Nothing of msb-cache's reading of that database is used here, so that a mistake there cannot hide.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

KINDS = {"layers": ".erofs", "fsmeta": ".erofs", "vmdk": ".vmdk", "manifests": ".json"}
"""The folders of the cache, and how the names of their artifacts end."""


@dataclass(frozen=True)
class Ref:
    """A reference as it was typed, and the digest that it points at. Times in ns since the epoch."""

    row: int
    typed: str
    digest: str
    created: int
    updated: int


@dataclass(frozen=True)
class Manifest:
    """A manifest; its layers' diff IDs bottom to top, its size in bytes as msb says it."""

    row: int
    digest: str
    size: int | None
    architecture: str | None
    os: str | None
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """A boot of a sandbox: its process, when it began, and when it ended as far as msb knows.

    ``reference`` is what the sandbox was made from, as it was typed, and ``digest`` its manifest, if any.
    """

    row: int
    sandbox: str
    reference: str | None
    digest: str | None
    pid: int | None
    started: int
    ended: int | None


@dataclass(frozen=True)
class Reading:
    """A home at one moment.

    Attributes:
        refs: as they were typed.
        manifests: by digest.
        layers: the diff IDs that msb's index has.
        holds: holder and digest to the record that says so.
        sandboxes: names to what msb says of their state.
        snapshots: their paths.
        runs: by their numbers.
        files: paths below the cache to sizes in bytes.
        flat_refs: the digests of flat roots by those of their manifests.
        flat_roots: digests to what the files take of the disk, in bytes.
    """

    refs: Mapping[str, Ref]
    manifests: Mapping[str, Manifest]
    layers: frozenset[str]
    holds: Mapping[tuple[str, str], str]
    sandboxes: Mapping[str, str]
    snapshots: frozenset[str]
    runs: Mapping[int, Run]
    files: Mapping[str, int]
    flat_refs: Mapping[str, str]
    flat_roots: Mapping[str, int]

    def holders(self, digest: str) -> list[str]:
        """Return who holds a manifest, by name."""
        return sorted(holder for holder, held in self.holds if held == digest)


def read(home: Path) -> Reading:
    """Read a home that no msb command works in now."""
    with closing(sqlite3.connect(f"file:{home}/db/msb.db?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN")
        return Reading(
            refs={
                row["reference"]: Ref(
                    row["id"], row["reference"], row["digest"], ns(row["created_at"]), ns(row["updated_at"])
                )
                for row in connection.execute(
                    "SELECT r.*, m.digest FROM image_ref r JOIN manifest m ON m.id = r.manifest_id"
                )
            },
            manifests={
                row["digest"]: Manifest(
                    row["id"],
                    row["digest"],
                    row["total_size_bytes"],
                    row["architecture"],
                    row["os"],
                    tuple(diff_id for (diff_id,) in connection.execute(_LAYERS, (row["id"],))),
                )
                for row in connection.execute("SELECT * FROM manifest").fetchall()
            },
            layers=frozenset(diff_id for (diff_id,) in connection.execute("SELECT diff_id FROM layer")),
            holds={(holder, digest): row for holder, digest, row in _holds(connection)},
            sandboxes=dict(connection.execute("SELECT name, status FROM sandbox").fetchall()),
            snapshots=frozenset(
                path for (path,) in connection.execute("SELECT artifact_path FROM snapshot_index")
            ),
            runs={
                row["id"]: Run(
                    row["id"],
                    row["name"],
                    row["reference"],
                    row["digest"],
                    row["pid"],
                    ns(row["started_at"]),
                    None if row["terminated_at"] is None else ns(row["terminated_at"]),
                )
                for row in connection.execute(
                    "SELECT r.*, s.name, m.digest, "
                    "json_extract(s.config, '$.image.Oci.reference') AS reference "
                    "FROM run r JOIN sandbox s ON s.id = r.sandbox_id "
                    "LEFT JOIN sandbox_rootfs f ON f.sandbox_id = s.id "
                    "LEFT JOIN manifest m ON m.id = f.manifest_id"
                )
            },
            files={
                f"{folder}/{path.name}": path.stat().st_size
                for folder, suffix in KINDS.items()
                for path in (home / "cache" / folder).glob(f"*{suffix}")
            },
            flat_refs={
                _digest(path): json.loads(path.read_bytes())["artifact_digest"]
                for path in (home / "cache" / "flat" / "refs").glob("*.json")
            },
            flat_roots={
                _digest(path): path.stat().st_blocks * 512
                for path in (home / "cache" / "flat" / "blobs").glob("*.raw")
            },
        )


def _digest(path: Path) -> str:
    return path.name.partition(".")[0].replace("_", ":")


_LAYERS = (
    "SELECT l.diff_id FROM manifest_layer ml JOIN layer l ON l.id = ml.layer_id "
    "WHERE ml.manifest_id = ? ORDER BY ml.position"
)


def _holds(connection: sqlite3.Connection) -> Iterable[tuple[str, str, str]]:
    for row in connection.execute(
        "SELECT f.id, s.name, m.digest FROM sandbox_rootfs f "
        "JOIN sandbox s ON s.id = f.sandbox_id JOIN manifest m ON m.id = f.manifest_id"
    ):
        yield f"sandbox:{row['name']}", row["digest"], f"rootfs {row['id']}"
    for row in connection.execute("SELECT * FROM snapshot_index"):
        name = row["name"] or row["artifact_path"]
        group = row["group_name"] if "group_name" in row.keys() else None  # noqa: SIM118 - of sqlite3.Row
        named = f"{group}:{name}" if group and row["name"] else name
        yield f"snapshot:{named}", row["image_manifest_digest"], f"snapshot {row['created_at']}"


def ns(text: str) -> int:
    """Return ns since the epoch for msb's text, which is UTC."""
    seconds, _, fraction = text.partition(".")
    return int(datetime.fromisoformat(f"{seconds}+00:00").timestamp()) * 10**9 + int(f"{fraction:0<9}"[:9])
