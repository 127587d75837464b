"""Write cached images to an archive: each layer's tar is made anew from its EROFS image.

A layer is exported twice, once to learn its size and digest and once into the archive, so that nothing
has to be kept in between and the archive can go to a pipe. No locks are taken, for saving only reads:
an image that is removed meanwhile ends in an error, never in a wrong archive. The index says what an image's
config and layers are; of a metadata file only the config is taken, which proves itself by its digest.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from functools import partial
from hashlib import sha256
from typing import Any, BinaryIO, NamedTuple

import msgspec

from msb_cache.artifacts import files, metadata
from msb_cache.artifacts.export import write_layer_tar
from msb_cache.artifacts.layout import Layout
from msb_cache.errors import CorruptArtifactError, InvalidImageError
from msb_cache.home import atomic
from msb_cache.oci.archive.writer import SavedImage, SavedLayer, write_docker, write_oci
from msb_cache.oci.documents.decode import decode_config
from msb_cache.oci.reference import Reference
from msb_cache.projections import images as projected
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


class Chosen(NamedTuple):
    """An image to save, under the names that it gets.

    Attributes:
        references: the names.
        files: the canonical references whose metadata files can have its config, in the order to try.
        config_digest: its config's; None: it is not known, and the first file's counts.
        diff_ids: its layers, bottom to top.
    """

    references: tuple[Reference, ...]
    files: tuple[str, ...]
    config_digest: str | None
    diff_ids: tuple[str, ...]


def choose(connection: sqlite3.Connection, rows: Iterable[HandleRow]) -> list[Chosen]:
    """Return what to save of images of an index; those that share a manifest are one with several names."""
    names: dict[str, list[Reference]] = {}
    for row in rows:
        named = names.setdefault(row.manifest_digest, [])
        if (reference := Reference.parse(row.reference)) not in named:
            named.append(reference)
    chosen = []
    for digest, references in names.items():
        config = projected.config(connection, digest)
        others = [Reference.parse(row.reference) for row in projected.handles_of(connection, digest)]
        chosen.append(
            Chosen(
                tuple(references),
                tuple(dict.fromkeys(reference.canonical for reference in (*references, *others))),
                None if config is None else config.digest,
                tuple(layer.diff_id for layer in projected.layers(connection, digest)),
            )
        )
    return chosen


def save(
    layout: Layout, chosen: Iterable[Chosen], target: str | os.PathLike[str] | BinaryIO, *, format: str
) -> None:
    """Write images as one archive; a file is replaced only when the archive is whole.

    Args:
        layout: the home.
        chosen: the images.
        target: a path or an open binary stream.
        format: ``docker`` or ``oci``.

    Raises:
        CorruptArtifactError: a file of an image is missing or damaged.
    """
    layers: dict[str, SavedLayer] = {}
    images = []
    for each in chosen:
        config = _stored_config(layout, each)
        own = [_layer(layout, diff_id, layers) for diff_id in each.diff_ids]
        images.append(SavedImage(each.references, _config(config, own), own))
    write = write_docker if format == "docker" else write_oci
    with atomic.opened(target) as out:
        write(out, images)


def _stored_config(layout: Layout, image: Chosen) -> str:
    """Return an image's config as it came, from the first metadata file that has it.

    Spellings of a name share one file in a home of msb, which has the config of the last that was pulled.
    """
    problem = None
    for name in image.files:
        path = layout.metadata(name)
        try:
            found = metadata.decode(path)
            if found.config_digest != (image.config_digest or found.config_digest):
                raise CorruptArtifactError(
                    f"the metadata file {path.name} is of another image; load the image again"
                )
            if not metadata.has_digest(found.raw_config_json, found.config_digest):
                raise CorruptArtifactError(f"the config in {path.name} is damaged; load the image again")
            if decode_config(found.raw_config_json.encode()).diff_ids != image.diff_ids:
                raise CorruptArtifactError(
                    f"the config in {path.name} has other layers; load the image again"
                )
        except (CorruptArtifactError, InvalidImageError) as error:
            problem = problem or error
            continue
        return found.raw_config_json
    raise CorruptArtifactError(f"{image.references[0].familiar} cannot be saved: {problem}")


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
