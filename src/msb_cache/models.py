"""What a caller gets back from a cache, as immutable values: handles, details, reports.

The names and attributes are those of microsandbox's Python SDK, so its programs keep working. A handle holds
no connection and reads nothing by itself; only its two coroutines go back to the cache that it came from, by
the opener that the cache gave it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from msgspec import Struct
from msgspec.structs import astuple

from msb_cache.errors import InvalidConfigError
from msb_cache.shapes import Result, fields

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from msb_cache.eventstore.store import StoredEvent

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_Result = TypeVar("_Result")


MAX_AGE_NS = 30 * 24 * 3600 * 10**9
"""30 days: a layer that is reused is read if that was last done longer ago, unless another age is given."""


class OpenCache(Protocol):
    """What a handle asks of the cache that it came from."""

    def inspect(self, reference: str, /) -> ImageDetail:
        """Return the configuration and layers of a reference."""

    def remove(self, reference: str, /, *, force: bool = False) -> object:
        """Remove a reference."""


class Origin(Struct, frozen=True, gc=False):
    """The cache that handles came from: its home's absolute path as text, and what opens it anew."""

    root: str
    opener: Callable[[str], AbstractContextManager[OpenCache]]


class ImageArchiveFormat(StrEnum):
    """The two archive layouts that images are saved in; the plain strings work as well."""

    DOCKER = "docker"
    OCI = "oci"


class ImageHandle(Result, Struct, frozen=True, eq=False, gc=False):
    """One cached image: a reference and what is known about the manifest it points at.

    Handles do not change when the cache does, and equality compares what they
    say, not which cache they came from.
    """

    reference: str
    """The familiar form, such as ``python:3.12``."""
    size_bytes: int | None
    """The layers' compressed sizes together, in a home that msb keeps as msb has it; None: not known."""
    manifest_digest: str | None
    """Never None in what a cache returns."""
    architecture: str | None
    """As its config says, such as ``amd64``; None: neither that nor msb's database does."""
    os: str | None
    """Such as ``linux``; None as for ``architecture``."""
    layer_count: int
    created_at_ns: int | None
    """When the reference was first pulled since it was last absent, in ns since the epoch, UTC; None: it is
    msb's, and its database does not say it."""
    last_used_at_ns: int | None
    """When the image was last pulled or used, in ns since the epoch, UTC; never None in what a cache
    returns."""
    in_use_by: tuple[str, ...] = ()
    """The sandboxes of msb's that run from it now, such as ``sandbox:dev``."""
    in_use_since_ns: int | None = None
    """When the first of those was booted, in ns since the epoch, UTC; None: none runs."""
    idle_since_ns: int | None = None
    """When the last boot ended, in ns since the epoch, UTC; None: one lasts, or there was none."""
    held_by: tuple[str, ...] = ()
    """The sandboxes and snapshots that hold its manifest, also those that do not run."""
    origin: Origin | None = None
    """The cache that it came from; None: it was not made by a cache."""

    @property
    def home(self) -> Path | None:
        """The home whose cache it came from."""
        if self.origin is None:
            return None
        from pathlib import Path  # a list of images prints no homes

        return Path(self.origin.root)

    @property
    def created_at(self) -> datetime | None:
        """When the reference was first pulled since it was last absent: an aware UTC time, to the µs."""
        return _datetime(self.created_at_ns)

    @property
    def last_used_at(self) -> datetime | None:
        """When the image was last pulled or used: an aware UTC time, to the µs."""
        return _datetime(self.last_used_at_ns)

    @property
    def in_use_since(self) -> datetime | None:
        """Since when sandboxes run from it: an aware UTC time, to the µs; None: none runs."""
        return _datetime(self.in_use_since_ns)

    @property
    def idle_since(self) -> datetime | None:
        """Since when no sandbox runs from it: an aware UTC time, to the µs; None: one does, or none did."""
        return _datetime(self.idle_since_ns)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImageHandle) and self._said() == other._said()

    def __hash__(self) -> int:
        return hash(self._said())

    def __repr__(self) -> str:
        said = zip(self.__struct_fields__, self._said(), strict=False)
        return f"ImageHandle({', '.join(f'{name}={value!r}' for name, value in said)})"

    def _said(self) -> tuple[object, ...]:
        """Return what it says of the image; where it came from does not count."""
        return astuple(self)[:_SAID]

    async def inspect(self) -> ImageDetail:
        """Return the configuration and layers of this reference in the cache the handle came from.

        Raises :class:`~msb_cache.errors.ImageNotFoundError` when it is gone by now.
        """
        return await self._ask(lambda cache: cache.inspect(self.reference))

    async def remove(self, force: bool = False) -> None:
        """Remove this reference from the cache the handle came from; see :meth:`Image.remove`."""
        await self._ask(lambda cache: cache.remove(self.reference, force=force))

    async def _ask(self, question: Callable[[OpenCache], _Result]) -> _Result:
        from asyncio import to_thread  # handles are made by synchronous programs too

        origin = self.origin
        if origin is None:
            raise InvalidConfigError(
                f"this handle for {self.reference} was not made by a cache, so nothing can be asked of it: "
                "use Image.inspect or Image.remove with its reference"
            )

        def work() -> _Result:
            with origin.opener(origin.root) as cache:
                return question(cache)

        return await to_thread(work)

    def _shape(self) -> dict[str, Any]:
        # The first columns of a table are those by which people know an image.
        return {"reference": self.reference, "digest": self.manifest_digest} | fields(
            self, without=("origin",)
        )


