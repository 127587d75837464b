"""Manifests, indexes and configs as typed documents, decoded from hostile bytes.

Not for fetching or storing them. Sources: OCI image-spec 1.1 (manifest.md, image-index.md, config.md,
media-types.md) and Docker's "Image Manifest Version 2, Schema 2". Strict about what this project relies on
(digests, sizes, layer types, diff IDs), tolerant of ``null`` and absence where images in the wild have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from msb_cache.errors import InvalidImageError
from msb_cache.oci.digest import check_digest, shown
from msb_cache.oci.documents.platform import Platform

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = OCI_LAYER + "+gzip"
OCI_LAYER_ZSTD = OCI_LAYER + "+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"

MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_INDEX})

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"

#: Bytes of one JSON document; containerd and the distribution spec's recommended minimum both use 4 MiB.
MAX_DOCUMENT_BYTES = 4 << 20
#: Layers of one image. Docker refuses more than 127 and msb takes any number; EROFS counts devices in 16
#: bits. This leaves room for all of those and keeps one small manifest from asking for tens of thousands of
#: files.
MAX_LAYERS = 1024

# A foreign layer is recorded by its content, as msb does: where its blob lay is no property of it.
_LAYER_TYPES = {
    OCI_LAYER: OCI_LAYER,
    OCI_LAYER_GZIP: OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD: OCI_LAYER_ZSTD,
    DOCKER_LAYER: OCI_LAYER,
    DOCKER_LAYER + ".gzip": OCI_LAYER_GZIP,
    DOCKER_LAYER + ".zstd": OCI_LAYER_ZSTD,
    OCI_FOREIGN: OCI_LAYER,
    OCI_FOREIGN + "+gzip": OCI_LAYER_GZIP,
    OCI_FOREIGN + "+zstd": OCI_LAYER_ZSTD,
    DOCKER_FOREIGN: OCI_LAYER,
    DOCKER_FOREIGN + ".gzip": OCI_LAYER_GZIP,
    DOCKER_FOREIGN + ".zstd": OCI_LAYER_ZSTD,
}
#: How the media types of Docker's first manifests begin, and what is said when one is met.
SCHEMA1 = "application/vnd.docker.distribution.manifest.v1"
SCHEMA1_PROBLEM = (
    "is a Docker schema 1 manifest, which is too old; push the image again with a current Docker"
)
_ATTESTATION = "vnd.docker.reference.type"

_Size = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Texts = list[str] | str | None  # Docker's configs may write a one-word command as a plain string


class PlatformDocument(msgspec.Struct, frozen=True):
    """A descriptor's ``platform`` object (image-index.md)."""

    os: str | None = None
    architecture: str | None = None
    variant: str | None = None


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """A reference to content by digest, size in bytes and media type (descriptor.md)."""

    digest: str
    size: _Size
    media_type: str = ""
    platform: PlatformDocument | None = None
    annotations: dict[str, str | None] | None = None
    artifact_type: str | None = None

    def annotation(self, key: str) -> str | None:
        """The annotation's text, or None when it is absent or empty."""
        return (self.annotations or {}).get(key) or None

    @property
    def wanted_platform(self) -> Platform | None:
        """The platform the descriptor names, normalised, or None."""
        named = self.platform
        if named is None or not named.os or not named.architecture:
            return None
        return Platform.of(named.os, named.architecture, named.variant)

    @property
    def is_attestation(self) -> bool:
        """Whether this describes an image's provenance and not an image (BuildKit's attestation storage)."""
        named = self.platform
        unknown = named is not None and named.os == "unknown" and named.architecture == "unknown"
        return unknown or self.annotation(_ATTESTATION) is not None


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """An image manifest (manifest.md); ``layers`` from bottom to top."""

    config: Descriptor
    media_type: str
    layers: tuple[Descriptor, ...]


class Index(msgspec.Struct, frozen=True, rename="camel"):
    """An image index (image-index.md)."""

    manifests: tuple[Descriptor, ...]


class ContainerConfig(msgspec.Struct, frozen=True, rename="pascal"):
    """A config's ``config`` object: how a container of the image is run (config.md)."""

    env: list[str] | None = None
    cmd: _Texts = None
    entrypoint: _Texts = None
    working_dir: str | None = None
    user: str | None = None
    labels: dict[str, str | None] | None = None
    stop_signal: str | None = None
    exposed_ports: dict[str, Any] | None = None
    volumes: dict[str, Any] | None = None


class RootFS(msgspec.Struct, frozen=True):
    """A config's ``rootfs`` object: digests of the uncompressed layer tars, bottom to top."""

    diff_ids: list[str] | None = None
    type: str | None = None


class ImageConfig(msgspec.Struct, frozen=True):
    """An image config (config.md)."""

    rootfs: RootFS
    architecture: str | None = None
    os: str | None = None
    variant: str | None = None
    created: str | None = None
    config: ContainerConfig | None = None

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """Digests of the uncompressed layers, bottom to top."""
        return tuple(self.rootfs.diff_ids or ())

    @property
    def platform(self) -> Platform | None:
        """The platform the image is for, normalised, or None when the config does not say."""
        return Platform.of(self.os or "linux", self.architecture, self.variant) if self.architecture else None

    @property
    def run(self) -> ContainerConfig:
        """The ``config`` object, empty when absent; commands are lists, a label's ``null`` is empty text."""
        found = self.config or ContainerConfig()
        labels = found.labels and {name: value or "" for name, value in found.labels.items()}
        return msgspec.structs.replace(
            found, cmd=_words(found.cmd), entrypoint=_words(found.entrypoint), labels=labels
        )


