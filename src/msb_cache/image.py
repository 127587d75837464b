"""The asynchronous face of the cache: the specification's static methods, on a worker thread.

A thin layer over :class:`~msb_cache.cache.ImageCache`, opened and closed inside each call: nothing is
held between calls, and the event loop never waits for a disk or a lock. A program written for
microsandbox's Python SDK changes its import and runs.
"""

from __future__ import annotations

import asyncio
import builtins
import os
import sys
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from msb_cache.backends import LocalBackend, default_backend
from msb_cache.errors import (
    ImageNotFoundError,
    InvalidConfigError,
    InvalidReferenceError,
    MicrosandboxError,
    UnsupportedError,
)
from msb_cache.models import ImageArchiveFormat
from msb_cache.msb.config import home_from_environment
from msb_cache.sdk import PullPolicy, of_sdk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from msb_cache.cache import ImageCache
    from msb_cache.engines.engine import Policy, Progress
    from msb_cache.models import ImageDetail, ImageHandle, ImagePruneReport, PulledImage
    from msb_cache.oci.registry.credentials import Credential
    from msb_cache.oci.registry.options import RegistryOptions

_Result = TypeVar("_Result")

_POLICIES: dict[str, Policy] = {
    PullPolicy.ALWAYS: "always",
    PullPolicy.IF_MISSING: "missing",
    PullPolicy.NEVER: "never",
}


class Image:
    """The image cache as static coroutines; there is nothing to instantiate.

    The plain names act on the default backend, and raise
    :class:`~msb_cache.errors.UnsupportedError` when that is the cloud, or one that cannot be completed; so do
    the methods of the handles that they return. The ``*_local`` names take a
    :class:`~msb_cache.backends.LocalBackend` and never look at any ambient state.

    Cancelling a call stops the waiting, not the work: a removal that has begun is finished.
    """

    @staticmethod
    def oci(reference: str, **options: Any) -> Any:
        """Return an image source for microsandbox's ``Sandbox``, made by its SDK; ImportError without it."""
        return of_sdk("Image").oci(reference, **options)

    @staticmethod
    def bind(path: str) -> Any:
        """Return a folder as an image source, made by microsandbox's SDK; ImportError without it."""
        return of_sdk("Image").bind(path)

    @staticmethod
    def disk(path: str, **options: Any) -> Any:
        """Return a disk image as an image source, made by microsandbox's SDK; ImportError without it."""
        return of_sdk("Image").disk(path, **options)

    @staticmethod
    async def get(reference: str) -> ImageHandle:
        """Return the cached image *reference*; ImageNotFoundError when it is not in the cache."""
        return await Image.get_local(_ambient("get"), reference)

    @staticmethod
    async def list() -> builtins.list[ImageHandle]:
        """Return every cached image by creation time, newest first."""
        return await Image.list_local(_ambient("list"))

    @staticmethod
    async def inspect(reference: str) -> ImageDetail:
        """Return the image's handle, parsed OCI config and layers; ImageNotFoundError when absent."""
        return await Image.inspect_local(_ambient("inspect"), reference)

    @staticmethod
    async def remove(reference: str, force: bool = False) -> None:
        """Remove *reference* from the cache.

        Raises ImageInUseError when a sandbox or snapshot holds the image and *force* is false, and
        ImageNotFoundError when it is not in the cache. Forcing drops the reference only: what is held
        stays on disk until the last hold has ended and a prune runs.
        """
        await Image.remove_local(_ambient("remove"), reference, force)

    @staticmethod
    async def prune() -> ImagePruneReport:
        """Remove image data that no sandbox and no indexed snapshot uses, and say what went."""
        return await Image.prune_local(_ambient("prune"))

    @staticmethod
    async def load(
        input_path: str | os.PathLike[str], *, tag: str | Sequence[str] | None = None
    ) -> builtins.list[ImageHandle]:
        """Import the images of a ``docker save`` or OCI-layout archive; one handle for each reference.

        *input_path* may be ``"-"`` for standard input. *tag* is one more reference for the first image, or
        several; they come first in the result.
        """
        return await Image.load_local(_ambient("load"), input_path, tag=tag)

    @staticmethod
    async def pull(
        reference: str,
        *,
        platform: str | None = None,
        policy: Policy | PullPolicy = "missing",
        force: bool = False,
        credential: Credential | None = None,
        options: RegistryOptions | None = None,
        progress: Progress | None = None,
    ) -> PulledImage:
        """Pull an image from its registry; see :meth:`~msb_cache.cache.ImageCache.pull`.

        *policy* may be the SDK's PullPolicy too. *progress* is called from the threads that fetch layers.
        Raises ImagePullFailedError when the registry cannot or will not give the image.
        """
        return await Image.pull_local(
            _ambient("pull"),
            reference,
            platform=platform,
            policy=policy,
            force=force,
            credential=credential,
            options=options,
            progress=progress,
        )

    @staticmethod
    async def save(
        reference: str | Sequence[str],
        *,
        output_path: str | os.PathLike[str],
        format: ImageArchiveFormat = ImageArchiveFormat.DOCKER,
    ) -> None:
        """Write one or more cached images into one archive at *output_path*.

        Raises ImageNotFoundError when one of them is not in the cache, MicrosandboxError when the file cannot
        be written, ValueError for an empty sequence and TypeError for a format that is no ImageArchiveFormat.
        """
        await Image.save_local(_ambient("save"), reference, output_path=output_path, format=format)

    @staticmethod
    async def get_local(backend: LocalBackend, reference: str) -> ImageHandle:
        """Like :meth:`get`, in the cache of *backend*."""
        with _no_reference_is_in_no_cache():
            return await _on_thread(backend, lambda cache: cache.get(reference))

    @staticmethod
    async def list_local(backend: LocalBackend) -> builtins.list[ImageHandle]:
        """Like :meth:`list`, in the cache of *backend*."""
        return await _on_thread(backend, lambda cache: cache.list())

    @staticmethod
    async def inspect_local(backend: LocalBackend, reference: str) -> ImageDetail:
        """Like :meth:`inspect`, in the cache of *backend*."""
        with _no_reference_is_in_no_cache():
            return await _on_thread(backend, lambda cache: cache.inspect(reference))

    @staticmethod
    async def remove_local(backend: LocalBackend, reference: str, force: bool = False) -> None:
        """Like :meth:`remove`, in the cache of *backend*."""
        with _no_reference_is_in_no_cache():
            await _on_thread(backend, lambda cache: cache.remove(reference, force=force))

    @staticmethod
    async def prune_local(backend: LocalBackend) -> ImagePruneReport:
        """Like :meth:`prune`, in the cache of *backend*."""
        return await _on_thread(backend, lambda cache: cache.prune())

    @staticmethod
    async def load_local(
        backend: LocalBackend,
        input_path: str | os.PathLike[str],
        *,
        tag: str | Sequence[str] | None = None,
    ) -> builtins.list[ImageHandle]:
        """Like :meth:`load`, in the cache of *backend*."""
        source = sys.stdin.buffer if input_path == "-" else input_path
        return await _on_thread(backend, lambda cache: cache.load(source, tag=tag))

    @staticmethod
    async def pull_local(
        backend: LocalBackend,
        reference: str,
        *,
        platform: str | None = None,
        policy: Policy | PullPolicy = "missing",
        force: bool = False,
        credential: Credential | None = None,
        options: RegistryOptions | None = None,
        progress: Progress | None = None,
    ) -> PulledImage:
        """Like :meth:`pull`, into the cache of *backend*."""

        def pull(cache: ImageCache) -> PulledImage:
            return cache.pull(
                reference,
                platform=platform,
                policy=_POLICIES.get(policy) or cast("Policy", policy),
                force=force,
                credential=credential,
                options=options,
                progress=progress,
            )

        return await _on_thread(backend, pull)

    @staticmethod
    async def save_local(
        backend: LocalBackend,
        reference: str | Sequence[str],
        *,
        output_path: str | os.PathLike[str],
        format: ImageArchiveFormat = ImageArchiveFormat.DOCKER,
    ) -> None:
        """Like :meth:`save`, in the cache of *backend*."""
        references = [reference] if isinstance(reference, str) else [*reference]
        if not references:
            raise ValueError("at least one image reference is required")
        if not isinstance(format, ImageArchiveFormat):
            raise TypeError(f"expected ImageArchiveFormat, got {type(format).__name__}")

        def save(cache: ImageCache) -> None:
            try:
                cache.save(references, output_path, format=format.value)
            except OSError as error:
                raise MicrosandboxError(
                    f"{os.fspath(output_path)} cannot be written: {error.strerror or error}"
                ) from error

        await _on_thread(backend, save)


