"""The event-sourced index of microsandbox's local OCI image cache.

Everything public is here. Names load on first use: importing the package costs next to nothing, and
a command that lists images never pays for what pulls them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from msb_cache.backends import (
        BackendKind,
        CloudBackend,
        LocalBackend,
        backend_scope,
        default_backend,
        default_backend_kind,
        set_default_backend,
        with_backend,
    )
    from msb_cache.cache import ImageCache
    from msb_cache.errors import (
        BusyError,
        CorruptArtifactError,
        CorruptLogError,
        HomeOwnedByMicrosandboxError,
        ImageInUseError,
        ImageNotFoundError,
        ImagePullFailedError,
        InvalidConfigError,
        InvalidImageError,
        InvalidReferenceError,
        LogError,
        MicrosandboxError,
        NewerDatabaseError,
        PlatformNotFoundError,
        UnknownEventError,
        UnsupportedError,
    )
    from msb_cache.image import Image
    from msb_cache.models import (
        ImageArchiveFormat,
        ImageConfigDetail,
        ImageDetail,
        ImageHandle,
        ImageLayerDetail,
        ImagePruneReport,
    )

    __version__: str

__all__ = [
    "BackendKind",
    "BusyError",
    "CloudBackend",
    "CorruptArtifactError",
    "CorruptLogError",
    "HomeOwnedByMicrosandboxError",
    "Image",
    "ImageArchiveFormat",
    "ImageCache",
    "ImageConfigDetail",
    "ImageDetail",
    "ImageHandle",
    "ImageInUseError",
    "ImageLayerDetail",
    "ImageNotFoundError",
    "ImagePruneReport",
    "ImagePullFailedError",
    "InvalidConfigError",
    "InvalidImageError",
    "InvalidReferenceError",
    "LocalBackend",
    "LogError",
    "MicrosandboxError",
    "NewerDatabaseError",
    "PlatformNotFoundError",
    "UnknownEventError",
    "UnsupportedError",
    "__version__",
    "backend_scope",
    "default_backend",
    "default_backend_kind",
    "set_default_backend",
    "with_backend",
]

_BACKENDS = {
    "BackendKind",
    "CloudBackend",
    "LocalBackend",
    "backend_scope",
    "default_backend",
    "default_backend_kind",
    "set_default_backend",
    "with_backend",
}
_MODELS = {
    "ImageArchiveFormat",
    "ImageConfigDetail",
    "ImageDetail",
    "ImageHandle",
    "ImageLayerDetail",
    "ImagePruneReport",
}

# A type checker reads the imports above and so refuses a name that is not there.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "__version__":
            from importlib.metadata import version

            value: object = version("msb-cache")
        else:
            from importlib import import_module

            value = getattr(import_module(_module_of(name)), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


def _module_of(name: str) -> str:
    if name.endswith("Error"):
        return "msb_cache.errors"
    if name in _BACKENDS:
        return "msb_cache.backends"
    if name in _MODELS:
        return "msb_cache.models"
    return {"Image": "msb_cache.image", "ImageCache": "msb_cache.cache"}[name]
