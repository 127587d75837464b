"""Images of the index, as callers get them: handles and details, of now or of the past."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import astuple

from msb_cache.errors import CorruptArtifactError
from msb_cache.models import (
    HeldImage,
    ImageConfigDetail,
    ImageDetail,
    ImageFlatDetail,
    ImageHandle,
    ImageLayerDetail,
    Origin,
    PulledImage,
)
from msb_cache.projections import images
from msb_cache.projections.images import ConfigRow, HandleRow
from msb_cache.queries.resolve import seen

if TYPE_CHECKING:
    from msb_cache.eventstore.store import StoredEvent


def handle(row: HandleRow, origin: Origin | None) -> ImageHandle:
    """Return an image of the index of ``origin`` (None: of another host's) as callers get it."""
    return ImageHandle(
        seen(row),
        row.size_bytes,
        row.manifest_digest,
        row.architecture,
        row.os,
        row.layer_count or 0,
        row.created_at,
        row.last_used_at,
        () if row.in_use_by is None else tuple(msgspec.json.decode(row.in_use_by, type=list[str])),
        row.in_use_since,
        row.idle_since if row.in_use_since is None else None,
        () if row.held_by == "[]" else tuple(sorted(msgspec.json.decode(row.held_by, type=list[str]))),
        origin,
    )


def pulled_image(row: HandleRow, origin: Origin, recorded: StoredEvent) -> PulledImage:
    """Return an image of the index of ``origin`` that has just been pulled."""
    return PulledImage(*astuple(handle(row, origin)), recorded=recorded)


def held_image(
    row: HandleRow, origin: Origin, holder: str, *, until_ns: int | None, enforced: bool
) -> HeldImage:
    """Return an image of the index of ``origin`` that is held now."""
    return HeldImage(*astuple(handle(row, origin)), holder=holder, enforced=enforced, until_ns=until_ns)


def detail(
    connection: sqlite3.Connection, row: HandleRow, origin: Origin, flat: ImageFlatDetail | None = None
) -> ImageDetail:
    """Return all that an index knows about an image of it, with its flat root."""
    config = images.config(connection, row.manifest_digest)
    layers = [ImageLayerDetail(*astuple(layer)) for layer in images.layers(connection, row.manifest_digest)]
    return ImageDetail(handle(row, origin), None if config is None else _config(config), layers, flat)


def flat(home: str, manifest_digest: str) -> ImageFlatDetail | None:
    """Return the flat root that a manifest has in a home now; None: it has none, or its ref is unreadable."""
    # Most homes have none, and an image is inspected in the time that some imports take.
    if not os.path.isdir(os.path.join(home, "cache", "flat", "refs")):
        return None
    from msb_cache.artifacts import files
    from msb_cache.artifacts.flat import read_ref
    from msb_cache.artifacts.layout import Layout

    layout = Layout(home)
    with suppress(FileNotFoundError, CorruptArtifactError):
        ref = read_ref(layout.artifact("flat_ref", manifest_digest))
        taken = files.measure_artifact("flat", layout.artifact("flat", ref.artifact_digest))
        return ImageFlatDetail(ref.artifact_digest, ref.virtual_size_bytes, taken)
    return None


def _config(row: ConfigRow) -> ImageConfigDetail:
    fields = msgspec.json.decode(row.fields, type=dict[str, Any])
    return msgspec.convert({**fields, "digest": row.digest or ""}, ImageConfigDetail)


def selected(connection: sqlite3.Connection, filters: Sequence[str]) -> list[HandleRow]:
    """Return the images that filters select, as those of a prune do; the newest first.

    Raises:
        InvalidConfigError, InvalidReferenceError: one is no filter.
    """
    from msb_cache.projections.state import labels_of_manifests
    from msb_cache.queries.policy import Selection

    selects = Selection(filters)
    labels = labels_of_manifests(connection) if selects.needs_labels else {}
    return [
        row
        for row in images.handles(connection)
        if selects((seen(row), row.reference), row.manifest_digest, labels.get(row.manifest_digest, {}))
    ]
