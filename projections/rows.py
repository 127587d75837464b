"""The projection tables, one struct for the rows of each; fields stand in column order.

A struct is all that a table needs: its schema, its rows in memory and in SQL, time travel, the comparison
with a fold and a replay are made of what is declared here. The fold (``fold``) says what writes into it.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class Row(msgspec.Struct, gc=False):
    """Base of all rows. A field is a column: text or an integer, NOT NULL unless it may be None."""

    table: ClassVar[str]
    """The SQL table's name."""
    key_length: ClassVar[int] = 1
    """So many of the first fields are the primary key."""
    asked_by: ClassVar[str | None] = None
    """Another column that the fold asks the table by; in it a row never changes in place."""
    indexes: ClassVar[dict[str, str]] = {}
    """The SQL table's other indexes: their names, and what they are on."""
    insert_only: ClassVar[bool] = False
    """Written once and never looked up by the fold; a second row with the same key is an integrity error."""
    only_grows: ClassVar[bool] = False
    """No row is ever taken out, so the live table tells what there was: the past keeps none of its own."""


class ImageRow(Row):
    """A reference in the cache and the manifest it points at now. Times in ns since the epoch, UTC.

    ``name`` is what tells it from the others: the canonical reference in a home of ours, in one of msb the
    spelling, of which several can be of one reference. ``spelling`` is how people see it; None: in the
    reference's familiar form.

    Four are the manifest's, copied so that a list looks up none; None while it is not in the index.
    ``in_use_by`` has, as JSON, the holders whose boots of the manifest last, the first of them since
    ``in_use_since``; ``idle_since`` is when the last of the others ended, or the last hold was released, as
    event ``idle_seq`` says. It was last pulled at ``pulled_at``, and is known to point where it points since
    ``pointed_since``.
    Here and below, ``msb_row`` identifies msb's record of the same thing; None: it was never seen there.
    """

    table: ClassVar[str] = "image"
    asked_by: ClassVar[str | None] = "manifest_digest"
    indexes: ClassVar[dict[str, str]] = {
        "image_by_age": "created_at DESC, seq DESC",
        "image_by_manifest": "manifest_digest",
        "image_by_reference": "reference",
    }
    name: str
    reference: str
    spelling: str | None
    manifest_digest: str
    created_at: int
    last_used_at: int
    seq: int
    msb_row: str | None = None
    size_bytes: int | None = None
    architecture: str | None = None
    os: str | None = None
    layer_count: int | None = None
    in_use_by: str | None = None
    in_use_since: int | None = None
    idle_since: int | None = None
    idle_seq: int | None = None
    pointed_since: int = 0
    pulled_at: int = 0


class OpenUseRow(Row):
    """A boot that has not ended, by msb's record of it. ``since`` in ns since the epoch, UTC."""

    table: ClassVar[str] = "open_use"
    asked_by: ClassVar[str | None] = "manifest_digest"
    indexes: ClassVar[dict[str, str]] = {"open_use_by_manifest": "manifest_digest"}
    run: str
    reference: str
    manifest_digest: str
    holder: str | None
    since: int
    seq: int


class ManifestRow(Row):
    """A manifest in the index. ``size_bytes`` is that of its blobs; ``config`` is JSON, None without one.

    ``stored_digest`` is the SHA-256 digest of the manifest as msb keeps it; None: that was not seen.
    ``unnamed_since`` is when it lost its last reference, or when the last boot or hold since then ended, in
    ns since the epoch, UTC; None while a reference points at it.
    """

    table: ClassVar[str] = "manifest"
    digest: str
    media_type: str | None
    config_digest: str | None
    architecture: str | None
    os: str | None
    variant: str | None
    layer_count: int
    size_bytes: int | None
    config: str | None
    fsmeta_bytes: int | None
    vmdk_bytes: int | None
    seq: int
    msb_row: str | None = None
    stored_digest: str | None = None
    unnamed_since: int | None = None


class ManifestLayerRow(Row):
    """One layer of a manifest; position 0 is the bottom."""

    table: ClassVar[str] = "manifest_layer"
    key_length: ClassVar[int] = 2
    asked_by: ClassVar[str | None] = "diff_id"
    indexes: ClassVar[dict[str, str]] = {"manifest_layer_by_diff_id": "diff_id"}
    manifest_digest: str
    position: int
    diff_id: str
    blob_digest: str
    media_type: str | None
    compressed_bytes: int | None


class LayerRow(Row):
    """A layer's index record: its EROFS image is expected on disk."""

    table: ClassVar[str] = "layer"
    diff_id: str
    erofs_bytes: int | None
    seq: int


class HoldRow(Row):
    """A holder needs a manifest. ``since`` in ns since the epoch, UTC; ``labels`` is JSON.

    From ``until`` on (ns since the epoch, UTC) the hold counts no longer, whether or not an event says so.
    ``status``, ``root`` and ``labels`` are as ``image.held`` says them, the status also as uses do.
    """

    table: ClassVar[str] = "hold"
    key_length: ClassVar[int] = 2
    indexes: ClassVar[dict[str, str]] = {"hold_by_holder": "holder"}
    manifest_digest: str
    holder: str
    reference: str | None
    since: int
    seq: int
    msb_row: str | None = None
    status: str | None = None
    root: str | None = None
    labels: str | None = None
    until: int | None = None


