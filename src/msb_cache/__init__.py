"""The event-sourced index of microsandbox's local OCI image cache.

Everything public is here. Names load on first use: importing the package costs next to nothing, and
a command that lists images never pays for what pulls them.
"""

from __future__ import annotations

TYPE_CHECKING = False  # that of typing, whose import is the first thing that takes time

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    from msb_cache.activity import Activity
    from msb_cache.async_cache import AsyncImageCache
    from msb_cache.audit.backup import BackupReport
    from msb_cache.audit.begin_anew import AnewReport
    from msb_cache.audit.checkpoints import Checkpoint, Cosignature, Signing
    from msb_cache.audit.data import DataCheck, DataProgress, DataRequest
    from msb_cache.audit.files import DiskProblem
    from msb_cache.audit.import_log import ImportReport
    from msb_cache.audit.layers import DifferingLayer, LayerComparison
    from msb_cache.audit.notary import Attested, SigningPlan
    from msb_cache.audit.noted import CheckpointProblem, NoteCheck
    from msb_cache.audit.prove import EventProof
    from msb_cache.audit.replay import Comparison
    from msb_cache.audit.restore import RestoreReport
    from msb_cache.audit.schema import SchemaProblem
    from msb_cache.audit.verify import CopyProblem, Verification
    from msb_cache.audit.witnesses import NotCosigned, Submitted, WitnessClient
    from msb_cache.backends import (
        BackendInfo,
        BackendKind,
        BackendScope,
        CloudBackend,
        LocalBackend,
        LocalBackendBuilder,
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
    from msb_cache.commands.hand_over import HandedOver, Reset
    from msb_cache.commands.prune import Prune
    from msb_cache.commands.restore import RestoredImage, RestoreResult
    from msb_cache.engines.decision import DeletionProgress, ImageVerdict, Preview
    from msb_cache.engines.leftovers import Leftover
    from msb_cache.errors import (
        BoundNotKeptError,
        BusyError,
        CorruptArtifactError,
        CorruptLogError,
        DeliveryError,
        FleetError,
        HomeNotFoundError,
        HomeOwnedByMicrosandboxError,
        ImageInUseError,
        ImageNotFoundError,
        ImagePullFailedError,
        InvalidConfigError,
        InvalidImageError,
        InvalidProofError,
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
        SigningError,
        UnknownEventError,
        UnsupportedError,
        WitnessError,
    )
    from msb_cache.eventstore.chain import Break, Verified
    from msb_cache.eventstore.events import (
        ArtifactDeleted,
        ArtifactDeleteFailed,
        ArtifactDigested,
        ArtifactKept,
        ArtifactRepaired,
        ClockJumped,
        DeletionFinished,
        DeletionStarted,
        Event,
        EventData,
        FlatDeleted,
        FlatRefDeleted,
        FsmetaDeleted,
        ImageConfig,
        ImageHeld,
        ImagePinned,
        ImagePulled,
        ImagePullFailed,
        ImageReleased,
        ImageRemoved,
        ImageUnpinned,
        ImageUsed,
        ImageUseEnded,
        Judged,
        Layer,
        LayerDeleted,
        LogAcknowledged,
        LogCreated,
        LogRestoreConfirmed,
        LogRestored,
        ManifestAdded,
        ManifestDeleted,
        MetadataDeleted,
        PlannedArtifact,
        Restored,
        RestoreFinished,
        RestoreStarted,
        Restoring,
        Source,
        VmdkDeleted,
    )
    from msb_cache.eventstore.schema import event_schema
    from msb_cache.eventstore.store import Actor, StoredEvent
    from msb_cache.eventstore.subtrees import SubtreeProblem
    from msb_cache.fleet.admission import Initialised
    from msb_cache.fleet.archive import Archived, Refolded
    from msb_cache.fleet.enrolment import Enrolled, Enrolment, Unenrolled
    from msb_cache.fleet.fleet import Fleet
    from msb_cache.fleet.fold import Folded, StoppedLog
    from msb_cache.fleet.hosts import KnownLog, OnHost
    from msb_cache.fleet.reasons import HostChanges
    from msb_cache.fleet.servers import FurtherServer
    from msb_cache.fleet.ship import Shipped
    from msb_cache.fleet.spread import Spread
    from msb_cache.fleet.standing import Alert, HostStanding
    from msb_cache.fleet.take import Taken
    from msb_cache.fleet.verify import Compared, FleetVerified
    from msb_cache.home.heads import HeadNote, Mismatch
    from msb_cache.home.ledger import Who
    from msb_cache.image import Image
    from msb_cache.interchange.posting import Posted
    from msb_cache.interchange.receiver import WebhookReceiver
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
    from msb_cache.oci.registry.downloads import LayerProgress
    from msb_cache.oci.registry.options import RegistryOptions
    from msb_cache.projections.history import HistoryEvent
    from msb_cache.projections.images import Damage
    from msb_cache.projections.live import Difference
    from msb_cache.projections.replay import Change, Divergence, State, Step
    from msb_cache.projections.rows import DeletionRow, DigestRow, UndoingRow
    from msb_cache.proof.inclusion import CheckedEvent, check_proof
    from msb_cache.proof.key_file import key_of, new_key
    from msb_cache.proof.note import Signature
    from msb_cache.proof.policy import Cosigned, Judgement
    from msb_cache.proof.signer import Signer, signer_of
    from msb_cache.proof.vkey import VerifierKey
    from msb_cache.queries.as_of import AsOf, Changes, Hold, Moved, Use
    from msb_cache.queries.deletions import ArtifactReport, DeletionReport, DeletionSummary
    from msb_cache.queries.events import Filters
    from msb_cache.queries.info import HomeInfo
    from msb_cache.queries.last_used import IdleImage
    from msb_cache.queries.pins import Pin
    from msb_cache.queries.policy_file import PolicyMistake
    from msb_cache.queries.restore_plan import LostFile, Restoration, RestorePlan, Way
    from msb_cache.queries.sql import SqlRow, SqlValue
    from msb_cache.queries.times import Moment
    from msb_cache.queries.why import (
        Fate,
        ImageReasons,
        LayerOf,
        LayerReasons,
        Loss,
        ManifestReasons,
        Reasons,
        Sharing,
        UnderPolicy,
    )
    from msb_cache.report.facts import (
        Block,
        CacheReport,
        DeletionMark,
        EventLine,
        IdleLine,
        ImageLife,
        PersonLine,
        SizePoint,
        Span,
    )
    from msb_cache.report.fleet_facts import FleetReport, HostBar, HostDeletion, SpreadLine
    from msb_cache.retention.plan import Plan, Verdict
    from msb_cache.retention.policy import CachePolicy, NamedRule, PrunePolicy, Watermarks
    from msb_cache.retention.rules import RuleVerdict
    from msb_cache.sdk import DiskImageFormat, PullPolicy
    from msb_cache.shapes import Result
    from msb_cache.waiting import Note

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
    "Activity",
    "Actor",
    "Alert",
    "AnewReport",
    "Archived",
    "ArtifactDeleteFailed",
    "ArtifactDeleted",
    "ArtifactDigested",
    "ArtifactKept",
    "ArtifactRepaired",
    "ArtifactReport",
    "AsOf",
    "AsyncImageCache",
    "Attested",
    "BackendInfo",
    "BackendKind",
    "BackendScope",
    "BackupReport",
    "Block",
    "BoundNotKeptError",
    "Break",
    "BusyError",
    "CacheMetrics",
    "CachePolicy",
    "CacheReport",
    "Change",
    "Changes",
    "CheckedEvent",
    "Checkpoint",
    "CheckpointProblem",
    "ClockJumped",
    "CloudBackend",
    "Compared",
    "Comparison",
    "CopyProblem",
    "CorruptArtifactError",
    "CorruptLogError",
    "Cosignature",
    "Cosigned",
    "Credential",
    "Damage",
    "DataCheck",
    "DataProgress",
    "DataRequest",
    "DeletedImages",
    "DeletionFinished",
    "DeletionMark",
    "DeletionProgress",
    "DeletionReport",
    "DeletionRow",
    "DeletionStarted",
    "DeletionSummary",
    "DeliveryError",
    "Difference",
    "DifferingLayer",
    "DigestRow",
    "DiskCategory",
    "DiskImageFormat",
    "DiskProblem",
    "DiskUsage",
    "Divergence",
    "Enrolled",
    "Enrolment",
    "Event",
    "EventData",
    "EventLine",
    "EventProof",
    "Fate",
    "Filters",
    "Finding",
    "FlatDeleted",
    "FlatRefDeleted",
    "Fleet",
    "FleetError",
    "FleetReport",
    "FleetVerified",
    "Folded",
    "FsmetaDeleted",
    "FurtherServer",
    "GcRun",
    "HandedOver",
    "HeadNote",
    "HeldImage",
    "HistoryEvent",
    "Hold",
    "HomeInfo",
    "HomeNotFoundError",
    "HomeOwnedByMicrosandboxError",
    "HostBar",
    "HostChanges",
    "HostDeletion",
    "HostStanding",
    "IdleImage",
    "IdleLine",
    "IdleTimes",
    "Image",
    "ImageArchiveFormat",
    "ImageCache",
    "ImageConfig",
    "ImageConfigDetail",
    "ImageDetail",
    "ImageFlatDetail",
    "ImageHandle",
    "ImageHeld",
    "ImageInUseError",
    "ImageLayerDetail",
    "ImageLife",
    "ImageNotFoundError",
    "ImagePinned",
    "ImagePruneReport",
    "ImagePullFailed",
    "ImagePullFailedError",
    "ImagePulled",
    "ImageReasons",
    "ImageReleased",
    "ImageRemoved",
    "ImageUnpinned",
    "ImageUsage",
    "ImageUseEnded",
    "ImageUsed",
    "ImageVerdict",
    "ImportReport",
    "Initialised",
    "InvalidConfigError",
    "InvalidImageError",
    "InvalidProofError",
    "InvalidQueryError",
    "InvalidReferenceError",
    "IoError",
    "Judged",
    "Judgement",
    "KnownLog",
    "LastPrune",
    "Layer",
    "LayerComparison",
    "LayerDeleted",
    "LayerOf",
    "LayerProgress",
    "LayerReasons",
    "LeftFinding",
    "Leftover",
    "LocalBackend",
    "LocalBackendBuilder",
    "LogAcknowledged",
    "LogCreated",
    "LogError",
    "LogRestoreConfirmed",
    "LogRestored",
    "LogUsage",
    "Loss",
    "LostFile",
    "ManifestAdded",
    "ManifestDeleted",
    "ManifestReasons",
    "MetadataDeleted",
    "MicrosandboxError",
    "Mismatch",
    "Moment",
    "Moved",
    "MsbDatabaseError",
    "MsbProgramError",
    "NamedRule",
    "NewerDatabaseError",
    "NotCosigned",
    "Note",
    "NoteCheck",
    "OnHost",
    "OperationNotFoundError",
    "PathNotFoundError",
    "PersonLine",
    "Pin",
    "Plan",
    "PlannedArtifact",
    "PlatformNotFoundError",
    "PolicyMistake",
    "PolicyUsage",
    "Posted",
    "Preview",
    "Prune",
    "PrunePolicy",
    "PullPolicy",
    "PulledImage",
    "QueryLimitError",
    "Reasons",
    "RecordedFiles",
    "Refolded",
    "RegistryOptions",
    "RepairReport",
    "Reset",
    "Restoration",
    "RestoreFinished",
    "RestorePlan",
    "RestoreReport",
    "RestoreResult",
    "RestoreStarted",
    "Restored",
    "RestoredImage",
    "Restoring",
    "Result",
    "RuleVerdict",
    "SchemaProblem",
    "Sharing",
    "Shipped",
    "Signature",
    "Signer",
    "Signing",
    "SigningError",
    "SigningPlan",
    "SizePoint",
    "Source",
    "Span",
    "Spread",
    "SpreadLine",
    "SqlRow",
    "SqlValue",
    "State",
    "Step",
    "StoppedLog",
    "StoredEvent",
    "Submitted",
    "SubtreeProblem",
    "SyncReport",
    "Taken",
    "UnderPolicy",
    "UndoingRow",
    "Unenrolled",
    "UnknownEventError",
    "UnsupportedError",
    "Use",
    "Verdict",
    "Verification",
    "Verified",
    "VerifierKey",
    "VmdkDeleted",
    "Watermarks",
    "Way",
    "WebhookReceiver",
    "Who",
    "WitnessClient",
    "WitnessError",
    "__version__",
    "backend_scope",
    "check_proof",
    "default_backend",
    "default_backend_info",
    "default_backend_kind",
    "event_schema",
    "key_of",
    "new_key",
    "set_default_backend",
    "signer_of",
    "with_backend",
]

