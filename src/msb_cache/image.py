"""The asynchronous face of the cache: the specification's static methods, on a worker thread.

A thin layer over :class:`~msb_cache.cache.ImageCache`, opened and closed inside each call: nothing is
held between calls, and the event loop never waits for a disk or a lock. A program written for
microsandbox's Python SDK changes its import and runs.
"""

from __future__ import annotations

import asyncio
import builtins
import sys
from typing import TYPE_CHECKING, TypeVar

from msb_cache.backends import LocalBackend, default_backend
from msb_cache.errors import UnsupportedError
from msb_cache.models import ImageArchiveFormat

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from msb_cache.cache import ImageCache
    from msb_cache.engines.engine import Policy, Progress
    from msb_cache.models import ImageDetail, ImageHandle, ImagePruneReport, PulledImage
    from msb_cache.oci.registry.credentials import Credential
    from msb_cache.oci.registry.options import RegistryOptions

_Result = TypeVar("_Result")


class Image:
    """The image cache as static coroutines; there is nothing to instantiate.

    The plain names act on the default backend, and raise
    :class:`~msb_cache.errors.UnsupportedError` when that is the cloud and
    :class:`~msb_cache.errors.InvalidConfigError` when it is selected but incomplete. The ``*_local`` names
    take a :class:`~msb_cache.backends.LocalBackend` and never look at any ambient state.

    Cancelling a call stops the waiting, not the work: a removal that has begun is finished.
    """

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
        input_path: str | os.PathLike[str], *, tag: str | None = None
    ) -> builtins.list[ImageHandle]:
        """Import the images of a ``docker save`` or OCI-layout archive; one handle for each reference.

        *input_path* may be ``"-"`` for standard input. *tag* is one more reference, for the first image.
        """
        return await Image.load_local(_ambient("load"), input_path, tag=tag)

    @staticmethod
    async def pull(
        reference: str,
        *,
        platform: str | None = None,
        policy: Policy = "missing",
        force: bool = False,
        credential: Credential | None = None,
        options: RegistryOptions | None = None,
        progress: Progress | None = None,
    ) -> PulledImage:
        """Pull an image from its registry; see :meth:`~msb_cache.cache.ImageCache.pull`.

        *progress* is called from the threads that fetch layers. Raises ImagePullFailedError when the
        registry cannot or will not give the image.
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
        format: ImageArchiveFormat | str = ImageArchiveFormat.DOCKER,
    ) -> None:
        """Write one or more cached images into one archive at *output_path*.

        Raises ImageNotFoundError when one of them is not in the cache, and ValueError for an empty
        sequence or an unknown format.
        """
        await Image.save_local(_ambient("save"), reference, output_path=output_path, format=format)

    @staticmethod
    async def get_local(backend: LocalBackend, reference: str) -> ImageHandle:
        """Like :meth:`get`, in the cache of *backend*."""
        return await _on_thread(backend, lambda cache: cache.get(reference))

    @staticmethod
    async def list_local(backend: LocalBackend) -> builtins.list[ImageHandle]:
        """Like :meth:`list`, in the cache of *backend*."""
        return await _on_thread(backend, lambda cache: cache.list())

    @staticmethod
    async def inspect_local(backend: LocalBackend, reference: str) -> ImageDetail:
        """Like :meth:`inspect`, in the cache of *backend*."""
        return await _on_thread(backend, lambda cache: cache.inspect(reference))

    @staticmethod
    async def remove_local(backend: LocalBackend, reference: str, force: bool = False) -> None:
        """Like :meth:`remove`, in the cache of *backend*."""
        await _on_thread(backend, lambda cache: cache.remove(reference, force=force))

    @staticmethod
    async def prune_local(backend: LocalBackend) -> ImagePruneReport:
        """Like :meth:`prune`, in the cache of *backend*."""
        return await _on_thread(backend, lambda cache: cache.prune())

    @staticmethod
    async def load_local(
        backend: LocalBackend, input_path: str | os.PathLike[str], *, tag: str | None = None
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
        policy: Policy = "missing",
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
                policy=policy,
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
        format: ImageArchiveFormat | str = ImageArchiveFormat.DOCKER,
    ) -> None:
        """Like :meth:`save`, in the cache of *backend*."""
        references = [reference] if isinstance(reference, str) else [*reference]
        if not references:
            raise ValueError("at least one image reference is required")
        layout = ImageArchiveFormat(format).value
        await _on_thread(backend, lambda cache: cache.save(references, output_path, format=layout))


def _ambient(call: str) -> LocalBackend:
    backend = default_backend()
    if not isinstance(backend, LocalBackend):
        raise UnsupportedError(f"Image.{call}() is not supported by the cloud backend: use a local backend")
    return backend


async def _on_thread(backend: LocalBackend, call: Callable[[ImageCache], _Result]) -> _Result:
    if not isinstance(backend, LocalBackend):
        raise TypeError(f"expected a LocalBackend, got {type(backend).__name__}")

    def work() -> _Result:
        from msb_cache.cache import ImageCache

        with ImageCache(backend.home) as cache:
            return call(cache)

    return await asyncio.to_thread(work)
