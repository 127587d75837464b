"""The fold: what each event does to the read models. The same code serves live, rebuild and as-of.

It is total: an event about something unknown changes nothing and is no error, because a log may come
from elsewhere and events can be learned late. Events are applied in position order only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec.structs import replace

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import Fact
from msb_cache.projections.rows import (
    DeletionOutcomeRow,
    DeletionRow,
    HoldRow,
    ImageRow,
    LayerRow,
    ManifestLayerRow,
    ManifestRow,
    PointedAtRow,
)
from msb_cache.projections.tables import Tables

_encode = msgspec.json.Encoder().encode


class Fold:
    """Applies events to tables."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._handlers: dict[type[ev.Event], Callable[[Fact, Any], None]] = {
            ev.ManifestAdded: self._manifest_added,
            ev.ImagePulled: self._image_pulled,
            ev.ImageUsed: self._image_used,
            ev.ImageHeld: self._image_held,
            ev.ImageReleased: self._image_released,
            ev.ImageRemoved: self._image_removed,
            ev.DeletionStarted: self._deletion_started,
            ev.ManifestDeleted: self._manifest_deleted,
            ev.MetadataDeleted: self._artifact_deleted,
            ev.LayerDeleted: self._artifact_deleted,
            ev.FsmetaDeleted: self._artifact_deleted,
            ev.VmdkDeleted: self._artifact_deleted,
            ev.ArtifactKept: self._artifact_kept,
            ev.ArtifactDeleteFailed: self._artifact_delete_failed,
            ev.DeletionFinished: self._deletion_finished,
        }

    def apply(self, events: Iterable[Fact]) -> int:
        """Apply events in the given order; return the last one's position, 0 for none."""
        handlers, seq = self._handlers, 0
        for event in events:
            handler = handlers.get(type(event.data))
            if handler is not None:
                handler(event, event.data)
            seq = event.seq
        return seq

    def _manifest_added(self, event: Fact, data: ev.ManifestAdded) -> None:
        tables, digest = self.tables, event.subject
        previous = tables.manifest.get(digest)
        if previous is not None:
            for position in range(len(data.layers), previous.layer_count):
                tables.manifest_layer.delete((digest, position))
        manifest = ManifestRow(
            digest,
            data.media_type,
            data.config_digest,
            data.architecture,
            data.os,
            data.variant,
            len(data.layers),
            sum(layer.size for layer in data.layers),
            _encode(data.config).decode(),
            data.fsmeta_size,
            data.vmdk_size,
            event.seq,
            data.row,
        )
        tables.manifest.put(manifest)
        self._describe_images(digest, manifest)
        for position, layer in enumerate(data.layers):
            tables.manifest_layer.put(
                ManifestLayerRow(
                    digest, position, layer.diff_id, layer.blob_digest, layer.media_type, layer.size
                )
            )
            row = tables.layer.get(layer.diff_id)
            if row is None or row.erofs_bytes != layer.erofs_size:
                tables.layer.put(LayerRow(layer.diff_id, layer.erofs_size, event.seq))

    def _image_pulled(self, event: Fact, data: ev.ImagePulled) -> None:
        tables, reference, occurred = self.tables, event.subject, event.occurred_at_ns
        row = tables.image.get(reference)
        if row is None:
            row = ImageRow(reference, data.manifest_digest, occurred, occurred, event.seq, data.row)
        else:
            row.msb_row = data.row or row.msb_row
            row.last_used_at = max(row.last_used_at, occurred)
            if row.manifest_digest == data.manifest_digest:
                tables.image.changed(reference)
                return
            row = replace(row, manifest_digest=data.manifest_digest)
        _describe(row, tables.manifest.get(data.manifest_digest))
        tables.image.put(row)
        if tables.pointed_at.get((reference, data.manifest_digest)) is None:
            tables.pointed_at.put(PointedAtRow(reference, data.manifest_digest, event.seq))

    def _image_used(self, event: Fact, data: ev.ImageUsed) -> None:
        row = self.tables.image.get(event.subject)
        if row is not None and event.occurred_at_ns > row.last_used_at:
            row.last_used_at = event.occurred_at_ns
            self.tables.image.changed(event.subject)

    def _image_held(self, event: Fact, data: ev.ImageHeld) -> None:
        hold = self.tables.hold
        row = hold.get((event.subject, data.holder))
        if row is None:
            since = event.occurred_at_ns
            hold.put(HoldRow(event.subject, data.holder, data.reference, since, event.seq, data.row))
        elif data.row is not None:
            row.msb_row = data.row
            hold.put(row)

    def _image_released(self, event: Fact, data: ev.ImageReleased) -> None:
        self.tables.hold.delete((event.subject, data.holder))

    def _image_removed(self, event: Fact, data: ev.ImageRemoved) -> None:
        removed = self.tables.image.delete(event.subject)
        deletion = self.tables.deletion.get(event.operation)
        if removed is not None and deletion is not None:
            deletion.image_refs_removed += 1
            self.tables.deletion.put(deletion)

    def _deletion_started(self, event: Fact, data: ev.DeletionStarted) -> None:
        deletion = self.tables.deletion.get(event.operation)
        if deletion is None:
            deletion = DeletionRow(
                event.operation, data.kind, event.seq, event.occurred_at_ns, engine=data.engine
            )
        if data.engine == "msb":
            self.tables.deletion.put(deletion)
            return  # msb may refuse: what goes is in the events that say it went
        # A layer leaves the index with the decision, not with its file: whoever loads it again
        # between the two adds it anew, and the file's deletion must not take that record out.
        for artifact in data.artifacts:
            if artifact.kind == "layer" and self.tables.layer.delete(artifact.subject) is not None:
                deletion.layers_removed += 1
        self.tables.deletion.put(deletion)

    def _manifest_deleted(self, event: Fact, data: ev.ManifestDeleted) -> None:
        tables = self.tables
        manifest = tables.manifest.get(event.subject)
        layers = []
        if manifest is not None:
            positions = range(manifest.layer_count)
            layers = [tables.manifest_layer.delete((event.subject, position)) for position in positions]
            tables.manifest.delete(event.subject)
            self._describe_images(event.subject, None)
        deletion = self._outcome(event, "manifest", "deleted")
        if deletion is None or deletion.engine == "msb":
            # msb deleted it: no decision of ours has taken its layers out.
            for layer in layers:
                if layer is None or tables.manifest_layer.has(layer.diff_id):
                    continue
                if tables.layer.delete(layer.diff_id) is not None and deletion is not None:
                    deletion.layers_removed += 1
        if deletion is not None and manifest is not None:
            deletion.manifests_removed += 1

    def _artifact_deleted(self, event: Fact, data: ev.ArtifactDeleted) -> None:
        deletion = self._outcome(event, data.kind, "deleted")
        if deletion is None:
            return
        if data.kind == "fsmeta":
            deletion.fsmeta_removed += 1
        elif data.kind == "vmdk":
            deletion.vmdk_removed += 1
        if data.bytes is not None:
            deletion.bytes_reclaimed = (deletion.bytes_reclaimed or 0) + data.bytes

    def _artifact_kept(self, event: Fact, data: ev.ArtifactKept) -> None:
        deletion = self._outcome(event, data.kind, "kept")
        if deletion is not None:
            deletion.kept += 1

    def _artifact_delete_failed(self, event: Fact, data: ev.ArtifactDeleteFailed) -> None:
        deletion = self._outcome(event, data.kind, "failed")
        if deletion is not None:
            deletion.failed += 1

    def _deletion_finished(self, event: Fact, data: ev.DeletionFinished) -> None:
        deletion = self.tables.deletion.get(event.operation)
        if deletion is not None:
            deletion.finished_at = event.occurred_at_ns
            deletion.outcome = data.outcome
            deletion.recovered = int(data.recovered)
            self.tables.deletion.put(deletion)

    def _describe_images(self, digest: str, manifest: ManifestRow | None) -> None:
        for row in self.tables.image.having(digest):
            _describe(row, manifest)
            self.tables.image.changed(row.reference)

    def _outcome(self, event: Fact, kind: str, outcome: str) -> DeletionRow | None:
        deletion = self.tables.deletion.get(event.operation)
        if deletion is not None:
            self.tables.deletion_outcome.put(
                DeletionOutcomeRow(event.operation, kind, event.subject, outcome)
            )
            self.tables.deletion.put(deletion)
        return deletion


def _describe(row: ImageRow, manifest: ManifestRow | None) -> None:
    """Copy what a list shows of the manifest that an image points at; None: it is not in the index."""
    if manifest is None:
        row.size_bytes = row.architecture = row.os = row.layer_count = None
    else:
        row.size_bytes, row.layer_count = manifest.size_bytes, manifest.layer_count
        row.architecture, row.os = manifest.architecture, manifest.os
