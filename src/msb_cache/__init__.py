"""The event-sourced index of microsandbox's local OCI image cache.

Everything public is here. Names load on first use: importing the package costs next to nothing, and
a command that lists images never pays for what pulls them.
"""

from __future__ import annotations

TYPE_CHECKING = False  # that of typing, whose import is the first thing that takes time

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from msb_cache.async_cache import AsyncImageCache
    from msb_cache.audit.data import DataCheck, DataProgress, DataRequest
    from msb_cache.audit.layers import DifferingLayer, LayerComparison
    from msb_cache.backends import (
        BackendInfo,
        BackendKind,
        CloudBackend,
        LocalBackend,
        backend_scope,
        default_backend,
        default_backend_info,
        default_backend_kind,
        set_default_backend,
        with_backend,
    )
    from msb_cache.cache import ImageCache
    from msb_cache.care.disk_usage import DiskCategory, DiskUsage, ImageUsage, LogUsage, PolicyUsage
    from msb_cache.care.doctor import Finding
    from msb_cache.care.gc import GcRun
    from msb_cache.care.metrics import CacheMetrics, DeletedImages, IdleTimes, LastPrune
    from msb_cache.care.recorded import RecordedFiles
    from msb_cache.care.repair import LeftFinding, RepairReport
    from msb_cache.commands.restore import RestoredImage, RestoreResult
    from msb_cache.engines.decision import ImageVerdict, Preview
    from msb_cache.errors import (
        BoundNotKeptError,
        BusyError,
        CorruptArtifactError,
        CorruptLogError,
        HomeOwnedByMicrosandboxError,
        ImageInUseError,
        ImageNotFoundError,
        ImagePullFailedError,
        InvalidConfigError,
        InvalidImageError,
        InvalidQueryError,
        InvalidReferenceError,
        IoError,
        LogError,
        MicrosandboxError,
        MsbDatabaseError,
        MsbProgramError,
        NewerDatabaseError,
        OperationNotFoundError,
        PathNotFoundError,
        PlatformNotFoundError,
        QueryLimitError,
        UnknownEventError,
        UnsupportedError,
    )
    from msb_cache.eventstore.store import Actor, StoredEvent
    from msb_cache.image import Image
    from msb_cache.models import (
        HeldImage,
        ImageArchiveFormat,
        ImageConfigDetail,
        ImageDetail,
        ImageFlatDetail,
        ImageHandle,
        ImageLayerDetail,
        ImagePruneReport,
        PulledImage,
    )
    from msb_cache.msb.sync import SyncReport
    from msb_cache.oci.registry.credentials import Credential
    from msb_cache.oci.registry.options import RegistryOptions
    from msb_cache.projections.history import HistoryEvent
    from msb_cache.queries.as_of import Changes, Hold, Moved, Use
    from msb_cache.queries.info import HomeInfo
    from msb_cache.queries.pins import Pin
    from msb_cache.queries.policy_file import PolicyMistake
    from msb_cache.queries.sql import SqlRow, SqlValue
    from msb_cache.queries.why import ImageReasons, LayerReasons, ManifestReasons
    from msb_cache.retention.policy import CachePolicy, NamedRule, PrunePolicy, Watermarks
    from msb_cache.retention.rules import RuleVerdict
    from msb_cache.sdk import DiskImageFormat, PullPolicy

    # microsandbox's own, where its SDK is installed; a checker need not have it.
    ImageSource: TypeAlias = Any
    ImageSourceKind: TypeAlias = Any
    PullEvent: TypeAlias = Any
    PullEventType: TypeAlias = Any
    PullSession: TypeAlias = Any
    RegistryAuth: TypeAlias = Any
    RootDisk: TypeAlias = Any
    RootDiskConfig: TypeAlias = Any
    RootDiskKind: TypeAlias = Any
    Sandbox: TypeAlias = Any

    __version__: str

