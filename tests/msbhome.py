"""A home as msb keeps it, without msb: its database in the schemas of several releases, and its files."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msb_cache.artifacts.layout import Layout
from tests.logs import digest

SECRET = "a secret in the environment of a sandbox"
"""Must be nowhere in what is recorded."""

EPOCH = 1_790_000_000_123_456_789

_IMAGES = Path(__file__).with_name("msb_images.sql").read_text()
_SANDBOXES = """
CREATE TABLE sandbox (id integer NOT NULL PRIMARY KEY AUTOINCREMENT, name text NOT NULL UNIQUE,
    config text NOT NULL, status text NOT NULL, created_at datetime_text, updated_at datetime_text);
CREATE TABLE sandbox_rootfs (id integer NOT NULL PRIMARY KEY AUTOINCREMENT,
    sandbox_id integer NOT NULL UNIQUE, manifest_id integer, mode text NOT NULL, created_at datetime_text,
    FOREIGN KEY (sandbox_id) REFERENCES sandbox (id) ON DELETE CASCADE,
    FOREIGN KEY (manifest_id) REFERENCES manifest (id) ON DELETE RESTRICT);
CREATE TABLE run (id integer NOT NULL PRIMARY KEY AUTOINCREMENT, sandbox_id integer NOT NULL, pid integer,
    status text NOT NULL, termination_reason text, started_at datetime_text, terminated_at datetime_text,
    FOREIGN KEY (sandbox_id) REFERENCES sandbox (id) ON DELETE CASCADE);
CREATE TABLE sandbox_labels (sandbox_id integer NOT NULL, key text NOT NULL, value text NOT NULL,
    PRIMARY KEY (sandbox_id, key), FOREIGN KEY (sandbox_id) REFERENCES sandbox (id) ON DELETE CASCADE);
"""
_SNAPSHOTS_06 = """
CREATE TABLE snapshot_index (digest TEXT NOT NULL PRIMARY KEY, name TEXT, image_ref TEXT NOT NULL,
    image_manifest_digest TEXT NOT NULL, artifact_path TEXT NOT NULL, created_at DATETIME NOT NULL,
    indexed_at DATETIME NOT NULL);
"""
_SNAPSHOTS_07 = """
CREATE TABLE snapshot_index (digest TEXT NOT NULL, snapshot_id TEXT, name TEXT, group_name TEXT,
    group_path TEXT, image_ref TEXT NOT NULL, image_manifest_digest TEXT NOT NULL,
    artifact_path TEXT NOT NULL PRIMARY KEY, created_at DATETIME NOT NULL, indexed_at DATETIME NOT NULL);
