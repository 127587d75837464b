"""The event catalogue: what can happen to a cached image, each as one frozen struct.

An event is a fact in the past tense. Its ``type`` and ``version`` stand in the log's own columns, its
fields in the ``data`` column as JSON; a field at its default is left out. What an event is about (a
reference, a digest, an operation) is its *subject* and stands in the envelope, not here.

Changing a struct's meaning needs a new ``version`` and an upcaster (see ``upcasting``): what is in a
log is never rewritten. Adding a field with a default needs neither.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

ArtifactKind = Literal["manifest", "metadata", "layer", "fsmeta", "vmdk"]
"""``manifest`` is the index record; ``metadata`` is a reference's JSON file; the rest are files."""

DeletionKind = Literal["remove", "prune"]

Engine = Literal["msb-cache", "msb"]
"""Which program deletes the files: ours, or microsandbox's own in a home that it keeps."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Base of all events."""

    type: ClassVar[str]
    version: ClassVar[int] = 1


class LogCreated(Event, frozen=True, kw_only=True):
    """The log begins. Always event 1; subject: the log id (random, 32 hexadecimal digits)."""

    type: ClassVar[str] = "log.created"
    log_id: str
    format: int


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The fields of an OCI image configuration that `inspect` shows (image-spec, config.md)."""

    env: tuple[str, ...] = ()
    cmd: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    working_dir: str | None = None
    user: str | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()


class Layer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One layer of a manifest. Sizes in bytes: ``size`` of the blob, ``erofs_size`` of the artifact."""

    diff_id: str
    blob_digest: str
    media_type: str
    size: int
    erofs_size: int | None = None


class ManifestAdded(Event, frozen=True, kw_only=True):
    """A manifest entered the index, or its files were made anew with other sizes. Subject: its digest.

    Layers run bottom to top; sizes in bytes. ``row`` identifies msb's record of it, where that was observed.
    """

    type: ClassVar[str] = "manifest.added"
    media_type: str
    config_digest: str
    architecture: str | None = None
    os: str | None = None
    variant: str | None = None
    config: ImageConfig
    layers: tuple[Layer, ...]
    fsmeta_size: int | None = None
    vmdk_size: int | None = None
    row: str | None = None


