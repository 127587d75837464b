"""Views for people who open the database: names as they are typed, times that can be read, who did it.

They hold nothing: each is a question to the tables and the log, made anew with the tables that are folded.
Each column is found by a key or an index, so the first rows of a view are there without a look at the rest.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

_NOW = "(CAST(strftime('%s', 'now') AS INTEGER) * 1000000000)"
_DOCKER = "docker.io/"
_OFFICIAL = "docker.io/library/"


class Column(NamedTuple):
    """A view's column: its name, the SQL that it is, and what it says."""

    name: str
    sql: str
    meaning: str


class View(NamedTuple):
    """A view: its name, what a row of it is, its columns, and what they are taken from."""

    name: str
    row: str
    columns: tuple[Column, ...]
    source: str

    @property
    def statement(self) -> str:
        """The SQL that makes it."""
        columns = ",\n    ".join(f"{column.sql} AS {column.name}" for column in self.columns)
        return f"CREATE VIEW {self.name} AS SELECT\n    {columns}\nFROM {self.source}"


def create(connection: sqlite3.Connection) -> None:
    """Make every view anew, within the caller's transaction, whatever has its name now."""
    for view in VIEWS:
        found = connection.execute(
            "SELECT upper(type) FROM sqlite_master WHERE name = ? AND type IN ('table', 'view')", (view.name,)
        ).fetchone()
        if found is not None:
            connection.execute(f"DROP {found[0]} {view.name}")
        connection.execute(view.statement)


def familiar(reference: str) -> str:
    """Return SQL that gives a canonical reference in familiar form, as ``Reference.familiar`` does."""
    official, rest = (f"substr({reference}, {len(prefix) + 1})" for prefix in (_OFFICIAL, _DOCKER))
    head = f"substr({rest}, 1, instr({rest}, '/') - 1)"
    is_official = f"substr({reference}, 1, {len(_OFFICIAL)}) = '{_OFFICIAL}' AND instr({official}, '/') = 0"
    # 64 hexadecimal digits alone would be an image's id.
    is_id = (
        f"length({official}) > 63 AND substr({official}, 1, 64) NOT GLOB '*[^0-9a-f]*' "
        f"AND substr({official}, 65, 1) IN ('', ':', '@')"
    )
    is_registry = f"instr({head}, '.') OR instr({head}, ':') OR {head} = 'localhost'"
    return (
        f"CASE WHEN {is_official} THEN CASE WHEN {is_id} THEN {reference} ELSE {official} END "
        f"WHEN substr({reference}, 1, {len(_DOCKER)}) <> '{_DOCKER}' OR {is_registry} THEN {reference} "
        f"ELSE {rest} END"
    )


def readable(time_ns: str) -> str:
    """Return SQL that gives a time in ns since the epoch as UTC text: ``2026-11-23 13:57:52.012345678Z``."""
    seconds = f"strftime('%Y-%m-%d %H:%M:%S', {time_ns} / 1000000000, 'unixepoch')"
    return f"{seconds} || printf('.%09dZ', {time_ns} % 1000000000)"


def _time(name: str, time_ns: str, meaning: str) -> Iterator[Column]:
    """Yield a time as text and, under the library's name for it, in ns."""
    yield Column(name, readable(time_ns), f"{meaning}, as text in UTC")
    yield Column(f"{name}_ns", time_ns, "the same in ns since the epoch")


def _actor(events: str, *, did: str) -> Iterator[Column]:
    """Yield who did something, from the actor of an event."""

    def field(name: str) -> str:
        return f"json_extract({events}.actor, '$.{name}')"

    yield Column(
        "who", f"coalesce({field('login')}, {field('user')})", f"who {did}: the login, else the user"
    )
    yield Column("host", field("host"), "on which machine")
    yield Column("program", field("program"), "by which program")
    yield Column("reason", field("reason"), "why, as that person said")


def _name(reference: str, spelling: str) -> str:
    return f"coalesce({spelling}, {familiar(reference)})"


def _lasts(table: str) -> str:
    return f"({table}.until IS NULL OR {table}.until > {_NOW})"


def _names_of(where: str) -> str:
    """Return SQL that gives the names of images as a JSON array, in order."""
    return (
        f"(SELECT json_group_array(name) FROM (SELECT DISTINCT {_name('i.reference', 'i.spelling')} AS name "
        f"FROM {where} ORDER BY 1))"
    )


