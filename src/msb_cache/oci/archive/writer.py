"""Writing images to docker-save and OCI archives, in one pass, deterministically. Not for compressing layers.

The output may be a pipe: nothing is ever read back, so every layer's size and digest must be known before,
and what is written is checked against them. Layers that images share are written once.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from msb_cache.errors import InvalidImageError
from msb_cache.oci.digest import check_digest, digest_of
from msb_cache.oci.documents.decode import (
    CONTAINERD_NAME,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    REF_NAME,
    decode_config,
    encode_manifest,
)
from msb_cache.oci.layer.compression import CHUNK_BYTES
from msb_cache.oci.layer.headers import BLOCK
from msb_cache.oci.reference import Reference

#: tar's usual record: the archive's length is a multiple of it.
_RECORD = 20 * BLOCK
_V1_VERSION = b"1.0"


@dataclass(frozen=True, slots=True)
class SavedLayer:
    """One uncompressed layer tar: its digest, its length in bytes, and what writes it when its turn comes.

    ``write`` gets a file object of which it may use nothing but ``write``.
    """

    diff_id: str
    size: int
    write: Callable[[BinaryIO], object]

    @classmethod
    def of_file(cls, path: Path, diff_id: str) -> SavedLayer:
        """A layer whose tar is the file ``path``."""
        return cls(diff_id, path.stat().st_size, lambda sink: _copy(path, sink))


@dataclass(frozen=True, slots=True)
class SavedImage:
    """An image to write: names, the config's exact bytes, and the layers the config lists, bottom first."""

    references: Sequence[Reference]
    config: bytes
    layers: Sequence[SavedLayer]


def write_docker(out: BinaryIO, images: Sequence[SavedImage]) -> None:
    """Write what ``docker save`` writes: ``manifest.json``, configs, ``<hex>/layer.tar``, ``repositories``.

    Names by digest are left out, for docker knows only tags there. Raises InvalidImageError when a config and
    its layers do not belong together or a layer is not what it says.
    """
    tar = _TarWriter(out)
    manifest: list[dict[str, Any]] = []
    repositories: dict[str, dict[str, str]] = {}
    for image in images:
        _check(image)
        tags = [reference for reference in image.references if reference.tag and not reference.digest]
        manifest.append(
            {
                "Config": _hex(digest_of(image.config)) + ".json",
                "RepoTags": [reference.familiar for reference in tags] or None,
                "Layers": [f"{_hex(layer.diff_id)}/layer.tar" for layer in image.layers],
            }
        )
        for reference in tags:
            if image.layers:
                named = repositories.setdefault(reference.familiar_name, {})
                named[reference.tag or ""] = _hex(image.layers[-1].diff_id)
    # First, so that a reader that streams knows what follows.
    tar.document("manifest.json", msgspec.json.encode(manifest))
    if repositories:
        tar.document("repositories", msgspec.json.encode(repositories, order="sorted"))
    for image in images:
        tar.document(_hex(digest_of(image.config)) + ".json", image.config)
        for layer in image.layers:
            folder = _hex(layer.diff_id)
            tar.document(f"{folder}/VERSION", _V1_VERSION)
            tar.document(f"{folder}/json", msgspec.json.encode({"id": folder}))
            tar.layer(f"{folder}/layer.tar", layer)
    tar.finish()


def write_oci(out: BinaryIO, images: Sequence[SavedImage]) -> None:
    """Write an OCI image layout (image-layout.md), each image once for every name it has.

    Names are annotations: ``ref.name`` in familiar form, as msb writes it, and containerd's in canonical
    form. Raises InvalidImageError as write_docker does.
    """
    tar = _TarWriter(out)
    descriptors: list[dict[str, Any]] = []
    manifests: list[bytes] = []
    for image in images:
        _check(image)
        layers = [(layer.diff_id, layer.size, OCI_LAYER) for layer in image.layers]
        manifest = encode_manifest((digest_of(image.config), len(image.config)), layers)
        manifests.append(manifest)
        descriptor: dict[str, Any] = {
            "mediaType": OCI_MANIFEST,
            "digest": digest_of(manifest),
            "size": len(manifest),
            **_platform(image.config),
        }
        names = [{REF_NAME: ref.familiar, CONTAINERD_NAME: ref.canonical} for ref in image.references]
        descriptors += [{**descriptor, "annotations": each} for each in names] or [descriptor]
    tar.document("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": descriptors}
    tar.document("index.json", msgspec.json.encode(index))
    for image, manifest in zip(images, manifests, strict=True):
        tar.document(_blob(digest_of(manifest)), manifest)
        tar.document(_blob(digest_of(image.config)), image.config)
        for layer in image.layers:
            tar.layer(_blob(layer.diff_id), layer)
    tar.finish()


