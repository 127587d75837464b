"""Write cached images to an archive: each layer's tar is made anew from its EROFS image.

A layer is exported twice, once to learn its size and digest and once into the archive, so that nothing
has to be kept in between and the archive can go to a pipe. No locks are taken, for saving only reads:
an image that is removed meanwhile ends in an error, never in a wrong archive.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from typing import Any, BinaryIO

import msgspec

from msb_cache.artifacts import files, metadata
from msb_cache.artifacts.export import write_layer_tar
from msb_cache.artifacts.layout import Layout
from msb_cache.errors import CorruptArtifactError
from msb_cache.home import atomic
from msb_cache.oci.archive.writer import SavedImage, SavedLayer, write_docker, write_oci
from msb_cache.oci.reference import Reference
from msb_cache.projections.images import HandleRow


class _Digest:
    """A binary stream that only counts and hashes what is written to it."""

    def __init__(self) -> None:
        self.size = 0
        self._hash = sha256()

    def write(self, data: bytes) -> int:
        self.size += len(data)
        self._hash.update(data)
        return len(data)

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


def save(
    layout: Layout, rows: Sequence[HandleRow], target: str | os.PathLike[str] | BinaryIO, *, format: str
) -> None:
    """Write images as one archive; a file is replaced only when the archive is whole.

    Args:
        layout: the home.
        rows: the images; those that share a manifest become one image with several names.
        target: a path or an open binary stream.
        format: ``docker`` or ``oci``.

    Raises:
        CorruptArtifactError: a file of an image is missing or damaged.
    """
    names: dict[str, list[Reference]] = {}
    for row in rows:
        named = names.setdefault(row.manifest_digest, [])
        if (reference := Reference.parse(row.reference)) not in named:
            named.append(reference)
    layers: dict[str, SavedLayer] = {}
    images = []
    for digest, references in names.items():
        found = metadata.read(layout.metadata(references[0].canonical))
        if found.manifest_digest != digest:
            raise CorruptArtifactError(f"{references[0].familiar} changed while it was saved; try again")
        own = [_layer(layout, layer.diff_id, layers) for layer in found.layers]
        images.append(SavedImage(references, _config(found.raw_config_json, own), own))
    write = write_docker if format == "docker" else write_oci
    with atomic.opened(target) as out:
        write(out, images)


def _layer(layout: Layout, diff_id: str, layers: dict[str, SavedLayer]) -> SavedLayer:
    if diff_id not in layers:
        path = layout.layer(diff_id)
        if not files.exists(path):
            raise CorruptArtifactError(f"the layer image {path.name} is missing; load the image again")
        measured = _Digest()
        write_layer_tar(path, measured)  # type: ignore[arg-type]
        layers[diff_id] = SavedLayer(measured.digest, measured.size, partial(write_layer_tar, path))
    return layers[diff_id]


def _config(raw: str, layers: Sequence[SavedLayer]) -> bytes:
    """Return the image's config with the new layers' diff IDs, everything else as it was."""
    config = msgspec.json.decode(raw, type=dict[str, Any])
    config["rootfs"] = {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}
    return msgspec.json.encode(config, order="sorted")
