"""Flat roots as msb makes them, put into a cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from msb_cache.artifacts.layout import Layout
from tests.logs import digest

ONE, TWO, BLOB = digest("one"), digest("two"), digest("blob")
MIB = 1 << 20


def document(manifest: str = ONE, **changed: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "manifest_digest": manifest,
        "derivation_digest": digest(f"derivation {manifest}"),
        "artifact_digest": BLOB,
        "materializer_abi": 2,
        "uuid": "0" * 32,
        "virtual_size_bytes": 1 << 20,
        "inode_count": 4,
        "content_bytes": 79000,
        **changed,
    }


def put(layout: Layout, manifest: str, content: dict[str, Any] | bytes | None = None) -> Path:
    path = layout.artifact("flat_ref", manifest)
    path.parent.mkdir(parents=True, exist_ok=True)
    said = document(manifest) if content is None else content
    path.write_bytes(said if isinstance(said, bytes) else json.dumps(said, indent=2).encode())
    return path


def add(home: Path, manifest: str, blob: str | None = None) -> Path:
    """Put a flat root, and a ref to it, into a home; return the ref."""
    layout = Layout(home)
    name = blob or digest(f"blob {manifest}")
    layout.artifact("flat", name).parent.mkdir(parents=True, exist_ok=True)
    with layout.artifact("flat", name).open("wb") as file:
        file.write(b"root")
        file.truncate(MIB)
    layout.flat_locks.mkdir(exist_ok=True)
    layout.flat_lock(digest(f"derivation {manifest}")).touch()
    return put(layout, manifest, document(manifest, artifact_digest=name))