class _ManifestProbe(msgspec.Struct, rename="camel"):
    schema_version: int | None = None
    media_type: str | None = None
    config: Descriptor | None = None
    layers: list[Descriptor] | None = None
    manifests: Any = None
    fs_layers: Any = None


class _IndexProbe(msgspec.Struct, rename="camel"):
    schema_version: int | None = None
    media_type: str | None = None
    manifests: list[Descriptor] | None = None
    layers: Any = None
    config: Any = None


def _words(value: list[str] | str | None) -> list[str] | None:
    return [value] if isinstance(value, str) else value


T = TypeVar("T")


def decode_document(data: bytes, type: type[T], what: str) -> T:
    """Decode at most MAX_DOCUMENT_BYTES of JSON as ``type``; raises InvalidImageError naming ``what``."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise InvalidImageError(f"{what} is larger than {MAX_DOCUMENT_BYTES >> 20} MiB")
    try:
        return msgspec.json.decode(data, type=type)
    except RecursionError:
        raise InvalidImageError(f"{what} is nested too deeply") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise InvalidImageError(f"{what} cannot be read: {shown(str(error))[1:-1]}") from None


def decode_manifest(data: bytes, what: str = "the image manifest") -> Manifest:
    """Decode an image manifest and refuse what cannot be loaded; raises InvalidImageError naming ``what``."""
    probe = decode_document(data, _ManifestProbe, what)
    media_type = probe.media_type or ""
    if probe.schema_version == 1 or media_type.startswith(SCHEMA1) or probe.fs_layers is not None:
        raise InvalidImageError(f"{what} {SCHEMA1_PROBLEM}")
    # A document that is both would be one image to us and another to a verifier (CVE-2021-41190).
    if probe.manifests is not None or (media_type and media_type not in MANIFEST_TYPES):
        kind = "an index" if probe.manifests is not None else f"of type {shown(media_type)}"
        raise InvalidImageError(f"{what} is {kind}, not an image manifest")
    if probe.schema_version != 2 or probe.config is None:
        raise InvalidImageError(f"{what} is not an image manifest of schema version 2")
    layers = tuple(probe.layers or ())
    if len(layers) > MAX_LAYERS:
        raise InvalidImageError(f"{what} has {len(layers)} layers; at most {MAX_LAYERS} are supported")
    check_digest(probe.config.digest, what)
    for layer in layers:
        check_digest(layer.digest, what)
        layer_media_type(layer.media_type, f"layer {layer.digest} of {what}")
    return Manifest(probe.config, media_type or OCI_MANIFEST, layers)


def decode_index(data: bytes, what: str = "the image index") -> Index:
    """Decode an image index; raises InvalidImageError naming ``what``."""
    probe = decode_document(data, _IndexProbe, what)
    if probe.media_type and probe.media_type not in INDEX_TYPES:
        raise InvalidImageError(f"{what} is of type {shown(probe.media_type)}, not an image index")
    if probe.schema_version != 2 or probe.manifests is None:
        raise InvalidImageError(f"{what} is not an image index of schema version 2")
    if probe.layers is not None or probe.config is not None:
        raise InvalidImageError(f"{what} is both an index and a manifest")
    return Index(tuple(probe.manifests))


def decode_config(data: bytes, what: str = "the image config") -> ImageConfig:
    """Decode an image config, whose diff IDs are all checked; raises InvalidImageError naming ``what``."""
    found = decode_document(data, ImageConfig, what)
    if len(found.diff_ids) > MAX_LAYERS:
        raise InvalidImageError(
            f"{what} has {len(found.diff_ids)} layers; at most {MAX_LAYERS} are supported"
        )
    for diff_id in found.diff_ids:
        check_digest(diff_id, what)
    return found


def layer_media_type(media_type: str, what: str) -> str:
    """The OCI name of a layer's media type, Docker's names included, as msb records it.

    Raises InvalidImageError for encrypted and unknown types.
    """
    known = _LAYER_TYPES.get(media_type)
    if known is not None:
        return known
    if media_type.endswith("+encrypted"):
        raise InvalidImageError(f"{what} is encrypted, which is not supported")
    raise InvalidImageError(f"{what} has the unknown media type {shown(media_type)}")


def compressed_layer_type(compression: str) -> str:
    """The OCI media type of a layer with this compression: ``none``, ``gzip`` or ``zstd``."""
    return {"none": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}[compression]


def encode_manifest(config: tuple[str, int], layers: list[tuple[str, int, str]]) -> bytes:
    """The manifest of an image that comes without one, byte for byte as msb writes it so that digests agree.

    ``config`` is its digest and size, each of ``layers`` (bottom to top) a blob digest, size and media type.
    """
    document: Mapping[str, Any] = {
        "config": {"digest": config[0], "mediaType": OCI_CONFIG, "size": config[1]},
        "layers": [
            {"digest": digest, "mediaType": media_type, "size": size} for digest, size, media_type in layers
        ],
        "mediaType": OCI_MANIFEST,
        "schemaVersion": 2,
    }
    return msgspec.json.encode(document)
