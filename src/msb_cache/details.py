"""What a caller gets back from inspect and prune, as immutable values. Not handles: those are in ``models``.

The names and attributes are those of microsandbox's Python SDK, so its programs keep working. Apart from
handles, because what they are made from (the types of events) would cost every list of images a millisecond.
"""

from __future__ import annotations

import sqlite3

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from msb_cache.eventstore.events import ImageConfig
from msb_cache.models import ImageHandle
from msb_cache.projections import images


class ImageConfigDetail(Struct, frozen=True):
    """The parts of an image's OCI config that say how to run it."""

    digest: str
    env: list[str]
    """``KEY=value`` entries, in the image's order."""
    cmd: list[str] | None
    entrypoint: list[str] | None
    working_dir: str | None
    user: str | None
    labels: dict[str, str] | None
    stop_signal: str | None


class ImageLayerDetail(Struct, frozen=True):
    """One layer of an image."""

    diff_id: str
    """The digest of the uncompressed layer."""
    blob_digest: str
    """The digest of the layer as the registry or archive carries it."""
    media_type: str | None
    compressed_size_bytes: int | None
    erofs_size_bytes: int | None
    """The size of the layer's EROFS image in the cache."""
    position: int
    """0 is the bottom layer."""


class ImageDetail(Struct, frozen=True):
    """Everything known about one cached image."""

    handle: ImageHandle
    config: ImageConfigDetail | None
    """None when the image carries no config that could be read."""
    layers: list[ImageLayerDetail]
    """Bottom to top."""


class ImagePruneReport(Struct, frozen=True):
    """What a prune removed; the first three count index records, the next two files."""

    image_refs_removed: int
    manifests_removed: int
    layers_removed: int
    fsmeta_removed: int
    vmdk_removed: int
    bytes_reclaimed: int | None
    """The sum of the deleted files' sizes; None when no file could be measured."""
    skipped_in_use: int = 0
    """How many candidates were kept because something came to need them meanwhile."""
    orphans_removed: int = 0
    """How many deleted files no image had named."""
    artifacts_failed: int = 0
    """How many files the operating system refused to delete."""
    operation: str | None = None
    """The id that groups this prune's events in the log; None when nothing was recorded."""


def read_detail(connection: sqlite3.Connection, handle: ImageHandle, manifest_digest: str) -> ImageDetail:
    """Return what an index, of now or of the past, knows about an image."""
    config = images.config(connection, manifest_digest)
    layers = [ImageLayerDetail(*astuple(layer)) for layer in images.layers(connection, manifest_digest)]
    if config is None:
        return ImageDetail(handle, None, layers)
    fields = msgspec.json.decode(config.fields, type=ImageConfig)
    detail = ImageConfigDetail(
        digest=config.digest,
        env=[*fields.env],
        cmd=None if fields.cmd is None else [*fields.cmd],
        entrypoint=None if fields.entrypoint is None else [*fields.entrypoint],
        working_dir=fields.working_dir,
        user=fields.user,
        labels=fields.labels,
        stop_signal=fields.stop_signal,
    )
    return ImageDetail(handle, detail, layers)