PULLED = ("changed", "previous_digest", "bytes_fetched", "bytes_reused")
"""What of an ``image.pulled`` event stands beside the image."""

_SAID = ImageHandle.__struct_fields__.index("origin")


class PulledImage(ImageHandle, frozen=True, eq=False, gc=False, kw_only=True):
    """The handle of an image that has just been pulled, with the event that says so."""

    recorded: StoredEvent
    """The ``image.pulled`` event: where the reference pointed before, and how many bytes were fetched."""

    def _shape(self) -> dict[str, Any]:
        """Return the image with what was recorded of it; the event itself is ``recorded.to_dict()``."""
        found = super()._shape()
        event = found.pop("recorded")
        told = {name: getattr(event.data, name) for name in PULLED}
        return {**found, **told, "operation": event.operation, "seq": event.seq}


class HeldImage(ImageHandle, frozen=True, eq=False, gc=False, kw_only=True):
    """The handle of an image that is held."""

    holder: str
    enforced: bool
    """Whether every program that deletes here knows the hold; false where msb keeps the home and has no such
    sandbox or snapshot: ``msb image prune`` and ``msb image rm`` then delete the image all the same."""
    until_ns: int | None = None
    """When the hold ends by itself, in ns since the epoch, UTC; None: it does not."""

    @property
    def until(self) -> datetime | None:
        """Until when: an aware UTC time, to the µs; None: it does not end by itself."""
        return _datetime(self.until_ns)


class ImageConfigDetail(Result, Struct, frozen=True):
    """The parts of an image's OCI config that say how to run it.

    ``cmd``, ``entrypoint``, ``working_dir``, ``user`` and ``stop_signal`` are None where it does not say so.
    """

    digest: str
    """The config's own digest; empty where msb's database does not have it."""
    env: list[str] = []
    """``KEY=value`` entries, in the image's order."""
    cmd: list[str] | None = None
    entrypoint: list[str] | None = None
    working_dir: str | None = None
    user: str | None = None
    labels: Any = None
    """Texts by name; in a home that msb keeps, whatever JSON its database has there."""
    stop_signal: str | None = None


class ImageLayerDetail(Result, Struct, frozen=True):
    """One layer of an image."""

    diff_id: str
    """The digest of the uncompressed layer."""
    blob_digest: str
    """The digest of the layer as the registry or archive carries it."""
    media_type: str | None
    """None, as for both sizes: it is msb's image, and its database does not say it."""
    compressed_size_bytes: int | None
    """The size of the blob; None as above."""
    erofs_size_bytes: int | None
    """The size of the layer's EROFS image in the cache; None as above."""
    position: int
    """0 is the bottom layer."""
    erofs_digest: str | None = None
    """The fs-verity digest of the layer's EROFS image; None: the log has none yet."""
    erofs_digest_how: str | None = None
    """``made``: that of what msb-cache wrote; ``seen``: of what was there when it was first read; None as
    for that."""


class ImageFlatDetail(Result, Struct, frozen=True):
    """An image's flat root: one ext4 file, which msb makes where it is asked to (``--materialize flat``)."""

    artifact_digest: str
    virtual_size_bytes: int
    """How long the file is; it has holes."""
    allocated_bytes: int | None
    """What it takes of the disk; None when it is missing."""


class ImageDetail(Result, Struct, frozen=True):
    """Everything known about one cached image."""

    handle: ImageHandle
    config: ImageConfigDetail | None
    """None when the index has none of it."""
    layers: list[ImageLayerDetail]
    """Bottom to top."""
    flat: ImageFlatDetail | None = None
    """None when the image has no flat root now, or it is one of the past, of which the log does not know."""

    def _shape(self) -> dict[str, Any]:
        found = fields(self)
        return {**found.pop("handle")._shape(), **found}


class ImagePruneReport(Result, Struct, frozen=True):
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
    """How many deleted files no image had named, those included that earlier deletions had to leave."""
    artifacts_failed: int = 0
    """How many files the operating system refused to delete."""
    leftovers_failed: int = 0
    """How many of those an earlier deletion had to leave already."""
    flat_removed: int = 0
    """How many flat roots went; msb itself deletes none, so they are not in ``bytes_reclaimed``."""
    flat_bytes_reclaimed: int = 0
    """What those took of the disk, in bytes: they have holes."""
    operation: str | None = None
    """The id that groups this prune's events in the log; None when nothing was recorded."""


def _datetime(ns: int | None) -> datetime | None:
    # Integer arithmetic: a float of seconds cannot hold today's microseconds exactly.
    return None if ns is None else _EPOCH + timedelta(microseconds=ns // 1000)
