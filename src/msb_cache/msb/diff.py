"""What changed in a home that msb writes: the difference between its index and ours, as events.

Pure: no database, no clock; what lies on disk is asked of a function. Appending the result and comparing
again finds nothing. What msb's index does not know, and never did, is left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.clock import HOUR
from msb_cache.eventstore.store import NewEvent
from msb_cache.msb.boots import FateOf, Happened, as_msb_says, boots
from msb_cache.msb.database import MAX_LABELS, MsbHold, MsbImage, MsbManifest, MsbState
from msb_cache.msb.runs import MsbRuns
from msb_cache.msb.stored import Look, Stored
from msb_cache.projections.known import Known, KnownHold, KnownImage, KnownManifest

Measure = Callable[[str, str], int | None]
"""For an artifact's kind and subject, the size of its file in bytes; None when there is none."""

_SOURCE = ev.Source(kind="microsandbox")
_LATE = 2**63
_MAX_NS = _LATE - 1
_MOMENT = 10**9
"""Nanoseconds within which msb brings a manifest, and points a name at it."""
_PULL_TAKES = 600 * 10**9
"""Nanoseconds between the metadata file of a pull and the record of the reference, at the most."""
_PULLED, _HELD, _USED, _BOOTED = range(4)


class Differences(NamedTuple):
    """What happened, and the deletions of files whose records are gone and which are still there."""

    events: list[NewEvent]
    leftovers: list[NewEvent]


def differences(
    ours: Known,
    theirs: MsbState,
    measure: Measure,
    look: Look,
    now_ns: int,
    *,
    fate: FateOf = as_msb_says,
    recorded: Container[str] = (),
    labels: Collection[str] = (),
) -> Differences:
    """Compare our index with msb's.

    Args:
        ours: what the log knows.
        theirs: what msb's database says.
        measure: which artifact files there are, and their sizes.
        look: what metadata files have.
        now_ns: the time now, in ns since the epoch. What msb says happened more than an hour later was
            written by a clock that was ahead: it happened by now, and tells of no use.
        fate: what became of the boots that msb says are open.
        recorded: boots that the log has already, whatever msb's database says of how far it was looked at.
        labels: the keys of the labels that msb was asked for.

    Returns:
        The events to append, in an order that follows only from the arguments: what ended, then the new
        manifests, then what began, by the time at which it did. msb deletes records first and files
        afterwards; deletions of files that are still there are returned apart.
    """
    gone = _gone_manifests(ours, theirs)
    file_events = list(_files(ours, theirs, gone))
    ended = [*_released(ours, theirs), *_removed(ours, theirs)]
    ended += [NewEvent(ev.ManifestDeleted(), digest) for digest in gone]
    ended += _damage(ours, theirs, gone, measure)
    leftovers: list[NewEvent] = []
    for event in file_events:
        (leftovers if _there(event, measure) else ended).append(event)
    latest = _latest(now_ns)
    booted = [] if theirs.runs is None else [*_boots(ours, theirs, theirs.runs, fate, recorded)]
    begun = _begun(ours, theirs, now_ns, booted, labels)
    new = [*_added(ours, theirs, measure, _Seen(theirs, look, begun)), *begun]
    for place, event in enumerate(new):
        if event.occurred_at_ns is not None and event.occurred_at_ns > latest:
            new[place] = NewEvent(event.event, event.subject)
    return Differences([*ended, *new], leftovers)


def _released(ours: Known, theirs: MsbState) -> Iterator[NewEvent]:
    for digest, holder in sorted(ours.holds):
        row = ours.holds[digest, holder].row
        if row is None or holder.partition(":")[0] not in theirs.holder_kinds:
            continue
        now = theirs.holds.get((digest, holder))
        if now is None or now.row != row:
            yield NewEvent(ev.ImageReleased(holder=holder), digest)


def _removed(ours: Known, theirs: MsbState) -> Iterator[NewEvent]:
    rows = {image.row for image in theirs.images.values()}
    for name, image in sorted(ours.images.items()):
        if image.row is not None and image.row not in rows:
            removed = ev.ImageRemoved(manifest_digest=image.manifest_digest, spelling=name, cause="external")
            yield NewEvent(removed, image.reference)