class PinRow(Row):
    """A person keeps a reference, wherever it points, or a manifest; that is the ``subject``.

    From ``until`` on (ns since the epoch, UTC) it counts no longer; None: it does not end by itself. Event
    ``seq`` says who, and why; it was pinned ``since``.
    """

    table: ClassVar[str] = "pin"
    subject: str
    spelling: str | None
    since: int
    until: int | None
    seq: int


class PointedAtRow(Row):
    """A reference has pointed at a manifest, first by event ``seq``. Outlives both."""

    table: ClassVar[str] = "pointed_at"
    key_length: ClassVar[int] = 2
    only_grows: ClassVar[bool] = True
    reference: str
    manifest_digest: str
    seq: int


class DeletionRow(Row):
    """A deletion and its counters. Times in ns since the epoch, UTC; sizes in bytes.

    ``kind`` is ``remove``, ``prune``, or ``external`` for what another program deleted: that has no decision
    in the log, and begins and ends when it was seen.
    """

    table: ClassVar[str] = "deletion"
    indexes: ClassVar[dict[str, str]] = {
        "deletion_by_seq": "seq",
        "deletion_unfinished": "operation WHERE finished_at IS NULL",
    }
    only_grows: ClassVar[bool] = True
    operation: str
    kind: str
    seq: int
    started_at: int
    finished_at: int | None = None
    outcome: str | None = None
    recovered: int = 0
    image_refs_removed: int = 0
    manifests_removed: int = 0
    layers_removed: int = 0
    fsmeta_removed: int = 0
    vmdk_removed: int = 0
    bytes_reclaimed: int | None = None
    kept: int = 0
    failed: int = 0
    engine: str = "msb-cache"
    flat_removed: int = 0
    flat_bytes_reclaimed: int = 0


class UndoingRow(Row):
    """A restore: an operation that brings back what the deletion ``undoes`` took.

    Times in ns since the epoch, UTC. ``wanted`` counts the images that it was to bring back, ``restored``
    those that it did; ``outcome`` is as ``restore.finished`` says it.
    """

    table: ClassVar[str] = "undoing"
    indexes: ClassVar[dict[str, str]] = {
        "undoing_by_deletion": "undoes",
        "undoing_unfinished": "operation WHERE finished_at IS NULL",
    }
    only_grows: ClassVar[bool] = True
    operation: str
    undoes: str
    seq: int
    started_at: int
    wanted: int = 0
    finished_at: int | None = None
    outcome: str | None = None
    restored: int = 0


class DeletionOutcomeRow(Row):
    """The one final outcome of one artifact in one deletion: ``deleted``, ``kept`` or ``failed``."""

    table: ClassVar[str] = "deletion_outcome"
    key_length: ClassVar[int] = 3
    insert_only: ClassVar[bool] = True
    only_grows: ClassVar[bool] = True
    operation: str
    kind: str
    subject: str
    outcome: str


class GoingRow(Row):
    """An image, by its name, that rules chose for a deletion, and which of them decided.

    It is there from the decision until the image has left the index, or the deletion has finished without
    that.
    """

    table: ClassVar[str] = "going"
    key_length: ClassVar[int] = 2
    asked_by: ClassVar[str | None] = "operation"
    operation: str
    name: str
    rule: str


class RuleCountRow(Row):
    """How many images have left the index for a cause (as of ``image.removed``) and by a rule.

    The rule is that of the policy file, else the one of docs/retention.md; without rules ``unused`` of a
    prune, ``remove``, and ``external`` of what another program did. ``seq`` is the event of the first one.
    """

    table: ClassVar[str] = "rule_count"
    key_length: ClassVar[int] = 2
    only_grows: ClassVar[bool] = True
    cause: str
    rule: str
    images: int
    seq: int


class LeftoverRow(Row):
    """A file that the deletion ``operation`` had to leave, and no event says gone or needed since.

    ``reason`` is that of ``artifact.kept``, or what the operating system said; ``since`` is when, in
    ns since the epoch, UTC.
    """

    table: ClassVar[str] = "leftover"
    key_length: ClassVar[int] = 2
    kind: str
    subject: str
    operation: str
    reason: str
    since: int
    seq: int


class DamageRow(Row):
    """A file that another program deleted in event ``seq`` although an image needs it.

    ``mended`` is the event that brought its record anew; None: the images that need it are damaged.
    """

    table: ClassVar[str] = "damage"
    key_length: ClassVar[int] = 3
    asked_by: ClassVar[str | None] = "subject"
    kind: str
    subject: str
    seq: int
    mended: int | None = None


class DigestRow(Row):
    """What the bytes of an artifact on disk are, as ``artifact.digested`` says.

    Known ``since``, in ns since the epoch, UTC, by event ``seq``.
    """

    table: ClassVar[str] = "digest"
    key_length: ClassVar[int] = 2
    kind: str
    subject: str
    algorithm: str
    digest: str
    how: str
    since: int
    seq: int


class RestoredRow(Row):
    """The log was put back to a backup of so many events. Times in ns since the epoch, UTC."""

    table: ClassVar[str] = "restored"
    only_grows: ClassVar[bool] = True
    seq: int
    backup_seq: int
    restored_at: int
    events_lost: int | None = None
    confirmed_at: int | None = None


ROW_TYPES: tuple[type[Row], ...] = tuple(Row.__subclasses__())
"""All projection tables' rows, in the order in which they stand here."""