__all__ = [
    "Actor",
    "AsyncImageCache",
    "BackendInfo",
    "BackendKind",
    "BoundNotKeptError",
    "BusyError",
    "CacheMetrics",
    "CachePolicy",
    "Changes",
    "CloudBackend",
    "CorruptArtifactError",
    "CorruptLogError",
    "Credential",
    "DataCheck",
    "DataProgress",
    "DataRequest",
    "DeletedImages",
    "DifferingLayer",
    "DiskCategory",
    "DiskImageFormat",
    "DiskUsage",
    "Finding",
    "GcRun",
    "HandedOver",
    "HeldImage",
    "HistoryEvent",
    "Hold",
    "HomeInfo",
    "HomeOwnedByMicrosandboxError",
    "IdleTimes",
    "Image",
    "ImageArchiveFormat",
    "ImageCache",
    "ImageConfigDetail",
    "ImageDetail",
    "ImageFlatDetail",
    "ImageHandle",
    "ImageInUseError",
    "ImageLayerDetail",
    "ImageNotFoundError",
    "ImagePruneReport",
    "ImagePullFailedError",
    "ImageReasons",
    "ImageUsage",
    "ImageVerdict",
    "InvalidConfigError",
    "InvalidImageError",
    "InvalidQueryError",
    "InvalidReferenceError",
    "IoError",
    "LastPrune",
    "LayerComparison",
    "LayerReasons",
    "LeftFinding",
    "LocalBackend",
    "LogError",
    "LogUsage",
    "ManifestReasons",
    "MicrosandboxError",
    "Moved",
    "MsbDatabaseError",
    "MsbProgramError",
    "NamedRule",
    "NewerDatabaseError",
    "OperationNotFoundError",
    "PathNotFoundError",
    "Pin",
    "PlatformNotFoundError",
    "PolicyMistake",
    "PolicyUsage",
    "Preview",
    "PrunePolicy",
    "PullPolicy",
    "PulledImage",
    "QueryLimitError",
    "RecordedFiles",
    "RegistryOptions",
    "RepairReport",
    "RestoreResult",
    "RestoredImage",
    "RuleVerdict",
    "SqlRow",
    "SqlValue",
    "StoredEvent",
    "SyncReport",
    "UnknownEventError",
    "UnsupportedError",
    "Use",
    "Watermarks",
    "__version__",
    "backend_scope",
    "default_backend",
    "default_backend_info",
    "default_backend_kind",
    "set_default_backend",
    "with_backend",
]

_MODULES = {
    "msb_cache.async_cache": ("AsyncImageCache",),
    "msb_cache.audit.data": ("DataCheck", "DataProgress", "DataRequest"),
    "msb_cache.audit.layers": ("DifferingLayer", "LayerComparison"),
    "msb_cache.backends": (
        "BackendInfo",
        "BackendKind",
        "CloudBackend",
        "LocalBackend",
        "backend_scope",
        "default_backend",
        "default_backend_info",
        "default_backend_kind",
        "set_default_backend",
        "with_backend",
    ),
    "msb_cache.cache": ("ImageCache",),
    "msb_cache.care.disk_usage": ("DiskCategory", "DiskUsage", "ImageUsage", "LogUsage", "PolicyUsage"),
    "msb_cache.care.doctor": ("Finding",),
    "msb_cache.care.gc": ("GcRun",),
    "msb_cache.care.metrics": ("CacheMetrics", "DeletedImages", "IdleTimes", "LastPrune"),
    "msb_cache.care.recorded": ("RecordedFiles",),
    "msb_cache.care.repair": ("LeftFinding", "RepairReport"),
    "msb_cache.commands.hand_over": ("HandedOver",),
    "msb_cache.commands.restore": ("RestoreResult", "RestoredImage"),
    "msb_cache.engines.decision": ("ImageVerdict", "Preview"),
    "msb_cache.eventstore.store": ("Actor", "StoredEvent"),
    "msb_cache.image": ("Image",),
    "msb_cache.models": (
        "HeldImage",
        "ImageArchiveFormat",
        "ImageConfigDetail",
        "ImageDetail",
        "ImageHandle",
        "ImageFlatDetail",
        "ImageLayerDetail",
        "ImagePruneReport",
        "PulledImage",
    ),
    "msb_cache.msb.sync": ("SyncReport",),
    "msb_cache.oci.registry.credentials": ("Credential",),
    "msb_cache.oci.registry.options": ("RegistryOptions",),
    "msb_cache.projections.history": ("HistoryEvent",),
    "msb_cache.queries.as_of": ("Changes", "Hold", "Moved", "Use"),
    "msb_cache.queries.info": ("HomeInfo",),
    "msb_cache.queries.pins": ("Pin",),
    "msb_cache.queries.policy_file": ("PolicyMistake",),
    "msb_cache.queries.sql": ("SqlRow", "SqlValue"),
    "msb_cache.queries.why": ("ImageReasons", "LayerReasons", "ManifestReasons"),
    "msb_cache.retention.policy": ("CachePolicy", "NamedRule", "PrunePolicy", "Watermarks"),
    "msb_cache.retention.rules": ("RuleVerdict",),
}
_ENUMERATIONS = ("DiskImageFormat", "PullPolicy")
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

# A type checker reads the imports above and so refuses a name that is not there.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name[:1].isupper() and name not in __all__:
            from msb_cache.sdk import OF_SANDBOXES, of_sdk

            if name in OF_SANDBOXES:
                return of_sdk(name)
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "__version__":
            from importlib.metadata import version

            value: object = version("msb-cache")
        elif name in _ENUMERATIONS:
            from msb_cache.sdk import enumeration

            value = enumeration(name)
        else:
            from importlib import import_module

            value = getattr(import_module(_HOMES.get(name, "msb_cache.errors")), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