def _known(ours: Known, image: MsbImage) -> KnownImage | None:
    """Return what is known of an image of msb: the same record, or an image of ours that it takes over."""
    known = ours.images.get(image.typed)
    if known is not None and known.row in (None, image.row):
        return known
    # Of one that came here before msb, and of one that was seen before spellings were recorded, the name is
    # the canonical reference.
    known = ours.images.get(image.reference)
    return known if known is not None and known.row in (None, image.row) else None


def _gone_manifests(ours: Known, theirs: MsbState) -> list[str]:
    taken_over = {image.reference for image in theirs.images.values()}
    kept = {
        image.manifest_digest
        for image in ours.images.values()
        if image.row is None and image.reference not in taken_over  # ours alone
    }
    return sorted(
        digest
        for digest, manifest in ours.manifests.items()
        if manifest.row is not None and digest not in kept and not _same_manifest(manifest, theirs, digest)
    )


def _same_manifest(manifest: KnownManifest, theirs: MsbState, digest: str) -> bool:
    now = theirs.manifests.get(digest)
    return now is not None and now.row == manifest.row


def _files(ours: Known, theirs: MsbState, gone: Sequence[str]) -> Iterator[NewEvent]:
    """Yield the deletions of the files of gone manifests, and of layers that nothing else has.

    Only of files that were there when the manifest entered the index: their size is known.
    """
    for digest in gone:
        manifest = ours.manifests[digest]
        if digest in theirs.manifests:
            continue  # it came back
        if manifest.vmdk_bytes is not None:
            yield NewEvent(ev.VmdkDeleted(bytes=manifest.vmdk_bytes), digest)
        if manifest.fsmeta_bytes is not None:
            yield NewEvent(ev.FsmetaDeleted(bytes=manifest.fsmeta_bytes), digest)
    needed = {layer.diff_id for manifest in theirs.manifests.values() for layer in manifest.layers}
    gone_set = set(gone)
    for digest, manifest in ours.manifests.items():
        if digest not in gone_set:
            needed.update(manifest.layers)
    had = Counter(diff_id for digest in gone for diff_id in set(ours.manifests[digest].layers))
    for diff_id in sorted(had.keys() - needed):
        size = ours.layers.get(diff_id)
        if size is not None:
            yield NewEvent(ev.LayerDeleted(bytes=size, manifests=had[diff_id]), diff_id)


def _damage(ours: Known, theirs: MsbState, gone: Sequence[str], measure: Measure) -> Iterator[NewEvent]:
    """Yield the deletions of files that images need which msb does not know: it deleted them with others.

    Only of files whose size is known, for the others may never have been there.
    """
    staying = ours.manifests.keys() - theirs.manifests.keys() - set(gone)
    seen = set(ours.damage)
    for digest in sorted(staying):
        manifest = ours.manifests[digest]
        needed: list[tuple[type[ev.ArtifactDeleted], str, int | None]] = [
            (ev.VmdkDeleted, digest, manifest.vmdk_bytes),
            (ev.FsmetaDeleted, digest, manifest.fsmeta_bytes),
        ]
        needed += [(ev.LayerDeleted, diff_id, ours.layers.get(diff_id)) for diff_id in manifest.layers]
        for event, subject, size in needed:
            found = (event.kind, subject)
            if size is not None and found not in seen and measure(*found) is None:
                seen.add(found)
                yield NewEvent(event(bytes=size, needed=True), subject)


def _there(event: NewEvent, measure: Measure) -> bool:
    deleted = event.event
    return isinstance(deleted, ev.ArtifactDeleted) and measure(deleted.kind, event.subject) is not None