_HELD = f"EXISTS (SELECT 1 FROM hold h WHERE h.manifest_digest = image.manifest_digest AND {_lasts('h')})"
_IN_USE = f"(image.in_use_since IS NOT NULL OR {_HELD})"
_ENDED = (
    f"(SELECT max(h.until) FROM hold h WHERE h.manifest_digest = image.manifest_digest AND h.until <= {_NOW})"
)
_IDLE_SINCE = (
    f"CASE WHEN NOT {_IN_USE} THEN max(image.last_used_at, coalesce(image.idle_since, 0), "
    f"coalesce({_ENDED}, 0)) END"
)
_CREATED = "CASE WHEN substr(coalesce(image.msb_row, ''), -2) <> '@-' THEN image.created_at END"
_PINS = f"FROM pin p WHERE p.subject IN (image.reference, image.manifest_digest) AND {_lasts('p')}"
_PINNED_UNTIL = f"(SELECT CASE WHEN count(*) = count(p.until) THEN max(p.until) END {_PINS})"
_LAYERS = (
    "(SELECT sum(l.erofs_bytes) FROM layer l WHERE l.diff_id IN "
    "(SELECT m.diff_id FROM manifest_layer m WHERE m.manifest_digest = image.manifest_digest))"
)

_IMAGES = View(
    "v_images",
    "an image in the cache",
    (
        Column("image", _name("image.reference", "image.spelling"), "its reference as people type it"),
        Column("reference", "image.reference", "the same in canonical form"),
        Column("manifest_digest", "image.manifest_digest", "the manifest that it points at"),
        Column("size_bytes", "image.size_bytes", "of its blobs, as they were fetched; NULL: not known"),
        Column("layers_bytes", _LAYERS, "of its layers in the cache, each of which others may share"),
        Column("layer_count", "image.layer_count", "how many layers it has"),
        Column("architecture", "image.architecture", "of its configuration"),
        Column("os", "image.os", "of its configuration"),
        *_time("created_at", _CREATED, "when the name came, NULL where msb does not know it"),
        *_time("pulled_at", "image.pulled_at", "when it was last pulled or loaded"),
        *_time("last_used_at", "image.last_used_at", "when it was last pulled, used or booted"),
        Column("in_use", _IN_USE, "1 while a boot of it lasts or something holds it, else 0"),
        Column(
            "in_use_by",
            "(SELECT json_group_array(holder) FROM (SELECT h.holder AS holder FROM hold h "
            f"WHERE h.manifest_digest = image.manifest_digest AND {_lasts('h')} "
            "UNION SELECT u.holder FROM open_use u "
            "WHERE u.manifest_digest = image.manifest_digest AND u.holder IS NOT NULL ORDER BY 1))",
            "by whom: a JSON array of holders",
        ),
        *_time("idle_since", _IDLE_SINCE, "since when nothing uses it, NULL while something does"),
        Column("pinned", f"EXISTS (SELECT 1 {_PINS})", "1 while it, or its manifest, is pinned, else 0"),
        *_time("pinned_until", _PINNED_UNTIL, "when the last of its pins ends, NULL: no end, or no pin"),
        Column("seq", "image.seq", "the position of the event with which the name came"),
        *_actor("added", did="added it then"),
    ),
    "image LEFT JOIN events AS added ON added.seq = image.seq",
)

_EVENTS = View(
    "v_events",
    "an event of the log",
    (
        Column("seq", "events.seq", "its position"),
        *_time("occurred_at", "events.occurred_at", "when it happened"),
        Column("type", "events.type", "what happened, such as image.pulled"),
        Column(
            "image",
            "CASE WHEN instr(events.subject, '/') THEN "
            + _name("events.subject", "json_extract(events.data, '$.spelling')")
            + " END",
            "the reference that it is about, as people type it; NULL: it is about something else",
        ),
        Column("subject", "events.subject", "what it is about: a canonical reference, a digest, an id"),
        *_actor("events", did="did it"),
        Column("observed", "json_extract(events.actor, '$.observed')", "1: another program did it"),
        Column("data", "events.data", "the fields of its type, as JSON"),
        Column("actor", "events.actor", "all that is known of who did it, as JSON"),
        Column("operation", "events.operation", "what groups all events of one command"),
        *_time("recorded_at", "events.recorded_at", "when it was appended"),
        Column("version", "events.version", "of its type's fields"),
        Column("id", "events.id", "a UUID version 7"),
        Column("hash", "lower(hex(events.hash))", "what ties it to all before it, in hexadecimal"),
    ),
    "events",
)