def write_without_layers(
    out: BinaryIO, manifest: bytes, config: bytes, layers: Sequence[tuple[str, int]]
) -> None:
    """Write an OCI image layout without names, whose layers' blobs are placeholders.

    Only a reader that has the layers can use it: a placeholder's size is never that of its blob, so that no
    reader takes it for one.

    Args:
        out: where to.
        manifest: the manifest's exact bytes.
        config: the config's exact bytes.
        layers: digest and size in bytes of each blob that the manifest names.
    """
    tar = _TarWriter(out)
    media_type = msgspec.json.decode(manifest, type=_MediaType).mediaType or OCI_MANIFEST
    descriptor = {"mediaType": media_type, "digest": digest_of(manifest), "size": len(manifest)}
    tar.document("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor]}
    tar.document("index.json", msgspec.json.encode(index))
    tar.document(_blob(digest_of(manifest)), manifest)
    tar.document(_blob(digest_of(config)), config)
    for digest, size in dict(layers).items():
        tar.document(_blob(digest), b"" if size else b"\0")
    tar.finish()


class _MediaType(msgspec.Struct):
    mediaType: str | None = None  # as the document has it


def _check(image: SavedImage) -> None:
    what = f"config {digest_of(image.config)}"
    if decode_config(image.config, what).diff_ids != tuple(layer.diff_id for layer in image.layers):
        raise InvalidImageError(f"{what} does not list the layers that are to be saved with it")


def _platform(config: bytes) -> dict[str, Any]:
    found = decode_config(config)
    parts = {"architecture": found.architecture, "os": found.os, "variant": found.variant}
    return {"platform": {k: v for k, v in parts.items() if v}} if found.architecture and found.os else {}


def _hex(digest: str) -> str:
    return check_digest(digest, "the image").removeprefix("sha256:")


def _blob(digest: str) -> str:
    return "blobs/sha256/" + _hex(digest)


def _copy(path: Path, sink: BinaryIO) -> None:
    with path.open("rb", buffering=0) as file:
        while data := file.read(CHUNK_BYTES):
            sink.write(data)


class _TarWriter:
    """Writes members with nothing in their headers but name and size.

    A name that was written is not repeated.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._written: set[str] = set()
        self._total = 0

    def document(self, name: str, data: bytes) -> None:
        """Write a member from memory."""
        if self._header(name, len(data)):
            self._write(data)
            self._pad(BLOCK)

    def layer(self, name: str, layer: SavedLayer) -> None:
        """Write a member from what produces it, and check that this was what it should be."""
        if not self._header(name, layer.size):
            return
        checked = _Checked(self._write, layer)
        layer.write(cast("BinaryIO", checked))  # only its write is used
        checked.finish()
        self._pad(BLOCK)

    def finish(self) -> None:
        """Write the end of the archive."""
        self._write(bytes(2 * BLOCK))
        self._pad(_RECORD)

    def _header(self, name: str, size: int) -> bool:
        if name in self._written:
            return False
        self._written.add(name)
        info = tarfile.TarInfo(name)  # mode 0644, root, 1970
        info.size = size
        # GNU writes sizes from 8 GiB on in base 256, which Go, Rust's tar and GNU tar all read.
        self._write(info.tobuf(tarfile.GNU_FORMAT))
        return True

    def _pad(self, unit: int) -> None:
        self._write(bytes(-self._total % unit))

    def _write(self, data: bytes) -> None:
        self._total += len(data)
        view = memoryview(data)
        while view:
            view = view[self._out.write(view) :]  # a raw file may take less than all


class _Checked:
    """The sink a layer is written to: passes on what fits and hashes it."""

    def __init__(self, write: Callable[[bytes], None], layer: SavedLayer) -> None:
        self._write = write
        self._layer = layer
        self._count = 0
        self._hash = hashlib.sha256()

    def write(self, data: bytes, /) -> int:
        self._count += len(data)
        # Stopped here, for a longer member would overwrite the header of the next one.
        if self._count > self._layer.size:
            raise InvalidImageError(
                f"layer {self._layer.diff_id} is longer than its {self._layer.size} bytes"
            )
        self._hash.update(data)
        self._write(data)
        return len(data)

    def finish(self) -> None:
        found = "sha256:" + self._hash.hexdigest()
        if self._count != self._layer.size or found != self._layer.diff_id:
            raise InvalidImageError(
                f"layer {self._layer.diff_id} came out as {self._count} bytes with the digest {found}"
            )