class _Seen:
    """What metadata files tell of manifests.

    Args:
        theirs, look: as for ``differences``.
        begun: what happened to references now.
    """

    def __init__(self, theirs: MsbState, look: Look, begun: Sequence[NewEvent]) -> None:
        self._look = look
        self._images = theirs.images
        self._pulled = {event.subject for event in begun if isinstance(event.event, ev.ImagePulled)}
        used = {event.subject for event in begun if isinstance(event.event, ev.ImageUsed)}
        changed = self._pulled | used
        self.busy = {image.manifest_digest for image in theirs.images.values() if image.reference in changed}
        """The manifests to whose references something happened."""

    def new(self, manifest: MsbManifest, before: str | None) -> Stored | None:
        """Return what is seen of a manifest for the first time; ``before``: the digest of how it was kept.

        What another digest has now is believed only of a file that came with a pull: else it was changed. One
        that proves itself needs no record, so of two the other is returned.
        """
        seen = [
            stored
            for image, stored in self._files(manifest)
            if before is None or image.reference in self._pulled or _came_with(stored, image)
        ]
        seen = [stored for stored in seen if before is None or stored.digest not in (before, manifest.digest)]
        return max(seen, key=lambda stored: stored.digest != manifest.digest, default=None)

    def again(self, manifest: MsbManifest, before: str | None) -> Stored | None:
        """Return what was seen of a manifest before, if it still is there."""
        return next((stored for _, stored in self._files(manifest) if stored.digest == before), None)

    @cached_property
    def _references(self) -> dict[str, list[MsbImage]]:
        found: dict[str, list[MsbImage]] = {}
        for image in self._images.values():
            found.setdefault(image.manifest_digest, []).append(image)
        return found

    def _files(self, manifest: MsbManifest) -> Iterator[tuple[MsbImage, Stored]]:
        for image in self._references.get(manifest.digest, ()):
            stored = self._look(image.reference)
            if stored is not None and _fits(stored, manifest):
                yield image, stored


def _fits(stored: Stored, manifest: MsbManifest) -> bool:
    return (
        stored.manifest_digest == manifest.digest
        and stored.config_digest == (manifest.config_digest or stored.config_digest)
        and stored.diff_ids == tuple(layer.diff_id for layer in manifest.layers)
    )


def _came_with(stored: Stored, image: MsbImage) -> bool:
    """Whether the file was written when msb last updated the reference; a use alone writes none."""
    updated = image.updated_at_ns
    return updated is not None and updated - _PULL_TAKES <= stored.written_at_ns <= updated


def _added(ours: Known, theirs: MsbState, measure: Measure, seen: _Seen) -> list[NewEvent]:
    new: list[tuple[MsbManifest, Stored | None, str | None]] = []
    for digest, manifest in theirs.manifests.items():
        known = ours.manifests.get(digest)
        if known is not None and known.row != manifest.row:
            known = None
        before = None if known is None else known.stored_digest
        stored = seen.new(manifest, before) if before is None or digest in seen.busy else None
        if (
            known is None
            or known.size_bytes != manifest.total_size
            or known.has_config != (manifest.config is not None)
            or stored is not None
            or _has_come(known, digest, measure)
            or any(diff_id not in ours.layers for diff_id in known.layers)
        ):
            stored = stored or seen.again(manifest, before)
            new.append((manifest, stored, before if stored is None else stored.digest))
    new.sort(key=lambda added: (_or_late(added[0].created_at_ns), added[0].digest))
    sizes: dict[str, int | None] = {}
    return [_manifest_added(*added, measure, sizes) for added in new]


def _has_come(known: KnownManifest, digest: str, measure: Measure) -> bool:
    """Whether a file is there that was not when the manifest came, as of an image that was pulled flat."""
    return any(
        size is None and measure(kind, digest) is not None
        for kind, size in (("fsmeta", known.fsmeta_bytes), ("vmdk", known.vmdk_bytes))
    )


def _manifest_added(
    manifest: MsbManifest,
    stored: Stored | None,
    stored_digest: str | None,
    measure: Measure,
    sizes: dict[str, int | None],
) -> NewEvent:
    layers = []
    for layer in manifest.layers:
        if layer.diff_id not in sizes:  # many images have the same
            sizes[layer.diff_id] = measure("layer", layer.diff_id)
        layers.append(
            ev.Layer(
                diff_id=layer.diff_id,
                blob_digest=layer.blob_digest,
                media_type=layer.media_type,
                size=layer.size,
                erofs_size=sizes[layer.diff_id],
            )
        )
    config = manifest.config
    if config is not None and stored is not None and config.stop_signal is None:
        config = replace(config, stop_signal=stored.stop_signal)
    added = ev.ManifestAdded(
        media_type=manifest.media_type,
        config_digest=manifest.config_digest,
        architecture=manifest.architecture,
        os=manifest.os,
        variant=manifest.variant,
        config=config,
        layers=tuple(layers),
        total_size=manifest.total_size,
        fsmeta_size=measure("fsmeta", manifest.digest),
        vmdk_size=measure("vmdk", manifest.digest),
        row=manifest.row,
        stored_digest=stored_digest,
    )
    return NewEvent(added, manifest.digest, manifest.created_at_ns)