class Source(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Where an image came from: ``name`` is a registry's host, or an archive's path (``-``: stdin)."""

    kind: Literal["archive", "registry", "microsandbox"]
    name: str | None = None


class ImagePulled(Event, frozen=True, kw_only=True):
    """A reference points at a manifest. Subject: the reference. One for *every* successful pull or load.

    ``changed`` says whether the reference is new or moved; ``previous_digest`` is where it pointed.
    Sizes in bytes, ``duration_ns`` in nanoseconds. ``row`` identifies msb's record of the reference, where
    that was observed: a name that comes back under another row was removed and pulled again.
    """

    type: ClassVar[str] = "image.pulled"
    manifest_digest: str
    previous_digest: str | None = None
    changed: bool
    source: Source
    bytes_fetched: int | None = None
    bytes_reused: int | None = None
    duration_ns: int | None = None
    row: str | None = None


class ImagePullFailed(Event, frozen=True, kw_only=True):
    """A pull failed. Subject: the reference. ``reason`` carries no secret."""

    type: ClassVar[str] = "image.pull_failed"
    reason: str
    source: Source | None = None


class ImageUsed(Event, frozen=True, kw_only=True):
    """Someone booted or asked for the image. Subject: the reference."""

    type: ClassVar[str] = "image.used"
    manifest_digest: str
    holder: str | None = None


class ImageHeld(Event, frozen=True, kw_only=True):
    """A sandbox or snapshot needs the manifest from now on. Subject: the manifest's digest.

    ``row`` identifies msb's record of the hold, where that was observed.
    """

    type: ClassVar[str] = "image.held"
    holder: str
    reference: str | None = None
    row: str | None = None


class ImageReleased(Event, frozen=True, kw_only=True):
    """The holder no longer needs the manifest. Subject: the manifest's digest."""

    type: ClassVar[str] = "image.released"
    holder: str


class ImageRemoved(Event, frozen=True, kw_only=True):
    """The reference is gone. Subject: the reference."""

    type: ClassVar[str] = "image.removed"
    manifest_digest: str
    cause: Literal["remove", "prune", "external"]
    forced: bool = False


class PlannedArtifact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One thing a deletion is about to delete, and its size in bytes measured beforehand.

    ``manifests``: for a layer, how many of the manifests deleted with it had it.
    """

    kind: ArtifactKind
    subject: str
    bytes: int | None = None
    manifests: int = 1


class KeptBack(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One reference or manifest a deletion decided not to touch, and the rule that kept it.

    ``holders`` names the first of those it was kept for, ``more`` counts the others.
    """

    subject: str
    rule: str
    holders: tuple[str, ...] = ()
    more: int = 0


class DeletionStarted(Event, frozen=True, kw_only=True):
    """The decision to delete, recorded before anything is touched. Subject: the operation.

    A long list is split over ``parts`` events of the same transaction; ``part`` counts from 1. With the
    ``engine`` msb it is an intent: what leaves the index, and when, msb decides.
    """

    type: ClassVar[str] = "deletion.started"
    kind: DeletionKind
    policy: dict[str, Any]
    artifacts: tuple[PlannedArtifact, ...] = ()
    kept: tuple[KeptBack, ...] = ()
    part: int = 1
    parts: int = 1
    engine: Engine = "msb-cache"


class ArtifactDeleted(Event, frozen=True, kw_only=True):
    """Base of the deletion outcomes: that file or record is gone.

    ``bytes`` is what it measured, or None when it was never known. ``recovered`` marks a file that
    recovery found already absent; its bytes are then the planned ones.
    """

    kind: ClassVar[ArtifactKind]
    bytes: int | None = None
    recovered: bool = False


class ManifestDeleted(ArtifactDeleted, frozen=True, kw_only=True):
    """The manifest's index record is gone. Subject: its digest."""

    type: ClassVar[str] = "manifest.deleted"
    kind: ClassVar[ArtifactKind] = "manifest"


class MetadataDeleted(ArtifactDeleted, frozen=True, kw_only=True):
    """A reference's metadata file is gone. Subject: the reference, or the file's name if none is known."""

    type: ClassVar[str] = "metadata.deleted"
    kind: ClassVar[ArtifactKind] = "metadata"


class LayerDeleted(ArtifactDeleted, frozen=True, kw_only=True):
    """A layer's EROFS image is gone. Subject: its diff ID.

    ``manifests``: how many of the manifests deleted by the same operation had it.
    """

    type: ClassVar[str] = "layer.deleted"
    kind: ClassVar[ArtifactKind] = "layer"
    manifests: int = 1


class FsmetaDeleted(ArtifactDeleted, frozen=True, kw_only=True):
    """A manifest's fsmeta image is gone. Subject: the manifest's digest."""

    type: ClassVar[str] = "fsmeta.deleted"
    kind: ClassVar[ArtifactKind] = "fsmeta"


class VmdkDeleted(ArtifactDeleted, frozen=True, kw_only=True):
    """A manifest's VMDK descriptor is gone. Subject: the manifest's digest."""

    type: ClassVar[str] = "vmdk.deleted"
    kind: ClassVar[ArtifactKind] = "vmdk"


class ArtifactKept(Event, frozen=True, kw_only=True):
    """A planned artifact was not deleted after all. Subject: as for its deletion.

    ``busy``: another process had it locked; ``needed``: an image needs it; ``owned``: the home had become
    msb's; ``held``: msb found it in use, by ``holders`` if they are known; ``left``: msb took its record
    out and left the file behind.
    """

    type: ClassVar[str] = "artifact.kept"
    kind: ArtifactKind
    reason: Literal["busy", "needed", "owned", "held", "left"]
    holders: tuple[str, ...] = ()


class ArtifactDeleteFailed(Event, frozen=True, kw_only=True):
    """A planned artifact could not be deleted. Subject: as for its deletion.

    ``errno`` is the operating system's; 0: it was msb that failed, and ``reason`` is what it said.
    """

    type: ClassVar[str] = "artifact.delete_failed"
    kind: ArtifactKind
    errno: int
    reason: str


class DeletionFinished(Event, frozen=True, kw_only=True):
    """The deletion is over. Subject: the operation.

    ``completed``: everything planned is gone; ``partial``: something was kept or could not be
    deleted. ``recovered``: a later process finished what the deleting one could not.
    """

    type: ClassVar[str] = "deletion.finished"
    outcome: Literal["completed", "partial"]
    recovered: bool = False


EVENT_TYPES: tuple[type[Event], ...] = (
    LogCreated,
    ManifestAdded,
    ImagePulled,
    ImagePullFailed,
    ImageUsed,
    ImageHeld,
    ImageReleased,
    ImageRemoved,
    DeletionStarted,
    ManifestDeleted,
    MetadataDeleted,
    LayerDeleted,
    FsmetaDeleted,
    VmdkDeleted,
    ArtifactKept,
    ArtifactDeleteFailed,
    DeletionFinished,
)
