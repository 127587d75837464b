"""What a caller gets back for an image: a handle. Not what it has to ask for more (``details``).

The names and attributes are those of microsandbox's Python SDK, so its programs keep working. A
handle holds no connection and reads nothing by itself; only its two coroutines go back to the cache that
it came from.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import astuple

from msb_cache.errors import InvalidConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from msb_cache.backends import LocalBackend
    from msb_cache.details import ImageDetail

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ImageArchiveFormat(StrEnum):
    """The two archive layouts that images are saved in; the plain strings work as well."""

    DOCKER = "docker"
    OCI = "oci"


class ImageHandle(Struct, frozen=True, eq=False, gc=False):
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
    root: str | None = None
    """The absolute path of the home whose cache it came from, as text; None: it was not made by a cache."""

    @property
    def home(self) -> Path | None:
        """The home whose cache it came from."""
        if self.root is None:
            return None
        from pathlib import Path

        return Path(self.root)

    @property
    def created_at(self) -> datetime | None:
        """When the reference was first pulled since it was last absent: an aware UTC time, to the µs."""
        return _datetime(self.created_at_ns)

    @property
    def last_used_at(self) -> datetime | None:
        """When the image was last pulled or used: an aware UTC time, to the µs."""
        return _datetime(self.last_used_at_ns)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImageHandle) and self._said() == other._said()

    def __hash__(self) -> int:
        return hash(self._said())

    def __repr__(self) -> str:
        said = zip(self.__struct_fields__, self._said(), strict=False)
        return f"ImageHandle({', '.join(f'{name}={value!r}' for name, value in said)})"

    def _said(self) -> tuple[object, ...]:
        """Return what it says of the image; where it came from, the last field, does not count."""
        return astuple(self)[:-1]

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

        if self.root is None:
            raise InvalidConfigError(
                f"this handle for {self.reference} was not made by a cache, so nothing can be asked of it: "
                "use Image.inspect or Image.remove with its reference"
            )
        return LocalBackend(home=self.root)


def _datetime(ns: int | None) -> datetime | None:
    # Integer arithmetic: a float of seconds cannot hold today's microseconds exactly.
    return None if ns is None else _EPOCH + timedelta(microseconds=ns // 1000)
