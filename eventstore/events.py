"""The event catalogue: what can happen to a cached image, each as one frozen struct.

An event is a fact in the past tense. Its ``type`` and ``version`` stand in the log's own columns, its
fields in the ``data`` column as JSON; a field at its default is left out. What an event is about (a
reference, a digest, an operation) is its *subject* and stands in the envelope; here is said which it is.

A struct is all that a new type of event needs in this room: the catalogue is made of the structs below.
Each says what its subject is (``about``) and how it is told to people (``told``). Changing a struct's
meaning needs a new ``version`` and an upcaster on the class, ``upcast_v1_v2``: what is in a log is never
rewritten. Adding a field with a default needs neither.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar, Literal, TypeAlias

import msgspec

from msb_cache.eventstore.telling import Detail, Moment, Named, Telling
from msb_cache.shapes import Result
from msb_cache.wording import duration, plural, size

ArtifactKind = Literal["manifest", "metadata", "layer", "fsmeta", "vmdk", "flat_ref", "flat"]
"""``manifest`` is the index record; ``metadata`` is a reference's JSON file; the rest are files. ``flat`` is
a flat root, and ``flat_ref`` what says that it is a manifest's."""

DeletionKind = Literal["remove", "prune"]

Engine = Literal["msb-cache", "msb"]
"""Which program deletes the files: ours, or microsandbox's own in a home that it keeps."""


About = Literal["log", "reference", "manifest", "image", "layer", "flat", "operation", "artifact"]
"""What a subject is: the log's id, a canonical reference, a manifest's digest, either of these two (an
``image``), a layer's diff ID, a flat root's digest, an operation's id. Of an ``artifact`` its kind says it:
metadata has a reference, or its file's bare name."""