_MODULES = {
    "msb_cache.activity": ("Activity",),
    "msb_cache.async_cache": ("AsyncImageCache",),
    "msb_cache.audit.backup": ("BackupReport",),
    "msb_cache.audit.begin_anew": ("AnewReport",),
    "msb_cache.audit.checkpoints": ("Checkpoint", "Cosignature", "Signing"),
    "msb_cache.audit.data": ("DataCheck", "DataProgress", "DataRequest"),
    "msb_cache.audit.files": ("DiskProblem",),
    "msb_cache.audit.import_log": ("ImportReport",),
    "msb_cache.audit.layers": ("DifferingLayer", "LayerComparison"),
    "msb_cache.audit.notary": ("Attested", "SigningPlan"),
    "msb_cache.audit.noted": ("CheckpointProblem", "NoteCheck"),
    "msb_cache.audit.prove": ("EventProof",),
    "msb_cache.audit.replay": ("Comparison",),
    "msb_cache.audit.restore": ("RestoreReport",),
    "msb_cache.audit.schema": ("SchemaProblem",),
    "msb_cache.audit.verify": ("CopyProblem", "Verification"),
    "msb_cache.audit.witnesses": ("NotCosigned", "Submitted", "WitnessClient"),
    "msb_cache.backends": (
        "BackendInfo",
        "BackendKind",
        "BackendScope",
        "CloudBackend",
        "LocalBackend",
        "LocalBackendBuilder",
        "backend_scope",
        "default_backend",
        "default_backend_info",
        "default_backend_kind",
        "set_default_backend",
        "with_backend",
    ),
    "msb_cache.cache": ("ImageCache",),
    "msb_cache.care.disk_usage": (
        "DiskCategory",
        "DiskUsage",
        "ImageUsage",
        "LogUsage",
        "PolicyUsage",
    ),
    "msb_cache.care.doctor": ("Finding",),
    "msb_cache.care.gc": ("GcRun",),
    "msb_cache.care.metrics": (
        "CacheMetrics",
        "DeletedImages",
        "IdleTimes",
        "LastPrune",
    ),
    "msb_cache.care.recorded": ("RecordedFiles",),
    "msb_cache.care.repair": (
        "LeftFinding",
        "RepairReport",
    ),
    "msb_cache.commands.hand_over": (
        "HandedOver",
        "Reset",
    ),
    "msb_cache.commands.prune": ("Prune",),
    "msb_cache.commands.restore": (
        "RestoreResult",
        "RestoredImage",
    ),
    "msb_cache.engines.decision": (
        "DeletionProgress",
        "ImageVerdict",
        "Preview",
    ),
    "msb_cache.engines.leftovers": ("Leftover",),
    "msb_cache.eventstore.chain": (
        "Break",
        "Verified",
    ),
    "msb_cache.eventstore.events": (
        "ArtifactDeleteFailed",
        "ArtifactDeleted",
        "ArtifactDigested",
        "ArtifactKept",
        "ArtifactRepaired",
        "ClockJumped",
        "DeletionFinished",
        "DeletionStarted",
        "Event",
        "EventData",
        "FlatDeleted",
        "FlatRefDeleted",
        "FsmetaDeleted",
        "ImageConfig",
        "ImageHeld",
        "ImagePinned",
        "ImagePullFailed",
        "ImagePulled",
        "ImageReleased",
        "ImageRemoved",
        "ImageUnpinned",
        "ImageUseEnded",
        "ImageUsed",
        "Judged",
        "Layer",
        "LayerDeleted",
        "LogAcknowledged",
        "LogCreated",
        "LogRestoreConfirmed",
        "LogRestored",
        "ManifestAdded",
        "ManifestDeleted",
        "MetadataDeleted",
        "PlannedArtifact",
        "RestoreFinished",
        "RestoreStarted",
        "Restored",
        "Restoring",
        "Source",
        "VmdkDeleted",
    ),
    "msb_cache.eventstore.schema": ("event_schema",),
    "msb_cache.eventstore.store": (
        "Actor",
        "StoredEvent",
    ),
    "msb_cache.eventstore.subtrees": ("SubtreeProblem",),
    "msb_cache.fleet.archive": (
        "Archived",
        "Refolded",
    ),
    "msb_cache.fleet.admission": ("Initialised",),
    "msb_cache.fleet.enrolment": (
        "Enrolled",
        "Enrolment",
        "Unenrolled",
    ),
    "msb_cache.fleet.fleet": ("Fleet",),
    "msb_cache.fleet.fold": (
        "Folded",
        "StoppedLog",
    ),
    "msb_cache.fleet.reasons": ("HostChanges",),
    "msb_cache.fleet.servers": ("FurtherServer",),
    "msb_cache.fleet.spread": ("Spread",),
    "msb_cache.report.fleet_facts": (
        "FleetReport",
        "HostBar",
        "HostDeletion",
        "SpreadLine",
    ),
    "msb_cache.fleet.hosts": ("KnownLog", "OnHost"),
    "msb_cache.fleet.ship": ("Shipped",),
    "msb_cache.fleet.standing": ("Alert", "HostStanding"),
    "msb_cache.fleet.take": ("Taken",),
    "msb_cache.fleet.verify": (
        "Compared",
        "FleetVerified",
    ),
    "msb_cache.home.heads": (
        "HeadNote",
        "Mismatch",
    ),
    "msb_cache.home.ledger": ("Who",),
    "msb_cache.image": ("Image",),
    "msb_cache.interchange.posting": ("Posted",),
    "msb_cache.interchange.receiver": ("WebhookReceiver",),
    "msb_cache.models": (
        "HeldImage",
        "ImageArchiveFormat",
        "ImageConfigDetail",
        "ImageDetail",
        "ImageFlatDetail",
        "ImageHandle",
        "ImageLayerDetail",
        "ImagePruneReport",
        "PulledImage",
    ),
    "msb_cache.msb.sync": ("SyncReport",),
    "msb_cache.oci.registry.credentials": ("Credential",),
    "msb_cache.oci.registry.downloads": ("LayerProgress",),
    "msb_cache.oci.registry.options": ("RegistryOptions",),
    "msb_cache.projections.history": ("HistoryEvent",),
    "msb_cache.projections.images": ("Damage",),
    "msb_cache.projections.live": ("Difference",),
    "msb_cache.projections.replay": (
        "Change",
        "Divergence",
        "State",
        "Step",
    ),
    "msb_cache.projections.rows": (
        "DeletionRow",
        "DigestRow",
        "UndoingRow",
    ),
    "msb_cache.proof.key_file": ("key_of", "new_key"),
    "msb_cache.proof.inclusion": ("CheckedEvent", "check_proof"),
    "msb_cache.proof.note": ("Signature",),
    "msb_cache.proof.policy": ("Cosigned", "Judgement"),
    "msb_cache.proof.signer": ("Signer", "signer_of"),
    "msb_cache.proof.vkey": ("VerifierKey",),
    "msb_cache.queries.as_of": (
        "AsOf",
        "Changes",
        "Hold",
        "Moved",
        "Use",
    ),
    "msb_cache.queries.deletions": (
        "ArtifactReport",
        "DeletionReport",
        "DeletionSummary",
    ),
    "msb_cache.queries.events": ("Filters",),
    "msb_cache.queries.info": ("HomeInfo",),
    "msb_cache.queries.last_used": ("IdleImage",),
    "msb_cache.queries.pins": ("Pin",),
    "msb_cache.queries.policy_file": ("PolicyMistake",),
    "msb_cache.queries.restore_plan": ("LostFile", "Restoration", "RestorePlan", "Way"),
    "msb_cache.queries.sql": ("SqlRow", "SqlValue"),
    "msb_cache.queries.times": ("Moment",),
    "msb_cache.queries.why": (
        "Fate",
        "ImageReasons",
        "LayerOf",
        "LayerReasons",
        "Loss",
        "ManifestReasons",
        "Reasons",
        "Sharing",
        "UnderPolicy",
    ),
    "msb_cache.report.facts": (
        "Block",
        "CacheReport",
        "DeletionMark",
        "EventLine",
        "IdleLine",
        "ImageLife",
        "PersonLine",
        "SizePoint",
        "Span",
    ),
    "msb_cache.retention.plan": ("Plan", "Verdict"),
    "msb_cache.retention.policy": ("CachePolicy", "NamedRule", "PrunePolicy", "Watermarks"),
    "msb_cache.retention.rules": ("RuleVerdict",),
    "msb_cache.shapes": ("Result",),
    "msb_cache.waiting": ("Note",),
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
