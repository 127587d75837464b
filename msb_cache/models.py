"""What a caller gets back: handles, details and prune reports, as immutable values.

The names and attributes are those of microsandbox's Python SDK, so its programs keep working. These
classes hold no connection and read nothing by themselves; only the two coroutines of
:class:`ImageHandle` go back to the cache the handle came from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from msb_cache.errors import InvalidConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from msb_cache.backends import LocalBackend

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ImageArchiveFormat(StrEnum):
    """The two archive layouts that images are saved in; the plain strings work as well."""

    DOCKER = "docker"
    OCI = "oci"


@dataclass(frozen=True, slots=True)
class ImageHandle:
    """One cached image: a reference and what is known about the manifest it points at.

    Handles are snapshots. They do not change when the cache does, and equality compares what they
    say, not which cache they came from.
    """

    reference: str
    """The familiar form, such as ``python:3.12``."""
    size_bytes: int | None
    """The sum of the layers' compressed sizes; None when one of them is unknown."""
    manifest_digest: str | None
    architecture: str | None
    os: str | None
    layer_count: int
    created_at_ns: int | None
    """When the reference was first pulled since it was last absent, in ns since the epoch, UTC."""
    last_used_at_ns: int | None
    """When the image was last pulled or used, in ns since the epoch, UTC."""
    home: Path | None = field(default=None, repr=False, compare=False)

    @property
    def created_at(self) -> datetime | None:
        """When the reference was first pulled since it was last absent: an aware UTC time, to the µs."""
        return _datetime(self.created_at_ns)

    @property
    def last_used_at(self) -> datetime | None:
        """When the image was last pulled or used: an aware UTC time, to the µs."""
        return _datetime(self.last_used_at_ns)

    async def inspect(self) -> ImageDetail:
        """Return the configuration and layers of this reference in the cache the handle came from.

        Raises :class:`~msb_cache.errors.ImageNotFoundError` when it is gone by now.
        """
        from msb_cache.image import Image

        return await Image.inspect_local(self._backend(), self.reference)

    async def remove(self, force: bool = False) -> None:
        """Remove this reference from the cache the handle came from; see :meth:`Image.remove`."""
        from msb_cache.image import Image

        await Image.remove_local(self._backend(), self.reference, force)

    def _backend(self) -> LocalBackend:
        from msb_cache.backends import LocalBackend

        if self.home is None:
            raise InvalidConfigError(
                f"this handle for {self.reference} was not made by a cache, so nothing can be asked of it: "
                "use Image.inspect or Image.remove with its reference"
            )
        return LocalBackend(home=self.home)


@dataclass(frozen=True, slots=True)
class ImageConfigDetail:
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


@dataclass(frozen=True, slots=True)
class ImageLayerDetail:
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


@dataclass(frozen=True, slots=True)
class ImageDetail:
    """Everything known about one cached image."""

    handle: ImageHandle
    config: ImageConfigDetail | None
    """None when the image carries no config that could be read."""
    layers: list[ImageLayerDetail]
    """Bottom to top."""


@dataclass(frozen=True, slots=True)
class ImagePruneReport:
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


def _datetime(ns: int | None) -> datetime | None:
    # Integer arithmetic: a float of seconds cannot hold today's microseconds exactly.
    return None if ns is None else _EPOCH + timedelta(microseconds=ns // 1000)