_PRUNES = View(
    "v_prunes",
    "a prune or a removal",
    (
        Column("operation", "deletion.operation", "its id, which `prunes show` takes"),
        Column("kind", "deletion.kind", "prune, remove, or external: another program deleted"),
        *_time("started_at", "deletion.started_at", "when it was decided"),
        *_time("finished_at", "deletion.finished_at", "when it ended, NULL: it has not"),
        Column("outcome", "deletion.outcome", "as `deletion.finished` says it; NULL: unfinished"),
        *_actor("began", did="ran it"),
        Column(
            "policy",
            "CASE WHEN began.type = 'deletion.started' THEN json_extract(began.data, '$.policy') END",
            "what was to go, as it was given, as JSON",
        ),
        Column("images_removed", "deletion.image_refs_removed", "references that left the index"),
        Column("manifests_removed", "deletion.manifests_removed", "manifests that left the index"),
        Column("layers_removed", "deletion.layers_removed", "layers that left the index"),
        Column("fsmeta_removed", "deletion.fsmeta_removed", "fsmeta files deleted"),
        Column("vmdk_removed", "deletion.vmdk_removed", "VMDK files deleted"),
        Column("flat_removed", "deletion.flat_removed", "flat roots deleted"),
        Column(
            "freed_bytes",
            "CASE WHEN deletion.flat_removed THEN coalesce(deletion.bytes_reclaimed, 0) "
            "+ deletion.flat_bytes_reclaimed ELSE deletion.bytes_reclaimed END",
            "what all of that freed; NULL: not known",
        ),
        Column("kept", "deletion.kept", "files that were needed after all, or busy"),
        Column("failed", "deletion.failed", "files that could not be deleted"),
        Column("engine", "deletion.engine", "which program deleted: msb-cache or msb"),
        Column("recovered", "deletion.recovered", "1: a later process finished it, else 0"),
        Column("seq", "deletion.seq", "the position of its first event"),
    ),
    "deletion LEFT JOIN events AS began ON began.seq = deletion.seq",
)

_HOLDS = (
    "(SELECT h.holder, 'hold' AS kind, h.manifest_digest, h.reference, h.since, h.until, h.status, h.seq "
    f"FROM hold h WHERE {_lasts('h')} "
    "UNION ALL SELECT u.holder, 'boot', u.manifest_digest, u.reference, u.since, NULL, NULL, u.seq "
    "FROM open_use u) AS held LEFT JOIN events AS began ON began.seq = held.seq"
)

_HOLDERS = View(
    "v_holders",
    "a hold or a boot that lasts",
    (
        Column("holder", "held.holder", "who needs the image, such as sandbox:dev; NULL: not known"),
        Column("kind", "held.kind", "hold, or boot: a sandbox runs from it"),
        Column(
            "image",
            familiar("held.reference"),
            "the reference by which it came, in familiar form; NULL: not known",
        ),
        Column("reference", "held.reference", "the same in canonical form"),
        Column("manifest_digest", "held.manifest_digest", "the manifest that is needed"),
        Column(
            "images",
            _names_of("image i WHERE i.manifest_digest = held.manifest_digest"),
            "the images that point at that now, as people type them: a JSON array",
        ),
        *_time("since", "held.since", "since when"),
        *_time("until", "held.until", "when it ends by itself, NULL: it does not"),
        Column("status", "held.status", "of a sandbox of msb's, as it was last seen"),
        Column("seq", "held.seq", "the position of the event that says so"),
        *_actor("began", did="held or booted it"),
    ),
    _HOLDS,
)

_OF_LAYER = "FROM manifest_layer m WHERE m.diff_id = layer.diff_id ORDER BY m.manifest_digest LIMIT 1"

_VIEW_OF_LAYERS = View(
    "v_layers",
    "a layer in the cache",
    (
        Column("diff_id", "layer.diff_id", "the digest of its tar archive"),
        Column("size_bytes", "layer.erofs_bytes", "of its image in the cache; NULL: not known"),
        Column(
            "compressed_bytes", f"(SELECT m.compressed_bytes {_OF_LAYER})", "of its blob, as it was fetched"
        ),
        Column("blob_digest", f"(SELECT m.blob_digest {_OF_LAYER})", "of that blob, of one if several"),
        Column("media_type", f"(SELECT m.media_type {_OF_LAYER})", "of that blob"),
        Column(
            "manifest_count",
            "(SELECT count(DISTINCT m.manifest_digest) FROM manifest_layer m "
            "WHERE m.diff_id = layer.diff_id)",
            "how many manifests need it",
        ),
        Column(
            "image_count",
            "(SELECT count(DISTINCT i.name) FROM manifest_layer m "
            "JOIN image i ON i.manifest_digest = m.manifest_digest WHERE m.diff_id = layer.diff_id)",
            "how many images share it",
        ),
        Column(
            "images",
            _names_of(
                "manifest_layer m JOIN image i ON i.manifest_digest = m.manifest_digest "
                "WHERE m.diff_id = layer.diff_id"
            ),
            "these, as people type them: a JSON array",
        ),
        *_time("added_at", "added.recorded_at", "when it came"),
        *_actor("added", did="added it"),
        Column("seq", "layer.seq", "the position of the event with which it came"),
    ),
    "layer LEFT JOIN events AS added ON added.seq = layer.seq",
)

VIEWS = (_IMAGES, _EVENTS, _PRUNES, _HOLDERS, _VIEW_OF_LAYERS)
"""All views, in the order in which people are told of them."""