def _boots(
    ours: Known, theirs: MsbState, runs: MsbRuns, fate: FateOf, recorded: Container[str]
) -> Iterator[Happened]:
    names: dict[str, tuple[str, str]] = {}
    for images in (ours.images, theirs.images):
        for name in sorted(images, reverse=True):
            names[images[name].manifest_digest] = images[name].reference, name
    return boots(runs, theirs.sandboxes, ours.uses, recorded=recorded, names=names, fate=fate)


def _begun(
    ours: Known, theirs: MsbState, now_ns: int, booted: Sequence[Happened], labels: Collection[str]
) -> list[NewEvent]:
    """Return pulls, holds, uses and their ends by the time at which they happened."""
    latest = _latest(now_ns)
    found: list[tuple[int, int, str, NewEvent]] = []

    def happened(order: int, event: NewEvent) -> None:
        found.append((_or_late(event.occurred_at_ns), order, event.subject, event))

    last_used: dict[str, int] = {}
    for name, image in theirs.images.items():
        known = _known(ours, image)
        renamed = known is not None and name not in ours.images
        pulled = _pulled(known, image, _times(image, theirs, now_ns, latest), renamed=renamed)
        if pulled is not None:
            happened(_PULLED, pulled)
        times = [] if pulled is None else [pulled.occurred_at_ns]
        if known is not None and known.last_used_at <= latest:
            times.append(known.last_used_at)
        last_used[name] = max((time for time in times if time is not None), default=0)
    began: set[str] = set()
    last_of: dict[str, int] = {}
    for number, (_, boot) in enumerate(booted):
        data, time = boot.event, boot.occurred_at_ns
        last_of[_holder(boot)] = number
        if isinstance(data, ev.ImageUsed):
            began.add(_holder(boot))
            now = theirs.images.get(_spelling(boot))
            if now is not None and now.manifest_digest == data.manifest_digest and (time or 0) <= latest:
                last_used[now.typed] = max(last_used[now.typed], time or 0)
    said_by_boots: dict[int, str | None] = {}
    for (digest, holder), hold in theirs.holds.items():
        known_hold = ours.holds.get((digest, holder))
        if known_hold is not None and known_hold.row == hold.row:
            changed = _changed(known_hold, hold, labels)
            if changed is None:
                continue
            if holder in last_of and changed == ev.ImageHeld(holder=holder, status=changed.status):
                said_by_boots[last_of[holder]] = changed.status
            else:
                happened(_HELD, NewEvent(changed, digest))
            continue
        held = ev.ImageHeld(
            holder=holder,
            reference=hold.reference,
            row=hold.row,
            status=hold.status,
            root=hold.root,
            labels=dict(hold.labels) or None,
        )
        happened(_HELD, NewEvent(held, digest, hold.created_at_ns))
        used = None if holder in began else _used_by(hold, theirs.images)
        if used is not None:
            happened(_USED, used)
            name = _spelling(used)
            last_used[name] = max(last_used[name], used.occurred_at_ns or 0)
    for name, image in theirs.images.items():
        updated = image.updated_at_ns
        if updated is not None and last_used[name] < updated <= latest:
            recent = ev.ImageUsed(manifest_digest=image.manifest_digest, spelling=name)
            happened(_USED, NewEvent(recent, image.reference, updated))
    found.sort(key=lambda entry: (entry[:3], _spelling(entry[3]), _holder(entry[3]), _manifest(entry[3])))
    for number, (at, boot) in enumerate(booted):
        data = boot.event
        if number in said_by_boots and isinstance(data, ev.ImageUsed | ev.ImageUseEnded):
            data = replace(data, status=said_by_boots[number])
        found.append((at, _BOOTED, "", NewEvent(data, boot.subject, boot.occurred_at_ns)))
    found.sort(key=lambda entry: entry[:2])  # of boots at one time the order is theirs
    return [event for *_, event in found]