class Event(Result, msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Base of all events."""

    type: ClassVar[str]
    version: ClassVar[int] = 1
    about: ClassVar[About]
    _is_plain: ClassVar[bool] = True
    in_history: ClassVar[bool] = True
    """Whether an event on a manifest is part of the histories of the references that pointed at it."""

    def told(self) -> Telling:
        """Return what happened, for people."""
        raise NotImplementedError(f"{self.type} has no words for people")

    def _shape(self) -> dict[str, Any]:
        found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return found


class LogCreated(Event, frozen=True, kw_only=True):
    """The log begins. Always event 1; subject: the log id (random, 32 hexadecimal digits).

    Of a log that was begun anew, the events up to ``previous_size`` are those of the log before, but for this
    one: ``previous_log_id`` is the id of that, ``previous_size`` its number of events and ``previous_head``
    the hash (hexadecimal) of its last one. None: it was not.
    """

    type: ClassVar[str] = "log.created"
    about: ClassVar[About] = "log"
    log_id: str
    format: int
    previous_log_id: str | None = None
    previous_size: int | None = None
    previous_head: str | None = None

    def told(self) -> Telling:
        """Return what happened, for people."""
        if self.previous_size is None:
            return Telling("log created", details=(f"format {self.format}",))
        before = f"from the {plural(self.previous_size, 'event')} of log {self.previous_log_id}"
        return Telling("log begun anew", details=(f"format {self.format}", before))


class ClockJumped(Event, frozen=True, kw_only=True):
    """The computer's clock jumped by more than an hour. Subject: the log id.

    ``back``: it is behind the time that was recorded last, or that it said then. ``forward``: it outran the
    machine's own time. Times in ns since the epoch: ``from_ns`` is what it had said or should say, ``to_ns``
    what it says, ``by_ns`` the difference. ``was_ahead``: it was wrong before, so whatever is said to have
    happened later than ``to_ns`` happened by then.
    """

    type: ClassVar[str] = "clock.jumped"
    about: ClassVar[About] = "log"
    direction: Literal["back", "forward"]
    by_ns: int
    from_ns: int
    to_ns: int
    was_ahead: bool = False

    def told(self) -> Telling:
        """Return what happened, for people."""
        before = ("it was ahead before",) if self.was_ahead else ()
        return Telling("clock jumped", details=(f"{self.direction} by {duration(self.by_ns)}", *before))


class LogRestored(Event, frozen=True, kw_only=True):
    """The log was put back to a backup: the events before this one are the backup's. Subject: the log id.

    ``backup_seq`` and ``backup_head`` (hexadecimal) are the backup's end, ``replaced_seq`` and
    ``replaced_head`` that of the log before, None where there was none or it could not be read.
    ``events_lost``: how many events of it are in the backup no more; None: it could not be read.
    """

    type: ClassVar[str] = "log.restored"
    about: ClassVar[About] = "log"
    backup_seq: int
    backup_head: str
    replaced_seq: int | None = None
    replaced_head: str | None = None
    events_lost: int | None = None

    def told(self) -> Telling:
        """Return what happened, for people."""
        if self.events_lost is None:
            lost = "what was there could not be read"
        else:
            lost = f"{plural(self.events_lost, 'event')} lost"
        return Telling("log restored", "came", (f"to a backup of {plural(self.backup_seq, 'event')}", lost))


class LogRestoreConfirmed(Event, frozen=True, kw_only=True):
    """A person has looked at what a restore left behind: orphans may go again. Subject: the log id.

    ``restored_seq`` is the position of the ``log.restored`` that is meant.
    """

    type: ClassVar[str] = "log.restore_confirmed"
    about: ClassVar[About] = "log"
    restored_seq: int

    def told(self) -> Telling:
        """Return what happened, for people."""
        return Telling("restore confirmed", details=(f"of event {self.restored_seq}",))


class LogAcknowledged(Event, frozen=True, kw_only=True):
    """A person knows that the log does not go on from what was noted of it outside. Subject: the log id.

    ``noted_log_id``, ``noted_size`` (events) and ``noted_head`` (hexadecimal) are what was noted. ``how``:
    the log was ``behind`` that, ``beside`` it, or is ``another`` one.
    """

    type: ClassVar[str] = "log.acknowledged"
    about: ClassVar[About] = "log"
    how: Literal["behind", "beside", "another"]
    noted_log_id: str
    noted_size: int
    noted_head: str

    def told(self) -> Telling:
        """Return what happened, for people."""
        how = {"behind": "put back", "beside": "put back and gone on otherwise", "another": "another one"}
        return Telling("log acknowledged", details=(how[self.how], f"{self.noted_size:,} events were noted"))


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The fields of an OCI image configuration that `inspect` shows (image-spec, config.md)."""

    env: tuple[str, ...] = ()
    cmd: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    working_dir: str | None = None
    user: str | None = None
    labels: Any = None
    """An object of texts; in a home of msb, whatever JSON its database has there."""
    stop_signal: str | None = None
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()


class Layer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One layer of a manifest. Sizes in bytes: ``size`` of the blob, ``erofs_size`` of the artifact.

    None: it is not known, as where msb's database does not say it.
    """

    diff_id: str
    blob_digest: str
    media_type: str | None = None
    size: int | None = None
    erofs_size: int | None = None


class ManifestAdded(Event, frozen=True, kw_only=True):
    """A manifest entered the index, or more or other is known of it. Subject: its digest.

    Layers run bottom to top; sizes in bytes. ``total_size`` is that of its blobs, in a home of msb as msb has
    it there: of a layer that images compress in different ways, msb knows the first blob only. ``row``
    identifies msb's record of the manifest, where that was observed. ``stored_digest`` is the SHA-256 digest
    of the manifest as msb keeps it, where that was seen: msb writes a registry's anew, in other bytes.
    """

    type: ClassVar[str] = "manifest.added"
    version: ClassVar[int] = 2
    about: ClassVar[About] = "manifest"
    in_history: ClassVar[bool] = False
    media_type: str | None = None
    config_digest: str | None = None
    architecture: str | None = None
    os: str | None = None
    variant: str | None = None
    config: ImageConfig | None = None
    layers: tuple[Layer, ...]
    total_size: int | None = None
    fsmeta_size: int | None = None
    vmdk_size: int | None = None
    row: str | None = None
    stored_digest: str | None = None

    @staticmethod
    def upcast_v1_v2(data: dict[str, Any]) -> dict[str, Any]:
        """Lift version 1: the total was the layers' sum, what was not known was empty text or 0."""
        data["total_size"] = sum(layer["size"] for layer in data["layers"])
        for name in ("media_type", "config_digest"):
            data[name] = data[name] or None
        for layer in data["layers"]:
            layer["media_type"] = layer["media_type"] or None
            if "row" in data:
                layer["size"] = layer["size"] or None
        return data

    def told(self) -> Telling:
        """Return what happened, for people."""
        platform = f"{self.os}/{self.architecture}"
        total = () if self.total_size is None else (size(self.total_size),)
        return Telling("added", "came", (platform, plural(len(self.layers), "layer"), *total))


def _as_it_is(data: dict[str, Any]) -> dict[str, Any]:
    """Lift a version that had no words for some of it; it is another, so that its readers refuse them."""
    return data


class Source(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Where an image came from: ``name`` is a registry's host, or an archive's path (``-``: stdin).

    Of the kind ``cache`` it was in the cache already, and msb came to know it.
    """

    kind: Literal["archive", "registry", "microsandbox", "cache"]
    name: str | None = None

    @property
    def place(self) -> str:
        """The source in a word: of an archive, its file's name."""
        name = self.name or self.kind
        if self.kind != "archive":
            return name
        return "stdin" if name == "-" else os.path.basename(name)


class ImagePulled(Event, frozen=True, kw_only=True):
    """A reference points at a manifest. Subject: the reference. One for *every* successful pull or load.

    ``changed`` says whether the reference is new or moved; ``previous_digest`` is where it pointed.
    Sizes in bytes, ``duration_ns`` in nanoseconds. ``spelling`` is how the reference was typed; None: in its
    familiar form. ``row`` identifies msb's record of the reference, where that was observed: there each
    spelling is an image of its own, and one that comes back under another row was removed and pulled again.

    Where msb's records leave the moment open, the pull occurred at the event's time at the earliest, and the
    reference is known to point there since ``observed_since_ns``. ``named_at_ns``: since when the name was
    there, where it came before this manifest did. Both in ns since the epoch.

    ``undoes`` is the operation of the deletion that took the image, where a restore brought it back.
    """

    type: ClassVar[str] = "image.pulled"
    version: ClassVar[int] = 2
    about: ClassVar[About] = "reference"
    upcast_v1_v2 = staticmethod(_as_it_is)
    manifest_digest: str
    previous_digest: str | None = None
    changed: bool
    source: Source
    bytes_fetched: int | None = None
    bytes_reused: int | None = None
    duration_ns: int | None = None
    row: str | None = None
    spelling: str | None = None
    named_at_ns: int | None = None
    observed_since_ns: int | None = None
    undoes: str | None = None

    def told(self) -> Telling:
        """Return what happened, for people."""
        what = {"archive": "loaded", "cache": "handed over"}.get(self.source.kind, "pulled")
        details: list[Detail] = []
        if self.observed_since_ns is not None:
            details.append(Moment("observed since", self.observed_since_ns))
        if self.previous_digest is not None:
            what = "moved"
            details.append(Named("was", self.previous_digest))
        if self.source.name:
            details.append(f"from {self.source.place}")
        if not self.changed:
            details.append("unchanged")
        elif self.bytes_fetched:
            reused = f", {size(self.bytes_reused)} reused" if self.bytes_reused else ""
            details.append(f"{size(self.bytes_fetched)} new{reused}")
        elif self.bytes_fetched == 0:
            details.append("all layers already here")
        if self.undoes is not None:
            what = "restored"
            details.insert(0, Named("after deletion", self.undoes))
        return Telling(what, "came", tuple(details))


class ImagePullFailed(Event, frozen=True, kw_only=True):
    """A pull failed. Subject: the reference. ``reason`` carries no secret.

    ``spelling`` and ``undoes`` are as of a pull.
    """

    type: ClassVar[str] = "image.pull_failed"
    version: ClassVar[int] = 2
    about: ClassVar[About] = "reference"
    upcast_v1_v2 = staticmethod(_as_it_is)
    reason: str
    spelling: str | None = None
    source: Source | None = None
    undoes: str | None = None

    def told(self) -> Telling:
        """Return what happened, for people."""
        undoing = () if self.undoes is None else (_undoing(self.undoes),)
        return Telling("pull failed", "went", (self.reason, *undoing))


class ImageUsed(Event, frozen=True, kw_only=True):
    """A program or a person asked for the image, or a sandbox booted from it. Subject: the reference.

    ``run`` identifies msb's record of a boot: the use lasts until the ``image.use_ended`` with the same run.
    ``status`` is the sandbox's when that was seen, as msb says it. ``spelling`` is how the reference was
    pulled.
    """

    type: ClassVar[str] = "image.used"
    version: ClassVar[int] = 2
    about: ClassVar[About] = "reference"
    upcast_v1_v2 = staticmethod(_as_it_is)
    manifest_digest: str
    spelling: str | None = None
    holder: str | None = None
    run: str | None = None
    status: str | None = None

    def told(self) -> Telling:
        """Return what happened, for people."""
        by = (f"by {self.holder}",) if self.holder else ()
        return Telling("used" if self.run is None else "booted", "used", (*by, *_status(self.status)))


class ImageUseEnded(Event, frozen=True, kw_only=True):
    """The use that a boot began is over. Subject: the reference, as of that ``image.used``.

    ``ended``: msb recorded the end. ``vanished``: msb's record of the run was gone, or its process, and
    nothing says since when. ``restarted``: the computer was started anew after the run began. Of these two,
    what is said to have happened had happened by then. ``status`` as for ``image.used``.
    """

    type: ClassVar[str] = "image.use_ended"
    about: ClassVar[About] = "reference"
    manifest_digest: str
    run: str
    how: Literal["ended", "vanished", "restarted"]
    holder: str | None = None
    status: str | None = None

    def told(self) -> Telling:
        """Return what happened, for people."""
        by = (f"by {self.holder}",) if self.holder else ()
        how = {
            "ended": (),
            "vanished": ("seen then, ended before",),
            "restarted": ("the computer was started anew",),
        }[self.how]
        return Telling("use ended", "used", (*by, *_status(self.status), *how))


class ImageHeld(Event, frozen=True, kw_only=True):
    """A sandbox or snapshot needs the manifest. Subject: the manifest's digest.

    ``until_ns`` is when the hold ends by itself, in ns since the epoch; None: it does not, or it is msb's.
    ``row`` identifies msb's record of the hold, where that was observed. Of a sandbox, as msb said then:
    ``status``; ``root``, the kind of its root disk where it is not the usual one, such as ``flat``; and those
    of its ``labels`` that are recorded. Of a holder that holds already, it says what of that has changed;
    None says nothing.
    """

    type: ClassVar[str] = "image.held"
    about: ClassVar[About] = "manifest"
    holder: str
    reference: str | None = None
    row: str | None = None
    status: str | None = None
    root: str | None = None
    labels: dict[str, str] | None = None
    until_ns: int | None = None

    def told(self) -> Telling:
        """Return what happened, for people."""
        root = (f"{self.root} root",) if self.root else ()
        labels = tuple(f"{key}={value}" for key, value in sorted((self.labels or {}).items()))
        said = (f"by {self.holder}", *_status(self.status), *root, *labels, *_until(self.until_ns))
        return Telling("held", "held", said)


class ImageReleased(Event, frozen=True, kw_only=True):
    """The holder no longer needs the manifest. Subject: the manifest's digest."""

    type: ClassVar[str] = "image.released"
    about: ClassVar[About] = "manifest"
    holder: str

    def told(self) -> Telling:
        """Return what happened, for people."""
        return Telling("released", "held", (f"by {self.holder}",))


class ImagePinned(Event, frozen=True, kw_only=True):
    """A person keeps an image. Subject: a reference, wherever it points, or a manifest's digest.

    It lasts until ``until_ns`` (ns since the epoch; None: it does not end by itself) or ``image.unpinned``,
    and survives the image. A pin of what is pinned already replaces that pin. ``spelling`` is how the
    reference was typed; None: in its familiar form. Who keeps it, and why, says the actor.
    """

    type: ClassVar[str] = "image.pinned"
    about: ClassVar[About] = "image"
    until_ns: int | None = None
    spelling: str | None = None

    def told(self) -> Telling:
        """Return what happened, for people."""
        return Telling("pinned", "held", _until(self.until_ns))


class ImageUnpinned(Event, frozen=True, kw_only=True):
    """A person keeps it no longer. Subject: as for ``image.pinned``, and ``spelling`` too."""

    type: ClassVar[str] = "image.unpinned"
    about: ClassVar[About] = "image"
    spelling: str | None = None

    def told(self) -> Telling:
        """Return what happened, for people."""
        return Telling("unpinned", "held")


class ImageRemoved(Event, frozen=True, kw_only=True):
    """The reference is gone. Subject: the reference; ``spelling`` is how that was pulled."""

    type: ClassVar[str] = "image.removed"
    version: ClassVar[int] = 2
    about: ClassVar[About] = "reference"
    upcast_v1_v2 = staticmethod(_as_it_is)
    manifest_digest: str
    spelling: str | None = None
    cause: Literal["remove", "prune", "external"]
    forced: bool = False

    def told(self) -> Telling:
        """Return what happened, for people."""
        by = {"remove": (), "prune": ("by a prune",), "external": ("by another program",)}[self.cause]
        return Telling("removed", "went", ("forced while held or pinned",) if self.forced else by)


class PlannedArtifact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One thing a deletion is about to delete, and its size in bytes measured beforehand.

    ``manifests``: for a layer, how many of the manifests deleted with it had it. ``manifest_digest``: for a
    flat root, the manifest that it is the root of, where that is known. ``own``: in a home that msb keeps it
    is of an image that msb does not know, so msb-cache deletes it. ``spellings``: for metadata in a home of
    msb, which spellings of its reference go; the file goes with the last one that there is.
    """

    kind: ArtifactKind
    subject: str
    bytes: int | None = None
    manifests: int = 1
    manifest_digest: str | None = None
    own: bool = False
    spellings: tuple[str, ...] = ()


class Judged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One reference or manifest that a deletion considered, and the rule that decided.

    ``spelling`` is how the reference was typed; None: in its familiar form.
    ``holders`` names the first of those it was kept for, or who pinned it; ``more`` counts the others.

    What the rules of a policy looked at, where there was one: for how long it was idle (``idle_ns``; None: it
    was in use) and how long it had been what it is (``age_ns``), its place among the manifests of its
    repository, the most recent being 1 (``rank``), and when its pin ends (``until_ns``, ns since the epoch).
    ``policy_rule`` is the name of the policy file's rule that decided, where it was by one.
    """

    subject: str
    spelling: str | None = None
    rule: str
    holders: tuple[str, ...] = ()
    more: int = 0
    idle_ns: int | None = None
    age_ns: int | None = None
    rank: int | None = None
    until_ns: int | None = None
    policy_rule: str | None = None


class DeletionStarted(Event, frozen=True, kw_only=True):
    """The decision to delete, recorded before anything is touched. Subject: the operation.

    A long list is split over ``parts`` events of the same transaction; ``part`` counts from 1. With the
    ``engine`` msb it is an intent: what leaves the index, and when, msb decides. ``policy`` is as it was
    given; with rules, ``going`` says of each image that goes which one decided, as ``kept`` of those that
    stay.
    """

    type: ClassVar[str] = "deletion.started"
    about: ClassVar[About] = "operation"
    kind: DeletionKind
    policy: dict[str, Any]
    artifacts: tuple[PlannedArtifact, ...] = ()
    kept: tuple[Judged, ...] = ()
    going: tuple[Judged, ...] = ()
    part: int = 1
    parts: int = 1
    engine: Engine = "msb-cache"

    def told(self) -> Telling:
        """Return what happened, for people."""
        part = (f"part {self.part} of {self.parts}",) if self.parts > 1 else ()
        planned = f"{self.kind}: {plural(len(self.artifacts), 'artifact')}"
        return Telling("decided", "went", (planned, f"{len(self.kept)} kept back", *part))


class ArtifactDeleted(Event, frozen=True, kw_only=True):
    """Base of the deletion outcomes: that file or record is gone.

    ``bytes`` is what it measured, or None when it was never known. ``recovered`` marks a file that
    recovery found already absent; its bytes are then the planned ones. ``needed``: an image in the index
    needs the file still, and is damaged without it until it is made anew.
    """

    kind: ClassVar[ArtifactKind]
    bytes: int | None = None
    recovered: bool = False
    needed: bool = False

    def told(self) -> Telling:
        """Return what happened, for people."""
        details = [] if self.bytes is None else [f"{size(self.bytes)} freed"]
        if self.recovered:
            details.append("found gone while recovering")
        if self.needed:
            details.append("and needed still")
        return Telling(f"{_words(self.kind)} deleted", "went", tuple(details))


class ManifestDeleted(ArtifactDeleted, frozen=True, kw_only=True):
    """The manifest's index record is gone. Subject: its digest."""

    type: ClassVar[str] = "manifest.deleted"
    about: ClassVar[About] = "manifest"
    kind: ClassVar[ArtifactKind] = "manifest"


class MetadataDeleted(ArtifactDeleted, frozen=True, kw_only=True):
    """A reference's metadata file is gone. Subject: the reference, or the file's name if none is known."""

    type: ClassVar[str] = "metadata.deleted"
    about: ClassVar[About] = "artifact"
    kind: ClassVar[ArtifactKind] = "metadata"


class LayerDeleted(ArtifactDeleted, frozen=True, kw_only=True):
    """A layer's EROFS image is gone. Subject: its diff ID.

    ``manifests``: how many of the manifests deleted by the same operation had it.
    """

    type: ClassVar[str] = "layer.deleted"
    about: ClassVar[About] = "layer"
    kind: ClassVar[ArtifactKind] = "layer"
    manifests: int = 1


class FsmetaDeleted(ArtifactDeleted, frozen=True, kw_only=True):
    """A manifest's fsmeta image is gone. Subject: the manifest's digest."""

    type: ClassVar[str] = "fsmeta.deleted"
    about: ClassVar[About] = "manifest"
    kind: ClassVar[ArtifactKind] = "fsmeta"


class VmdkDeleted(ArtifactDeleted, frozen=True, kw_only=True):
    """A manifest's VMDK descriptor is gone. Subject: the manifest's digest."""

    type: ClassVar[str] = "vmdk.deleted"
    about: ClassVar[About] = "manifest"
    kind: ClassVar[ArtifactKind] = "vmdk"


class FlatRefDeleted(ArtifactDeleted, frozen=True, kw_only=True):
    """What named a manifest's flat root is gone. Subject: the manifest's digest."""

    type: ClassVar[str] = "flat_ref.deleted"
    about: ClassVar[About] = "manifest"
    kind: ClassVar[ArtifactKind] = "flat_ref"


class FlatDeleted(ArtifactDeleted, frozen=True, kw_only=True):
    """A flat root is gone. Subject: its digest. ``bytes`` is what it took of the disk: it has holes.

    ``manifest_digest`` is the manifest that it was the root of, None where that is not known.
    """

    type: ClassVar[str] = "flat.deleted"
    about: ClassVar[About] = "flat"
    kind: ClassVar[ArtifactKind] = "flat"
    manifest_digest: str | None = None


class ArtifactDigested(Event, frozen=True, kw_only=True):
    """The bytes of an artifact are known from now on, by their digest. Subject: as for its deletion.

    ``digest`` is ``sha256:…``, by ``algorithm``: of all bytes, or the fs-verity digest of blocks of 4096
    bytes without a salt. ``made``: msb-cache wrote the file and digested what it wrote. ``seen``: the file
    was there already, so the digest says nothing of what its bytes were before.
    """

    type: ClassVar[str] = "artifact.digested"
    about: ClassVar[About] = "artifact"
    in_history: ClassVar[bool] = False
    kind: ArtifactKind
    algorithm: Literal["fs-verity", "sha256"]
    digest: str
    how: Literal["made", "seen"]

    def told(self) -> Telling:
        """Return what happened, for people."""
        how = {"made": "as made", "seen": "as first seen"}[self.how]
        digest = Named(self.algorithm, self.digest)
        return Telling("digested", details=(_words(self.kind), digest, how))


class ArtifactRepaired(Event, frozen=True, kw_only=True):
    """A file that an image needs was not as it must be, and is anew. Subject: as for its deletion.

    ``digest`` is that of its bytes now, by ``algorithm`` (as in ``artifact.digested``); ``problem`` is what
    was wrong with it. ``how``: ``made`` from what else is in the cache, or ``pulled`` from where the image
    came, by the manifest's digest or by msb. ``differs``: the log knew the digest of what msb-cache had
    made before, and this is another.
    """

    type: ClassVar[str] = "artifact.repaired"
    about: ClassVar[About] = "artifact"
    kind: ArtifactKind
    algorithm: Literal["fs-verity", "sha256"]
    digest: str
    problem: Literal["missing", "size", "damaged", "other", "moved", "altered"]
    how: Literal["made", "pulled"]
    differs: bool = False

    def told(self) -> Telling:
        """Return what happened, for people."""
        before = {"missing": "was missing", "size": "had another size", "other": "was not that of its image"}
        how = {"made": "made from what is here", "pulled": "pulled"}[self.how]
        details = [_words(self.kind), before.get(self.problem, f"was {self.problem}"), how]
        if self.differs:
            details.append("not as it was made before")
        return Telling("repaired", details=tuple(details))


class ArtifactKept(Event, frozen=True, kw_only=True):
    """A planned artifact was not deleted after all. Subject: as for its deletion.

    ``busy``: another process had it locked; ``needed``: an image needs it; ``owned``: the home had become
    msb's; ``held``: msb found it in use, by ``holders`` if they are known; ``left``: msb took its record
    out and left the file behind; ``spelled``: all went that was to go, and other spellings of the reference
    need its metadata.
    """

    type: ClassVar[str] = "artifact.kept"
    version: ClassVar[int] = 2
    about: ClassVar[About] = "artifact"
    upcast_v1_v2 = staticmethod(_as_it_is)
    kind: ArtifactKind
    reason: Literal["busy", "needed", "owned", "held", "left", "spelled"]
    holders: tuple[str, ...] = ()

    def told(self) -> Telling:
        """Return what happened, for people."""
        reason = {
            "busy": "another process works with it",
            "needed": "an image needs it",
            "owned": "the home had become msb's",
            "held": "in use",
            "left": "msb left it behind",
            "spelled": "other spellings need it",
        }[self.reason]
        by = f" by {', '.join(self.holders)}" if self.holders else ""
        return Telling(f"{_words(self.kind)} kept", "held", (f"{reason}{by}",))


class ArtifactDeleteFailed(Event, frozen=True, kw_only=True):
    """A planned artifact could not be deleted. Subject: as for its deletion.

    ``errno`` is the operating system's; 0: it was msb that failed, and ``reason`` is what it said.
    """

    type: ClassVar[str] = "artifact.delete_failed"
    about: ClassVar[About] = "artifact"
    kind: ArtifactKind
    errno: int
    reason: str

    def told(self) -> Telling:
        """Return what happened, for people."""
        return Telling(f"{_words(self.kind)} stuck", "went", (self.reason,))


class DeletionFinished(Event, frozen=True, kw_only=True):
    """The deletion is over. Subject: the operation.

    ``completed``: everything planned is gone; ``partial``: something was kept or could not be
    deleted. ``recovered``: a later process finished what the deleting one could not.
    """

    type: ClassVar[str] = "deletion.finished"
    about: ClassVar[About] = "operation"
    outcome: Literal["completed", "partial"]
    recovered: bool = False

    def told(self) -> Telling:
        """Return what happened, for people."""
        return Telling("finished", "went", (self.outcome, *(("by recovery",) if self.recovered else ())))


class Restoring(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One image that a restore is about to bring back.

    ``reference`` is what the deletion took, as it was typed; None: a manifest that had none. It is pulled
    from the registry ``place``, or loaded from the archive at that path. ``name`` is what will point at it,
    where that is not the reference: another image has that by now, or it had none.
    """

    reference: str | None = None
    manifest_digest: str
    how: Literal["pull", "load"]
    place: str
    name: str | None = None


class RestoreStarted(Event, frozen=True, kw_only=True):
    """A restore is about to bring back what a deletion took. Subject: the restore's operation.

    ``undoes`` is the deletion's operation. A long list of images is split over ``parts`` events of the same
    transaction; ``part`` counts from 1.
    """

    type: ClassVar[str] = "restore.started"
    about: ClassVar[About] = "operation"
    undoes: str
    images: tuple[Restoring, ...] = ()
    part: int = 1
    parts: int = 1

    def told(self) -> Telling:
        """Return what happened, for people."""
        part = (f"part {self.part} of {self.parts}",) if self.parts > 1 else ()
        return Telling(
            "restore began", "came", (plural(len(self.images), "image"), _undoing(self.undoes), *part)
        )


class Restored(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What became of one image that a restore was to bring back.

    ``restored``: ``name`` points at it. ``failed``: ``reason`` says why, without secrets. ``untried``: the
    restore ended before it came to it. ``reference`` as of ``restore.started``.
    """

    reference: str | None = None
    manifest_digest: str
    outcome: Literal["restored", "failed", "untried"]
    name: str | None = None
    reason: str | None = None


class RestoreFinished(Event, frozen=True, kw_only=True):
    """A restore is over. Subject: its operation.

    ``completed``: all that it was to bring back is back; ``partial``: some; ``failed``: none;
    ``interrupted``: it was stopped, or its process ended before it was through, which a later process says
    (``recovered``). ``restored`` counts the images that came back, of ``wanted``. ``images`` says what became
    of each, what is not back first; ``more`` counts those that are left out of a long list.
    """

    type: ClassVar[str] = "restore.finished"
    about: ClassVar[About] = "operation"
    outcome: Literal["completed", "partial", "failed", "interrupted"]
    undoes: str
    wanted: int
    restored: int
    images: tuple[Restored, ...] = ()
    more: int = 0
    recovered: bool = False

    def told(self) -> Telling:
        """Return what happened, for people."""
        of = f"{self.restored:,} of {plural(self.wanted, 'image')}"
        recovered = ("found by recovery",) if self.recovered else ()
        return Telling("restore ended", "came", (self.outcome, of, _undoing(self.undoes), *recovered))


def _undoing(operation: str) -> Named:
    return Named("undoes", operation)


def _words(kind: ArtifactKind) -> str:
    return {"flat_ref": "flat ref", "flat": "flat root"}.get(kind, kind)


def _until(until_ns: int | None) -> tuple[Moment, ...]:
    return () if until_ns is None else (Moment("until", until_ns),)


def _status(status: str | None) -> tuple[str, ...]:
    return () if status is None else (status.lower(),)


EventData: TypeAlias = (
    LogCreated
    | ClockJumped
    | LogRestored
    | LogRestoreConfirmed
    | LogAcknowledged
    | ManifestAdded
    | ImagePulled
    | ImagePullFailed
    | ImageUsed
    | ImageUseEnded
    | ImageHeld
    | ImageReleased
    | ImagePinned
    | ImageUnpinned
    | ImageRemoved
    | DeletionStarted
    | ManifestDeleted
    | MetadataDeleted
    | LayerDeleted
    | FsmetaDeleted
    | VmdkDeleted
    | FlatRefDeleted
    | FlatDeleted
    | ArtifactDigested
    | ArtifactRepaired
    | ArtifactKept
    | ArtifactDeleteFailed
    | DeletionFinished
    | RestoreStarted
    | RestoreFinished
)
"""What a stored event says: one of these, so that ``match`` tells them apart for a type checker."""

EVENT_TYPES: tuple[type[Event], ...] = tuple(
    each
    for each in globals().copy().values()
    if isinstance(each, type) and issubclass(each, Event) and "type" in vars(each)
)
"""All types of events, in the order in which they stand here."""

OUTCOMES: dict[str, type[ArtifactDeleted]] = {
    each.kind: each for each in EVENT_TYPES if issubclass(each, ArtifactDeleted)
}
"""The event that says that an artifact of a kind is gone, by the kind."""
