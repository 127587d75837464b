"""Reading ``docker save`` archives, with ``manifest.json`` and the form before Docker 1.10.

Knows no OCI layout. Such an archive has no image manifest, so one is made, byte for byte as msb makes it. Its
layers are what the members are: a plain tar's blob digest is its diff ID, a compressed member's is computed
in a pass of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

import msgspec

from msb_cache.errors import InvalidImageError
from msb_cache.oci.archive.files import ArchiveFiles, read_file
from msb_cache.oci.archive.selection import Selection, image_name
from msb_cache.oci.digest import digest_of, shown
from msb_cache.oci.documents.decode import (
    MAX_DOCUMENT_BYTES,
    MAX_LAYERS,
    Descriptor,
    ImageConfig,
    compressed_layer_type,
    decode_config,
    decode_document,
    encode_manifest,
)
from msb_cache.oci.image import BlobReader, SourceImage
from msb_cache.oci.layer.compression import (
    CHUNK_BYTES,
    LAYER_COMPRESSIONS,
    MAGIC_BYTES,
    ByteSource,
    decompressed,
    sniff,
)
from msb_cache.oci.reference import Reference

_BLOB_NAME = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_MAX_IMAGES = 10_000


class _Entry(msgspec.Struct, rename="pascal"):
    """One image of manifest.json."""

    config: str
    repo_tags: list[str] | None = None
    layers: list[str] | None = None


class _V1Image(msgspec.Struct):
    """``<id>/json`` of Docker's image format 1.0."""

    parent: str | None = None
    architecture: str | None = None
    os: str | None = None
    variant: str | None = None
    created: str | None = None
    author: str | None = None
    config: Any = None
    container_config: Any = None


def read_docker(files: ArchiveFiles, selection: Selection) -> None:
    """Give the images of an archive with ``manifest.json`` to ``selection``; raises InvalidImageError."""
    data = read_file(files, "manifest.json", MAX_DOCUMENT_BYTES, "manifest.json")
    entries = decode_document(data, list[_Entry], "manifest.json")
    _check_count(len(entries))
    hashed = _Hashes(files)
    for entry in entries:
        what = f"config {shown(entry.config)}"
        config = read_file(files, entry.config, MAX_DOCUMENT_BYTES, what)
        document = decode_config(config, what)
        names = entry.layers or []
        if len(names) != len(document.diff_ids):
            raise InvalidImageError(
                f"{what} lists {len(document.diff_ids)} layers, but manifest.json lists {len(names)}"
            )
        found = [selection.reference(tag) for tag in entry.repo_tags or ()]
        _add(files, selection, hashed, [ref for ref in found if ref], config, document, names)


def read_legacy(files: ArchiveFiles, selection: Selection) -> None:
    """Give the images of an archive that has only ``repositories`` and ``<id>/json`` to ``selection``."""
    hashed = _Hashes(files)
    for identifier, references in _heads(files, selection).items():
        chain = _chain(files, identifier)
        names = [f"{each}/layer.tar" for each, _ in chain]
        config = _config_of([image for _, image in chain], [hashed.diff_id(name) for name in names])
        what = f"image {shown(identifier)}"
        _add(files, selection, hashed, references, config, decode_config(config, what), names)


def _add(
    files: ArchiveFiles,
    selection: Selection,
    hashed: _Hashes,
    references: list[Reference],
    config: bytes,
    document: ImageConfig,
    names: list[str],
) -> None:
    digest = digest_of(config)
    called = image_name([str(reference) for reference in references], digest)
    if selection.choose([document.platform], called) is None:
        return
    layers = []
    members: dict[tuple[str, int], str] = {}
    for name, diff_id in zip(names, document.diff_ids, strict=True):
        size, compression = hashed.look(name)
        blob_digest = diff_id if compression == "none" else hashed.blob_digest(name)
        layers.append((blob_digest, size, compressed_layer_type(compression)))
        members.setdefault((blob_digest, size), name)

    def opener(layer: Descriptor) -> Callable[[], BlobReader]:
        name = members[layer.digest, layer.size]
        return lambda: files.open(name)

    manifest = encode_manifest((digest, len(config)), layers)
    selection.add(SourceImage.build(references, manifest, config, opener))


def _check_count(images: int) -> None:
    if images > _MAX_IMAGES:
        raise InvalidImageError(f"the archive has {images} images; at most {_MAX_IMAGES} are accepted")