def _changed(known: KnownHold, hold: MsbHold, labels: Collection[str]) -> ev.ImageHeld | None:
    """Return what of a sandbox is other than recorded; labels that were not asked for stay as they are."""
    recorded = {} if known.labels is None else msgspec.json.decode(known.labels, type=dict[str, str])
    now = {key: value for key, value in recorded.items() if key not in labels} | dict(hold.labels)
    now = dict(sorted(now.items())[:MAX_LABELS])
    status = None if hold.status == known.status else hold.status
    root = None if hold.root == known.root else hold.root
    if status is root is None and now == recorded:
        return None
    return ev.ImageHeld(holder=hold.holder, status=status, root=root, labels=None if now == recorded else now)


class _Times(NamedTuple):
    """What msb has of a reference's times, as far as they are no later than now.

    ``named``: when the name came. ``arrived``: when the manifest that it points at now did. ``updated``: when
    the name was last pulled or used, and so pointed there.
    """

    named: int | None
    arrived: int | None
    updated: int | None
    now: int

    def first_pull(self) -> tuple[int | None, int | None, int | None]:
        """Return when the pull occurred at the earliest; since when the name is there, if longer; and since
        when the name is known to point there, if that is later.

        Where the name pointed before ``updated``, msb does not keep.
        """
        if self.named is None:
            return self.updated, None, None
        since = self.now if self.updated is None else self.updated
        if self.arrived is None or not self.named < self.arrived <= since:
            return self.named, None, since if since - self.named >= _MOMENT else None
        if since - self.arrived >= _MOMENT:
            return self.arrived, self.named, since
        return since, self.named, None  # it was pulled to point the name there


def _times(image: MsbImage, theirs: MsbState, now_ns: int, latest: int) -> _Times:
    def past(time: int | None) -> int | None:
        return None if time is None or time > latest else time

    arrived = theirs.manifests[image.manifest_digest].created_at_ns
    return _Times(past(image.created_at_ns), past(arrived), past(image.updated_at_ns), now_ns)


def _pulled(known: KnownImage | None, image: MsbImage, times: _Times, *, renamed: bool) -> NewEvent | None:
    """Return the pull that explains how the image came to be as it is; None if nothing changed.

    ``renamed``: it is known under another name than its spelling, and is to have that.
    """
    occurred, named, since = times.first_pull()
    previous = None
    if known is not None:
        if known.manifest_digest != image.manifest_digest:
            previous = known.manifest_digest
            if known.row is not None:  # where it pointed before is known
                named = since = None
                occurred = times.named if times.updated is None else times.updated
        elif known.row is not None and not renamed:
            return None
        changed = previous is not None
    else:
        changed = True
    pulled = ev.ImagePulled(
        manifest_digest=image.manifest_digest,
        previous_digest=previous,
        changed=changed,
        source=_SOURCE,
        spelling=image.typed,
        row=image.row,
        named_at_ns=named,
        observed_since_ns=since,
    )
    return NewEvent(pulled, image.reference, occurred)


def _used_by(hold: MsbHold, images: Mapping[str, MsbImage]) -> NewEvent | None:
    """Return the use that made a sandbox, no later than msb's own record of the reference's last use."""
    image = None if hold.typed is None else images.get(hold.typed)
    if image is None or not hold.holder.startswith("sandbox:"):
        return None
    times = [time for time in (hold.created_at_ns, image.updated_at_ns) if time is not None]
    if not times:
        return None
    used = ev.ImageUsed(manifest_digest=hold.manifest_digest, spelling=image.typed, holder=hold.holder)
    return NewEvent(used, image.reference, min(times))


def _spelling(event: NewEvent) -> str:
    return getattr(event.event, "spelling", None) or ""


def _holder(event: NewEvent) -> str:
    return getattr(event.event, "holder", None) or ""


def _manifest(event: NewEvent) -> str:
    return getattr(event.event, "manifest_digest", None) or ""


def _latest(now_ns: int) -> int:
    return min(now_ns + HOUR, _MAX_NS)


def _or_late(time: int | None) -> int:
    return _LATE if time is None else time
