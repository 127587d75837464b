"""The fold: what each event does to the read models. The same code serves live, rebuild and as-of.

It is total: an event about something unknown changes nothing and is no error, because a log may come
from elsewhere and events can be learned late. Events are applied in position order only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import Fact
from msb_cache.projections.rows import (
    DamageRow,
    DeletionOutcomeRow,
    DeletionRow,
    DigestRow,
    GoingRow,
    HoldRow,
    ImageRow,
    LayerRow,
    LeftoverRow,
    ManifestLayerRow,
    ManifestRow,
    OpenUseRow,
    PinRow,
    PointedAtRow,
    RestoredRow,
    RuleCountRow,
    UndoingRow,
)
from msb_cache.projections.tables import Tables

_encode = msgspec.json.Encoder().encode


IGNORED: frozenset[type[ev.Event]] = frozenset({ev.LogCreated, ev.LogAcknowledged, ev.ImagePullFailed})
"""Events that change no table. One that is neither here nor folded below is an error."""

_COUNTERS = frozenset(DeletionRow.__struct_fields__)
_LEAVES_A_FILE = frozenset({"busy", "left", "owned"})
"""Reasons of ``artifact.kept`` for which a file stays that no image needs."""

_WITHOUT_RULES = {"remove": "remove", "prune": "unused", "external": "external"}
"""By the cause of ``image.removed``: what is counted as the rule where no rule of a policy decided."""

H = TypeVar("H", bound=Callable[..., None])
_HANDLERS: dict[type[ev.Event], str] = {}


def _folds(*types: type[ev.Event]) -> Callable[[H], H]:
    """Mark the method that applies events of these types."""

    def mark(handler: H) -> H:
        _HANDLERS.update(dict.fromkeys(types, handler.__name__))
        return handler

    return mark


class Fold:
    """Applies events to tables."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._images = tables.of(ImageRow)
        self._open_uses = tables.of(OpenUseRow)
        self._manifests = tables.of(ManifestRow)
        self._manifest_layers = tables.of(ManifestLayerRow)
        self._layers = tables.of(LayerRow)
        self._holds = tables.of(HoldRow)
        self._pins = tables.of(PinRow)
        self._pointed_at = tables.of(PointedAtRow)
        self._deletions = tables.of(DeletionRow)
        self._outcomes = tables.of(DeletionOutcomeRow)
        self._going = tables.of(GoingRow)
        self._rule_counts = tables.of(RuleCountRow)
        self._leftovers = tables.of(LeftoverRow)
        self._damage = tables.of(DamageRow)
        self._digests = tables.of(DigestRow)
        self._restored = tables.of(RestoredRow)
        self._undoings = tables.of(UndoingRow)
        self._handlers: dict[type[ev.Event], Callable[[Fact, Any], None] | None] = {
            **dict.fromkeys(IGNORED),
            **{of: getattr(self, name) for of, name in _HANDLERS.items()},
        }

    def apply(self, events: Iterable[Fact]) -> int:
        """Apply events in the given order; return the last one's position, 0 for none.

        Raises:
            LookupError: an event is of a type that the fold neither applies nor ignores.
        """
        handlers, seq = self._handlers, 0
        for event in events:
            try:
                handler = handlers[type(event.data)]
            except KeyError:
                raise LookupError(f"the fold does not say what {event.data.type} does") from None
            if handler is not None:
                handler(event, event.data)
            seq = event.seq
        return seq

    @_folds(ev.ClockJumped)
    def _clock_jumped(self, event: Fact, data: ev.ClockJumped) -> None:
        if not data.was_ahead:
            return
        # Nothing in the cache came, was used or was held later than now, whatever the clock said then.
        for image in self._images.later("last_used_at", data.to_ns):
            image.created_at = min(image.created_at, data.to_ns)
            image.last_used_at = data.to_ns
            self._images.changed(image.name)
        for column in ("idle_since", "in_use_since", "pointed_since", "pulled_at"):
            for image in self._images.later(column, data.to_ns):
                setattr(image, column, data.to_ns)
                self._images.changed(image.name)
        for manifest in self._manifests.later("unnamed_since", data.to_ns):
            manifest.unnamed_since = data.to_ns
            self._manifests.put(manifest)
        for use in self._open_uses.later("since", data.to_ns):
            use.since = data.to_ns
            self._open_uses.put(use)
        for hold in self._holds.later("since", data.to_ns):
            hold.since = data.to_ns
            self._holds.put(hold)
        for pin in self._pins.later("since", data.to_ns):
            pin.since = data.to_ns
            self._pins.put(pin)

    @_folds(ev.LogRestored)
    def _log_restored(self, event: Fact, data: ev.LogRestored) -> None:
        self._restored.put(RestoredRow(event.seq, data.backup_seq, event.occurred_at_ns, data.events_lost))

    @_folds(ev.LogRestoreConfirmed)
    def _log_restore_confirmed(self, event: Fact, data: ev.LogRestoreConfirmed) -> None:
        row = self._restored.get(data.restored_seq)
        if row is not None:
            row.confirmed_at = event.occurred_at_ns
            self._restored.put(row)

    @_folds(ev.ManifestAdded)
    def _manifest_added(self, event: Fact, data: ev.ManifestAdded) -> None:
        digest = event.subject
        previous = self._manifests.get(digest)
        if previous is not None:
            for position in range(len(data.layers), previous.layer_count):
                self._manifest_layers.delete((digest, position))
        manifest = ManifestRow(
            digest,
            data.media_type,
            data.config_digest,
            data.architecture,
            data.os,
            data.variant,
            len(data.layers),
            data.total_size,
            None if data.config is None else _encode(data.config).decode(),
            data.fsmeta_size,
            data.vmdk_size,
            event.seq,
            data.row,
            data.stored_digest,
            self._unnamed_since(digest, previous, event.occurred_at_ns),
        )
        self._manifests.put(manifest)
        self._describe_images(digest, manifest)
        if not self._leftovers.empty:
            needed = [("fsmeta", digest), ("vmdk", digest), ("flat_ref", digest)]
            needed += [("layer", layer.diff_id) for layer in data.layers]
            for kind, subject in needed:
                self._leftovers.delete((kind, subject))
        if not self._damage.empty:
            there = {layer.diff_id for layer in data.layers if layer.erofs_size is not None}
            for subject in (digest, *sorted(there)):
                self._mended(event, subject)
        for position, layer in enumerate(data.layers):
            self._manifest_layers.put(
                ManifestLayerRow(
                    digest, position, layer.diff_id, layer.blob_digest, layer.media_type, layer.size
                )
            )
            row = self._layers.get(layer.diff_id)
            if row is None or row.erofs_bytes != layer.erofs_size:
                self._layers.put(LayerRow(layer.diff_id, layer.erofs_size, event.seq))

    def _unnamed_since(self, digest: str, previous: ManifestRow | None, now_ns: int) -> int | None:
        if previous is not None:
            return previous.unnamed_since
        return None if self._images.has(digest) else now_ns

    @_folds(ev.ImagePulled)
    def _image_pulled(self, event: Fact, data: ev.ImagePulled) -> None:
        reference, occurred = event.subject, event.occurred_at_ns
        known = occurred if data.observed_since_ns is None else max(data.observed_since_ns, occurred)
        if not self._leftovers.empty:
            self._leftovers.delete(("metadata", reference))
        if not self._damage.empty:
            self._mended(event, reference)
        row, left = self._pulled_before(reference, data), None
        if row is None:
            name = reference if data.row is None else data.spelling or reference
            named = occurred if data.named_at_ns is None else min(data.named_at_ns, occurred)
            row = ImageRow(
                *(name, reference, data.spelling, data.manifest_digest),
                *(named, occurred, event.seq, data.row),
                pointed_since=known,
                pulled_at=occurred,
            )
        else:
            if data.row is not None or row.msb_row is None:
                row.spelling = data.spelling
            row.msb_row = data.row or row.msb_row
            row.last_used_at = max(row.last_used_at, occurred)
            row.pulled_at = max(row.pulled_at, occurred)
            if row.manifest_digest == data.manifest_digest:
                self._images.changed(row.name)
                return
            left = row.manifest_digest
            moved = {"manifest_digest": data.manifest_digest, "pointed_since": known}
            row = replace(row, **moved, idle_since=None, idle_seq=None)
        manifest = self._manifests.get(data.manifest_digest)
        _describe(row, manifest)
        self._images.put(row)
        if manifest is not None and manifest.unnamed_since is not None:
            manifest.unnamed_since = None
            self._manifests.put(manifest)
        if left is not None:
            self._name_left(left, occurred)
        self._describe_uses([row])
        if self._pointed_at.get((reference, data.manifest_digest)) is None:
            self._pointed_at.put(PointedAtRow(reference, data.manifest_digest, event.seq))

    def _pulled_before(self, reference: str, data: ev.ImagePulled) -> ImageRow | None:
        """Return the image that a pull is of, under the name that it has from now on."""
        row = self._image(reference, data.spelling)
        if row is None or data.row is None or data.spelling in (None, row.name):
            return row
        if row.msb_row not in (None, data.row):
            return None  # another spelling's, from before they were told apart
        # It was ours alone and is msb's from now on, or was seen there before spellings were recorded.
        self._images.delete(row.name)
        row = replace(row, name=data.spelling)
        self._images.put(row)
        return row

    def _image(self, reference: str, spelling: str | None) -> ImageRow | None:
        """Return the image of a reference, under this spelling where that is its name."""
        row = None if spelling is None else self._images.get(spelling)
        return self._images.get(reference) if row is None or row.reference != reference else row

    @_folds(ev.ImageUsed)
    def _image_used(self, event: Fact, data: ev.ImageUsed) -> None:
        digest, since = data.manifest_digest, event.occurred_at_ns
        row = self._image(event.subject, data.spelling)
        # A sandbox boots from the manifest that it was made from, wherever the reference points by now.
        counts = row is not None and (data.run is None or row.manifest_digest == digest)
        if row is not None and counts and since > row.last_used_at:
            row.last_used_at = since
            self._images.changed(row.name)
        self._set_status(digest, data.holder, data.status)
        if data.run is not None:
            self._open_uses.put(OpenUseRow(data.run, event.subject, digest, data.holder, since, event.seq))
            self._describe_uses(self._images.having(digest))

    @_folds(ev.ImageUseEnded)
    def _image_use_ended(self, event: Fact, data: ev.ImageUseEnded) -> None:
        self._set_status(data.manifest_digest, data.holder, data.status)
        use = self._open_uses.delete(data.run)
        if use is None:
            return
        self._describe_uses(self._idle_from(event, use.manifest_digest))

    def _idle_from(self, event: Fact, digest: str) -> list[ImageRow]:
        """Take note that nothing is known to have needed a manifest later than this; return its images."""
        ended = event.occurred_at_ns
        images = self._images.having(digest)
        for image in images:
            if image.idle_since is None or image.idle_since <= ended:
                image.idle_since, image.idle_seq = ended, event.seq
                self._images.changed(image.name)
        if not images:
            manifest = self._manifests.get(digest)
            if manifest is not None and (manifest.unnamed_since or 0) < ended:
                manifest.unnamed_since = ended
                self._manifests.put(manifest)
        return images

    def _name_left(self, digest: str, now_ns: int) -> None:
        """Take note that a reference points at a manifest no more."""
        manifest = self._manifests.get(digest)
        if manifest is not None and not self._images.has(digest):
            manifest.unnamed_since = now_ns
            self._manifests.put(manifest)

    def _set_status(self, digest: str, holder: str | None, status: str | None) -> None:
        hold = None if holder is None or status is None else self._holds.get((digest, holder))
        if hold is not None:
            hold.status = status
            self._holds.put(hold)

    @_folds(ev.ImageHeld)
    def _image_held(self, event: Fact, data: ev.ImageHeld) -> None:
        hold = self._holds
        row, since = hold.get((event.subject, data.holder)), event.occurred_at_ns
        if row is None or (row.until is not None and row.until <= since):
            row = HoldRow(event.subject, data.holder, data.reference, since, event.seq)
        row.msb_row = data.row or row.msb_row
        row.status = data.status or row.status
        row.root = data.root or row.root
        row.until = None if row.msb_row is not None else data.until_ns  # msb's own end when msb ends them
        if data.labels is not None:
            row.labels = _encode(data.labels).decode() if data.labels else None
        hold.put(row)

    @_folds(ev.ImageReleased)
    def _image_released(self, event: Fact, data: ev.ImageReleased) -> None:
        if self._holds.delete((event.subject, data.holder)) is not None:
            self._idle_from(event, event.subject)

    @_folds(ev.ImagePinned)
    def _image_pinned(self, event: Fact, data: ev.ImagePinned) -> None:
        self._pins.put(PinRow(event.subject, data.spelling, event.occurred_at_ns, data.until_ns, event.seq))

    @_folds(ev.ImageUnpinned)
    def _image_unpinned(self, event: Fact, data: ev.ImageUnpinned) -> None:
        self._pins.delete(event.subject)

    @_folds(ev.ImageRemoved)
    def _image_removed(self, event: Fact, data: ev.ImageRemoved) -> None:
        row = self._image(event.subject, data.spelling)
        removed = None if row is None else self._images.delete(row.name)
        if removed is not None:
            self._name_left(removed.manifest_digest, event.occurred_at_ns)
            self._count(event, data.cause, removed.name)
        deletion = self._deletions.get(event.operation)
        if deletion is None and data.cause == "external":
            deletion = self._deletion_or_external(event)
        if removed is not None and deletion is not None:
            deletion.image_refs_removed += 1
            self._deletions.put(deletion)

    def _count(self, event: Fact, cause: str, name: str) -> None:
        """Count an image that has left the index, by the rule that decided."""
        going = None if self._going.empty else self._going.delete((event.operation, name))
        rule = _WITHOUT_RULES[cause] if going is None else going.rule
        row = self._rule_counts.get((cause, rule)) or RuleCountRow(cause, rule, 0, event.seq)
        row.images += 1
        self._rule_counts.put(row)

    @_folds(ev.DeletionStarted)
    def _deletion_started(self, event: Fact, data: ev.DeletionStarted) -> None:
        deletion = self._deletions.get(event.operation)
        if deletion is None:
            deletion = DeletionRow(
                event.operation, data.kind, event.seq, event.occurred_at_ns, engine=data.engine
            )
        for judged in data.going:
            # Of a manifest that no reference points at there is none: it is no image that is counted.
            image = self._image(judged.subject, judged.spelling)
            if image is not None:
                rule = judged.policy_rule or judged.rule
                self._going.put(GoingRow(event.operation, image.name, rule))
        if data.engine == "msb":
            self._deletions.put(deletion)
            return  # msb may refuse: what goes is in the events that say it went
        # A layer leaves the index with the decision, not with its file: a load that brings it again
        # between the two adds it anew, and the file's deletion must not take that record out.
        for artifact in data.artifacts:
            if artifact.kind == "layer" and self._layers.delete(artifact.subject) is not None:
                deletion.layers_removed += 1
        self._deletions.put(deletion)

    @_folds(ev.ManifestDeleted)
    def _manifest_deleted(self, event: Fact, data: ev.ManifestDeleted) -> None:
        manifest = self._manifests.get(event.subject)
        layers = []
        if manifest is not None:
            positions = range(manifest.layer_count)
            layers = [self._manifest_layers.delete((event.subject, position)) for position in positions]
            self._manifests.delete(event.subject)
            self._describe_images(event.subject, None)
        deletion = self._deletion_or_external(event)
        self._outcome(event, deletion, "manifest", "deleted")
        if deletion.engine == "msb":
            # msb deleted it: no decision of ours has taken its layers out.
            for layer in layers:
                if layer is None or self._manifest_layers.has(layer.diff_id):
                    continue
                if self._layers.delete(layer.diff_id) is not None:
                    deletion.layers_removed += 1
        if manifest is not None:
            deletion.manifests_removed += 1

    @_folds(
        ev.MetadataDeleted,
        ev.LayerDeleted,
        ev.FsmetaDeleted,
        ev.VmdkDeleted,
        ev.FlatRefDeleted,
        ev.FlatDeleted,
    )
    def _artifact_deleted(self, event: Fact, data: ev.ArtifactDeleted) -> None:
        if not self._leftovers.empty:
            self._leftovers.delete((data.kind, event.subject))
        if not self._digests.empty:
            self._digests.delete((data.kind, event.subject))
        if data.needed:
            self._damage.put(DamageRow(data.kind, event.subject, event.seq))
        deletion = self._deletion_or_external(event)
        self._outcome(event, deletion, data.kind, "deleted")
        counter = f"{data.kind}_removed"
        if counter in _COUNTERS:  # of layers, what left the index is counted, not what left the disk
            setattr(deletion, counter, getattr(deletion, counter) + 1)
        if data.kind == "flat":
            deletion.flat_bytes_reclaimed += data.bytes or 0
        elif data.bytes is not None and data.kind != "flat_ref":
            deletion.bytes_reclaimed = (deletion.bytes_reclaimed or 0) + data.bytes

    @_folds(ev.ArtifactDigested)
    def _artifact_digested(self, event: Fact, data: ev.ArtifactDigested) -> None:
        self._digests.put(
            DigestRow(
                *(data.kind, event.subject, data.algorithm, data.digest, data.how),
                *(event.occurred_at_ns, event.seq),
            )
        )

    @_folds(ev.ArtifactRepaired)
    def _artifact_repaired(self, event: Fact, data: ev.ArtifactRepaired) -> None:
        if not self._damage.empty:
            self._mended(event, event.subject, data.kind)

    @_folds(ev.ArtifactKept)
    def _artifact_kept(self, event: Fact, data: ev.ArtifactKept) -> None:
        if data.reason in _LEAVES_A_FILE:
            self._left_over(event, data.kind, data.reason)
        deletion = self._deletions.get(event.operation)
        if deletion is not None:
            self._outcome(event, deletion, data.kind, "kept")
            deletion.kept += data.reason != "spelled"

    @_folds(ev.ArtifactDeleteFailed)
    def _artifact_delete_failed(self, event: Fact, data: ev.ArtifactDeleteFailed) -> None:
        if data.errno:  # else msb refused, and its index and ours have the image still
            self._left_over(event, data.kind, data.reason)
        deletion = self._deletions.get(event.operation)
        if deletion is not None:
            self._outcome(event, deletion, data.kind, "failed")
            deletion.failed += 1

    @_folds(ev.DeletionFinished)
    def _deletion_finished(self, event: Fact, data: ev.DeletionFinished) -> None:
        deletion = self._deletions.get(event.operation)
        if deletion is not None:
            deletion.finished_at = event.occurred_at_ns
            deletion.outcome = data.outcome
            deletion.recovered = int(data.recovered)
            self._deletions.put(deletion)
        if not self._going.empty:
            for stayed in self._going.having(event.operation):
                self._going.delete((stayed.operation, stayed.name))

    @_folds(ev.RestoreStarted)
    def _restore_started(self, event: Fact, data: ev.RestoreStarted) -> None:
        row = self._undoings.get(event.operation)
        if row is None:
            row = UndoingRow(event.operation, data.undoes, event.seq, event.occurred_at_ns)
        row.wanted += len(data.images)
        self._undoings.put(row)

    @_folds(ev.RestoreFinished)
    def _restore_finished(self, event: Fact, data: ev.RestoreFinished) -> None:
        row = self._undoings.get(event.operation)
        if row is not None:
            row.finished_at, row.outcome = event.occurred_at_ns, data.outcome
            row.restored = data.restored
            self._undoings.put(row)

    def _describe_images(self, digest: str, manifest: ManifestRow | None) -> None:
        for row in self._images.having(digest):
            _describe(row, manifest)
            self._images.changed(row.name)

    def _mended(self, event: Fact, subject: str, kind: str | None = None) -> None:
        for row in self._damage.having(subject):
            if row.mended is None and kind in (None, row.kind):
                row.mended = event.seq
                self._damage.put(row)

    def _describe_uses(self, images: Iterable[ImageRow]) -> None:
        """Copy to images what a list shows of the boots that last."""
        for image in images:
            uses = sorted(self._open_uses.having(image.manifest_digest), key=lambda use: (use.since, use.seq))
            holders = [*dict.fromkeys(use.holder for use in uses if use.holder is not None)]
            image.in_use_by = _encode(holders).decode() if uses else None
            image.in_use_since = uses[0].since if uses else None
            self._images.changed(image.name)

    def _left_over(self, event: Fact, kind: str, reason: str) -> None:
        self._leftovers.put(
            LeftoverRow(kind, event.subject, event.operation, reason, event.occurred_at_ns, event.seq)
        )

    def _deletion_or_external(self, event: Fact) -> DeletionRow:
        """Return the deletion of an event that says something is gone; what none decided, msb did."""
        deletion = self._deletions.get(event.operation)
        if deletion is None:
            seen = event.occurred_at_ns
            deletion = DeletionRow(
                event.operation, "external", event.seq, seen, seen, outcome="completed", engine="msb"
            )
            self._deletions.put(deletion)
        return deletion

    def _outcome(self, event: Fact, deletion: DeletionRow, kind: str, outcome: str) -> None:
        if deletion.kind != "external":  # what was not decided can go, come and go again in one operation
            self._outcomes.put(DeletionOutcomeRow(event.operation, kind, event.subject, outcome))
        self._deletions.put(deletion)


def _describe(row: ImageRow, manifest: ManifestRow | None) -> None:
    """Copy what a list shows of the manifest that an image points at; None: it is not in the index."""
    if manifest is None:
        row.size_bytes = row.architecture = row.os = row.layer_count = None
    else:
        row.size_bytes, row.layer_count = manifest.size_bytes, manifest.layer_count
        row.architecture, row.os = manifest.architecture, manifest.os