class _Hashes:
    """Sizes, compressions and digests of layer members, each computed once: images share layers."""

    def __init__(self, files: ArchiveFiles) -> None:
        self._files = files
        self._looks: dict[str, tuple[int, str]] = {}
        self._digests: dict[str, str] = {}
        self._diff_ids: dict[str, str] = {}

    def look(self, name: str) -> tuple[int, str]:
        """A member's size in bytes and its compression."""
        found = self._looks.get(name)
        if found is None:
            size = self._files.size(name)
            if size is None:
                raise InvalidImageError(f"layer {shown(name)} is missing from the archive")
            reader = self._files.open(name)
            try:
                compression = sniff(reader.read(MAGIC_BYTES))
            finally:
                reader.close()
            if compression not in LAYER_COMPRESSIONS:
                raise InvalidImageError(
                    f"layer {shown(name)} is compressed with {compression}, which layers may not be"
                )
            found = self._looks[name] = size, compression
        return found

    def blob_digest(self, name: str) -> str:
        """The digest of a member as it is stored."""
        named = _BLOB_NAME.fullmatch(name)
        if named:  # the name claims it, and streaming the layer verifies it
            return "sha256:" + named[1]
        if name not in self._digests:
            self._digests[name] = self._pass(name, "none")
        return self._digests[name]

    def diff_id(self, name: str) -> str:
        """The digest of a member's uncompressed content."""
        if name not in self._diff_ids:
            self._diff_ids[name] = self._pass(name, self.look(name)[1])
        return self._diff_ids[name]

    def _pass(self, name: str, compression: str) -> str:
        reader = self._files.open(name)
        try:
            stream: ByteSource = decompressed(reader, compression, f"layer {shown(name)}")
            total = hashlib.sha256()
            while data := stream.read(CHUNK_BYTES):
                total.update(data)
        finally:
            reader.close()
        return "sha256:" + total.hexdigest()


def _heads(files: ArchiveFiles, selection: Selection) -> dict[str, list[Reference]]:
    """The images of a legacy archive by ID, with their names.

    Without ``repositories``, those nothing builds on.
    """
    heads: dict[str, list[Reference]] = {}
    if files.size("repositories") is not None:
        data = read_file(files, "repositories", MAX_DOCUMENT_BYTES, "repositories")
        named = decode_document(data, dict[str, dict[str, str]], "repositories")
        for repository, tags in named.items():
            for tag, identifier in tags.items():
                reference = selection.reference(f"{repository}:{tag}")
                heads.setdefault(identifier, []).extend([reference] if reference else [])
    if not heads:
        every = [name.removesuffix("/json") for name in files.names() if name.endswith("/json")]
        _check_count(len(every))
        parents = {_v1_image(files, identifier).parent for identifier in every}
        heads = {identifier: [] for identifier in every if identifier not in parents}
    _check_count(len(heads))
    return heads


def _v1_image(files: ArchiveFiles, identifier: str) -> _V1Image:
    what = f"image {shown(identifier)}"
    return decode_document(read_file(files, f"{identifier}/json", MAX_DOCUMENT_BYTES, what), _V1Image, what)


def _chain(files: ArchiveFiles, identifier: str) -> list[tuple[str, _V1Image]]:
    """The image and its ancestors, bottom first."""
    chain: list[tuple[str, _V1Image]] = []
    following: str | None = identifier
    while following:
        if len(chain) >= MAX_LAYERS:  # a cycle too ends here
            raise InvalidImageError(
                f"image {shown(identifier)} has more than {MAX_LAYERS} layers or builds on itself"
            )
        image = _v1_image(files, following)
        chain.append((following, image))
        following = image.parent
    return chain[::-1]


def _config_of(chain: list[_V1Image], diff_ids: list[str]) -> bytes:
    """The config that Docker's own conversion of a 1.0 chain amounts to, as deterministic JSON."""
    top = chain[-1]
    document: dict[str, Any] = {
        "architecture": top.architecture or "amd64",  # as Docker assumed: 1.0 images named none at first
        "config": top.config or {},
        "created": top.created,
        "history": [
            {
                key: value
                for key, value in (("created", each.created), ("created_by", _command(each)))
                if value is not None
            }
            for each in chain
        ],
        "os": top.os or "linux",
        "rootfs": {"diff_ids": diff_ids, "type": "layers"},
        "variant": top.variant,
    }
    return msgspec.json.encode(
        {key: value for key, value in document.items() if value is not None}, order="sorted"
    )


def _command(image: _V1Image) -> str | None:
    command = image.container_config.get("Cmd") if isinstance(image.container_config, dict) else None
    return (
        " ".join(command) if isinstance(command, list) and all(isinstance(c, str) for c in command) else None
    )