class _Ambient(LocalBackend):
    """The default backend; the handles that come from it ask again whether that is a local one."""

    __slots__ = ()


def _ambient(call: str) -> LocalBackend:
    try:
        backend = default_backend()
    except InvalidConfigError as error:
        raise UnsupportedError(f"Image.{call}() needs a local backend: {error}") from error
    if not isinstance(backend, LocalBackend):
        raise UnsupportedError(f"Image.{call}() is not supported by the cloud backend: use a local backend")
    return _Ambient(home=backend.home)


@cache
def _of_the_default_backend(base: type[ImageCache]) -> type[ImageCache]:
    """Return a cache whose handles, too, ask for the default backend."""

    class AmbientCache(base):  # type: ignore[valid-type, misc]  # a class that is imported late
        """The default backend's, when it is opened; as in the SDK, that may have changed since."""

        def __init__(self, home: str | os.PathLike[str]) -> None:
            _ambient("inspect or remove")
            super().__init__(home)

    return AmbientCache


@contextmanager
def _no_reference_is_in_no_cache() -> Iterator[None]:
    """Let what is no reference be an image that is not there, as in the SDK."""
    try:
        yield
    except InvalidReferenceError as error:
        raise ImageNotFoundError(str(error)) from error


def _is_of_msb(backend: LocalBackend) -> bool:
    """Whether it is the home that msb itself would use here."""
    try:
        return str(backend.home) == home_from_environment()
    except InvalidConfigError:
        return False


async def _on_thread(backend: LocalBackend, call: Callable[[ImageCache], _Result]) -> _Result:
    if not isinstance(backend, LocalBackend):
        raise TypeError(f"expected a LocalBackend, got {type(backend).__name__}")

    def work() -> _Result:
        from msb_cache.cache import ImageCache

        ambient = isinstance(backend, _Ambient)
        with (_of_the_default_backend(ImageCache) if ambient else ImageCache)(backend.home) as opened:
            opened._session.is_default = _is_of_msb(backend)
            return call(opened)

    return await asyncio.to_thread(work)