"""
SCHEMAS = {
    "0.7": _IMAGES + _SANDBOXES + _SNAPSHOTS_07,
    "0.6": _IMAGES + _SANDBOXES + _SNAPSHOTS_06,
    "no snapshots": _IMAGES + _SANDBOXES,
    "images only": _IMAGES,
    "fewer columns": _IMAGES.replace("variant text, ", "").replace("media_type text, config_digest text,", "")
    + _SANDBOXES.replace(", status text NOT NULL", ""),
    "more": _IMAGES.replace("reference text NOT NULL UNIQUE,", "reference text NOT NULL UNIQUE, pinned text,")
    + _SANDBOXES
    + _SNAPSHOTS_07
    + "CREATE TABLE image_signature (id integer);",
}


def stamp(ns: int) -> str:
    """Return a time as msb writes it."""
    seconds, fraction = divmod(ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{fraction:09}"


class MsbHome:
    """Does to a home what msb's commands do; each call is one transaction."""

    def __init__(self, home: Path, schema: str = "0.7") -> None:
        self.layout = Layout(home)
        self.layout.db.mkdir(parents=True)
        for folder in self.layout.folders.values():
            folder.mkdir(parents=True)
        self.path = Path(self.layout.msb_database)
        self.connection = sqlite3.connect(self.path, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA foreign_keys = ON")
        self.connection.executescript(SCHEMAS[schema])
        self.now = EPOCH

    def tick(self, ns: int = 1_000_000_007) -> str:
        """Let time pass, and return the time as text."""
        self.now += ns
        return stamp(self.now)

    def close(self) -> None:
        """Close the database: SQLite takes its -wal and -shm away."""
        self.connection.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        self.connection.execute("BEGIN IMMEDIATE")
        yield self.connection
        self.connection.execute("COMMIT")

    def one(self, query: str, *arguments: Any) -> Any:
        """Return the first column of the first row, None when there is none."""
        row = self.connection.execute(query, arguments).fetchone()
        return None if row is None else row[0]

    def manifest(self, name: str, layers: Iterable[str] = "xy", **config: Any) -> int:
        """Add a manifest and its files if it is not there; return its id."""
        wanted = digest(f"manifest {name}")
        found = self.one("SELECT id FROM manifest WHERE digest = ?", wanted)
        if found is not None:
            return int(found)
        names = self._columns("manifest")
        row = {"digest": wanted, "architecture": "amd64", "os": "linux", "created_at": self.tick(1001)}
        if "config_digest" in names:
            row["config_digest"] = digest(f"config {name}")
        manifest = self._insert("manifest", row)
        fields = {key: json.dumps(value) for key, value in config.items() if isinstance(value, list | dict)}
        fields |= {key: value for key, value in config.items() if isinstance(value, str)}
        self._insert("config", {"manifest_id": manifest, "digest": digest(f"config {name}"), **fields})
        for position, layer in enumerate(layers):
            diff_id = digest(f"diff {layer}")
            row_id = self.one("SELECT id FROM layer WHERE diff_id = ?", diff_id)
            if row_id is None:
                row_id = self._insert(
                    "layer",
                    {
                        "diff_id": diff_id,
                        "blob_digest": digest(f"blob {layer}"),
                        "media_type": "application/vnd.oci.image.layer.v1.tar",
                        "compressed_size_bytes": 1000 + ord(layer[0]),
                    },
                )
            self._write("layer", diff_id, 8192)
            self._insert(
                "manifest_layer", {"manifest_id": manifest, "layer_id": row_id, "position": position}
            )
        self._write("fsmeta", wanted, 4096)
        self._write("vmdk", wanted, 633)
        return manifest

    def load(self, reference: str, name: str, layers: Iterable[str] = "xy", **config: Any) -> str:
        """Point a reference at a manifest, as ``msb load`` does; return the manifest's digest."""
        with self.transaction():
            manifest = self.manifest(name, layers, **config)
            now = self.tick()
            if self.one("SELECT id FROM image_ref WHERE reference = ?", reference) is None:
                row = {"reference": reference, "manifest_id": manifest, "created_at": now, "updated_at": now}
                self._insert("image_ref", row)
            else:
                self.connection.execute(
                    "UPDATE image_ref SET manifest_id = ?, updated_at = ? WHERE reference = ?",
                    (manifest, now, reference),
                )
        return digest(f"manifest {name}")

    def touch(self, reference: str) -> None:
        """Use a reference."""
        self.connection.execute(
            "UPDATE image_ref SET updated_at = ? WHERE reference = ?", (self.tick(), reference)
        )

    def create(self, reference: str, name: str, root: str = "managed", **labels: str) -> None:
        """Make a sandbox from a reference, with a root disk of a kind."""
        with self.transaction():
            self.touch(reference)
            image = {"Oci": {"reference": reference, "root_disk": {"kind": root}}}
            config = {"name": name, "image": image, "env": [{"key": "TOKEN", "value": SECRET}]}
            row = {"name": name, "config": json.dumps(config), "created_at": self.tick(7001)}
            if "status" in self._columns("sandbox"):
                row["status"] = "Stopped"
            sandbox = self._insert("sandbox", row)
            manifest = self.one("SELECT manifest_id FROM image_ref WHERE reference = ?", reference)
            row = {"sandbox_id": sandbox, "manifest_id": manifest, "mode": "erofs"}
            self._insert("sandbox_rootfs", {**row, "created_at": self.tick(1001)})
            for key, value in labels.items():
                self._insert("sandbox_labels", {"sandbox_id": sandbox, "key": key, "value": value})

    def create_from_folder(self, name: str) -> None:
        """Make a sandbox whose root is a folder of the computer's."""
        config = {"name": name, "image": {"Bind": {"path": "/srv/root"}}}
        row = {"name": name, "config": json.dumps(config), "status": "Stopped", "created_at": self.tick()}
        self._insert("sandbox", row)

    def boot(self, name: str, pid: int | None = None) -> int:
        """Start a sandbox, whose process is another; return msb's id of the run."""
        with self.transaction():
            sandbox = self.one("SELECT id FROM sandbox WHERE name = ?", name)
            self.connection.execute("UPDATE sandbox SET status = 'Running' WHERE id = ?", (sandbox,))
            row = {"sandbox_id": sandbox, "pid": pid, "status": "Running", "started_at": self.tick()}
            return self._insert("run", row)

    def end(self, run: int) -> None:
        """Let a sandbox end, and record it."""
        with self.transaction():
            self.connection.execute(
                "UPDATE run SET status = 'Terminated', terminated_at = ? WHERE id = ?", (self.tick(), run)
            )
            self.connection.execute(
                "UPDATE sandbox SET status = 'Stopped' WHERE id = (SELECT sandbox_id FROM run WHERE id = ?)",
                (run,),
            )

    def remove_sandbox(self, name: str) -> None:
        self.connection.execute("DELETE FROM sandbox WHERE name = ?", (name,))

    def snapshot(self, reference: str, name: str | None, group: str | None = None) -> None:
        """Make a snapshot of a sandbox that was made from a reference."""
        manifest = self.one(
            "SELECT digest FROM manifest WHERE id = (SELECT manifest_id FROM image_ref WHERE reference = ?)",
            reference,
        )
        now = self.tick()
        row = {
            "digest": digest(f"snapshot {now}"),
            "name": name,
            "image_ref": reference,
            "image_manifest_digest": manifest,
            "artifact_path": f"/snapshots/{group or 'none'}/{name or now}",
            "created_at": now,
            "indexed_at": now,
        }
        if group is not None:
            row["group_name"] = group
        self._insert("snapshot_index", row)

    def remove_snapshot(self, name: str) -> None:
        self.connection.execute("DELETE FROM snapshot_index WHERE name = ?", (name,))

    def remove(self, reference: str, *, files: bool = True) -> None:
        """Remove a reference, and what nothing else needs: the records first, then the files."""
        with self.transaction():
            manifest = self.one("SELECT manifest_id FROM image_ref WHERE reference = ?", reference)
            self.connection.execute("DELETE FROM image_ref WHERE reference = ?", (reference,))
            manifests, layers = self._sweep([manifest])
        if files:
            self.delete_files(manifests, layers)

    def prune(self, *, files: bool = True) -> tuple[list[str], list[str]]:
        """Remove what no sandbox and no snapshot needs; return the manifests and layers."""
        with self.transaction() as connection:
            connection.execute(
                "DELETE FROM image_ref WHERE manifest_id NOT IN "
                "(SELECT manifest_id FROM sandbox_rootfs WHERE manifest_id IS NOT NULL) "
                "AND manifest_id NOT IN "
                "(SELECT m.id FROM manifest m JOIN snapshot_index s ON s.image_manifest_digest = m.digest)"
            )
            found = self._sweep([row_id for (row_id,) in connection.execute("SELECT id FROM manifest")])
        if files:
            self.delete_files(*found)
        return found

    def delete_files(self, manifests: Iterable[str], layers: Iterable[str]) -> None:
        for name in manifests:
            self.layout.vmdk(name).unlink(missing_ok=True)
            self.layout.fsmeta(name).unlink(missing_ok=True)
        for name in layers:
            self.layout.layer(name).unlink(missing_ok=True)

    def _sweep(self, candidates: Iterable[int]) -> tuple[list[str], list[str]]:
        manifests, layers = [], []
        for manifest in candidates:
            name = self.one(
                "SELECT digest FROM manifest m WHERE id = ? "
                "AND NOT EXISTS (SELECT 1 FROM image_ref WHERE manifest_id = m.id) "
                "AND NOT EXISTS (SELECT 1 FROM sandbox_rootfs WHERE manifest_id = m.id) "
                "AND NOT EXISTS (SELECT 1 FROM snapshot_index WHERE image_manifest_digest = m.digest)",
                manifest,
            )
            if name is not None:
                self.connection.execute("DELETE FROM manifest WHERE id = ?", (manifest,))
                manifests.append(name)
        unused = "SELECT id, diff_id FROM layer WHERE id NOT IN (SELECT layer_id FROM manifest_layer)"
        for row_id, diff_id in self.connection.execute(unused).fetchall():
            self.connection.execute("DELETE FROM layer WHERE id = ?", (row_id,))
            layers.append(diff_id)
        return manifests, layers

    def _columns(self, table: str) -> set[str]:
        return {row[1] for row in self.connection.execute(f"PRAGMA table_info({table})")}

    def _insert(self, table: str, row: dict[str, Any]) -> int:
        marks = ", ".join("?" * len(row))
        query = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})"
        return int(self.connection.execute(query, tuple(row.values())).lastrowid or 0)

    def _write(self, kind: str, subject: str, size: int) -> None:
        path = self.layout.artifact(kind, subject)
        if not path.exists():
            with path.open("wb") as file:
                file.truncate(size)
