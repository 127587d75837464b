"""Questions about images, answered from the tables by indexed queries; nothing is folded here."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import starmap

from msgspec import Struct

from msb_cache.projections.moment import LASTS
from msb_cache.shapes import Result

AFTER_HEX = "g"
"""Comes after every hexadecimal digit."""
_HANDLE = f"""
SELECT name, reference, spelling, size_bytes, manifest_digest, architecture, os, layer_count,
    CASE WHEN substr(msb_row, -2) = '@-' THEN NULL ELSE created_at END, last_used_at,
    in_use_by, in_use_since, idle_since, idle_seq,
    (SELECT json_group_array(holder) FROM hold
        WHERE hold.manifest_digest = image.manifest_digest AND {LASTS})
FROM image
"""  # noqa: S608
"""A record of msb's that ends so has no time at which the name came; in lists it stands where it was seen."""


class HandleRow(Struct, frozen=True, gc=False):
    """What a list shows of an image. Size in bytes, times in ns since the epoch, UTC.

    ``in_use_by`` has, as JSON, the holders whose boots of its manifest last; ``idle_since`` is when the last
    of the others ended, and ``idle_seq`` the event that says so. ``held_by`` has, as JSON, who holds it.

    ``name`` tells it from all others, ``reference`` is canonical, ``spelling`` how it was typed; None: in
    familiar form.
    """

    name: str
    reference: str
    spelling: str | None
    size_bytes: int | None
    manifest_digest: str
    architecture: str | None
    os: str | None
    layer_count: int | None
    created_at: int | None
    last_used_at: int
    in_use_by: str | None = None
    in_use_since: int | None = None
    idle_since: int | None = None
    idle_seq: int | None = None
    held_by: str = "[]"


class UseRow(Struct, frozen=True, gc=False):
    """A boot that has not ended. ``since`` in ns since the epoch, UTC; ``seq`` is the event that says so."""

    holder: str | None
    manifest_digest: str
    since: int
    reference: str
    seq: int


class ConfigRow(Struct, frozen=True):
    """A manifest's configuration: its digest if that is known, and the shown fields as JSON text."""

    digest: str | None
    fields: str


class LayerDetailRow(Struct, frozen=True):
    """One layer of an image, position 0 at the bottom; sizes in bytes."""

    diff_id: str
    blob_digest: str
    media_type: str | None
    compressed_bytes: int | None
    erofs_bytes: int | None
    position: int
    erofs_digest: str | None = None
    erofs_digest_how: str | None = None


class HoldDetailRow(Struct, frozen=True):
    """Who holds a manifest, since when (ns since the epoch, UTC) and by which canonical reference.

    Of a sandbox of msb's, its status and its root disk's kind as they were seen last, and labels as JSON.
    ``until`` is when it ends by itself, in ns since the epoch, UTC; None: it does not.
    """

    holder: str
    manifest_digest: str
    since: int
    reference: str | None
    status: str | None
    root: str | None
    labels: str | None
    until: int | None


class PinDetailRow(Struct, frozen=True):
    """A pin: of which canonical reference or manifest digest, as typed, since and until when (None: no end).

    Times in ns since the epoch, UTC; event ``seq`` says who pinned it, and why.
    """

    subject: str
    spelling: str | None
    since: int
    until: int | None
    seq: int


def handles(connection: sqlite3.Connection) -> Iterator[HandleRow]:
    """Yield every image in the cache, newest first: there can be many, and few are kept as rows."""
    return starmap(HandleRow, connection.execute(_HANDLE + "ORDER BY created_at DESC, seq DESC"))


def handle(connection: sqlite3.Connection, name: str) -> HandleRow | None:
    """Return the image of this name, or None."""
    row = connection.execute(_HANDLE + "WHERE name = ?", (name,)).fetchone()
    return HandleRow(*row) if row else None


def spellings(connection: sqlite3.Connection, reference: str) -> list[HandleRow]:
    """Return the images of a canonical reference, by name: one, or in a home of msb each spelling's."""
    query = _HANDLE + "WHERE reference = ? ORDER BY name"
    return [HandleRow(*row) for row in connection.execute(query, (reference,))]


def handle_by_digest(
    connection: sqlite3.Connection, name: str, tag: str | None, digest: str
) -> HandleRow | None:
    """Return an image of the repository ``name`` (and tag) that points at this manifest digest now."""
    prefix = f"{name}:"
    for row in handles_of(connection, digest):
        if row.reference == f"{prefix}{tag}" or (tag is None and row.reference.startswith(prefix)):
            return row
    return None


def handles_of(connection: sqlite3.Connection, digest: str) -> list[HandleRow]:
    """Return the images that point at this manifest digest now, newest first."""
    query = _HANDLE + "WHERE manifest_digest = ? ORDER BY created_at DESC, seq DESC"
    return [HandleRow(*row) for row in connection.execute(query, (digest,))]


def digests_with(connection: sqlite3.Connection, prefix: str, limit: int) -> list[str]:
    """Return at most ``limit`` manifest digests in the index that begin with ``prefix``, in order."""
    within = (prefix, prefix + AFTER_HEX)
    rows = connection.execute(
        "SELECT digest FROM manifest WHERE digest >= ? AND digest < ? "
        "UNION SELECT manifest_digest FROM image WHERE manifest_digest >= ? AND manifest_digest < ? "
        "UNION SELECT manifest_digest FROM hold WHERE manifest_digest >= ? AND manifest_digest < ? "
        "ORDER BY 1 LIMIT ?",
        (*within, *within, *within, limit),
    )
    return [digest for (digest,) in rows]


def digests_in_log(connection: sqlite3.Connection, prefix: str, limit: int) -> list[str]:
    """Return at most ``limit`` digests that begin with ``prefix``, of all that the log has events about.

    A manifest or layer that only the index has by that digest, because it was never deleted, counts too.
    """
    found = {
        diff_id
        for (diff_id,) in connection.execute(
            "SELECT diff_id FROM layer WHERE diff_id >= ? AND diff_id < ? LIMIT ?",
            (prefix, prefix + AFTER_HEX, limit),
        )
    }
    at = prefix
    for _ in range(limit):
        # From one to the next: a digest can have a million events.
        row = connection.execute(
            "SELECT min(subject) FROM events WHERE subject >= ? AND subject < ?", (at, prefix + AFTER_HEX)
        ).fetchone()
        if row[0] is None:
            break
        found.add(row[0])
        at = row[0] + "\x00"
    return sorted(found)[:limit]


def is_subject(connection: sqlite3.Connection, subject: str) -> bool:
    """Return whether the log has an event about this."""
    return _any(connection, "SELECT 1 FROM events WHERE subject = ? LIMIT 1", subject)


def by_reference(connection: sqlite3.Connection) -> list[HandleRow]:
    """Return every image, by canonical reference."""
    return [HandleRow(*row) for row in connection.execute(_HANDLE + "ORDER BY reference, name")]


def known_references(connection: sqlite3.Connection) -> list[str]:
    """Return every canonical reference that was ever pulled, or tried to be, in order."""
    rows = connection.execute(
        "SELECT reference FROM pointed_at UNION SELECT subject FROM events WHERE type = 'image.pull_failed' "
        "ORDER BY 1"
    )
    return [reference for (reference,) in rows]


def references_of(connection: sqlite3.Connection, digest: str) -> list[str]:
    """Return every canonical reference that ever pointed at a manifest, in order."""
    rows = connection.execute(
        "SELECT reference FROM pointed_at WHERE manifest_digest = ? ORDER BY reference", (digest,)
    )
    return [reference for (reference,) in rows]


def references_ever(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """Return every manifest that a reference ever pointed at, with these, in order."""
    found: dict[str, list[str]] = {}
    rows = connection.execute("SELECT manifest_digest, reference FROM pointed_at ORDER BY reference")
    for digest, reference in rows:
        found.setdefault(digest, []).append(reference)
    return found


def config(connection: sqlite3.Connection, manifest_digest: str) -> ConfigRow | None:
    """Return a manifest's configuration, or None when the index has none."""
    row = connection.execute(
        "SELECT config_digest, config FROM manifest WHERE digest = ? AND config IS NOT NULL",
        (manifest_digest,),
    ).fetchone()
    return ConfigRow(*row) if row else None


def layers(connection: sqlite3.Connection, manifest_digest: str) -> list[LayerDetailRow]:
    """Return a manifest's layers, bottom to top."""
    rows = connection.execute(
        "SELECT ml.diff_id, ml.blob_digest, ml.media_type, ml.compressed_bytes, l.erofs_bytes, ml.position, "
        "d.digest, d.how FROM manifest_layer ml LEFT JOIN layer l ON l.diff_id = ml.diff_id "
        "LEFT JOIN digest d ON d.kind = 'layer' AND d.subject = ml.diff_id "
        "WHERE ml.manifest_digest = ? ORDER BY ml.position",
        (manifest_digest,),
    )
    return [LayerDetailRow(*row) for row in rows]


def has_manifest(connection: sqlite3.Connection, digest: str) -> bool:
    """Return whether the index has this manifest, so that its fsmeta and VMDK are needed."""
    return _any(connection, "SELECT 1 FROM manifest WHERE digest = ?", digest)


def fsmeta_bytes(connection: sqlite3.Connection, digest: str) -> int | None:
    """Return what a manifest's fsmeta image measures; None when it is not in the index."""
    row = connection.execute("SELECT fsmeta_bytes FROM manifest WHERE digest = ?", (digest,)).fetchone()
    return row[0] if row else None


def layer_bytes(connection: sqlite3.Connection, diff_id: str) -> int | None:
    """Return what a layer's image measures; None when it is not in the index, or not known."""
    row = connection.execute("SELECT erofs_bytes FROM layer WHERE diff_id = ?", (diff_id,)).fetchone()
    return row[0] if row else None


def has_layer(connection: sqlite3.Connection, diff_id: str) -> bool:
    """Return whether some manifest in the index needs this layer."""
    return _any(connection, "SELECT 1 FROM manifest_layer WHERE diff_id = ? LIMIT 1", diff_id)


def needs(connection: sqlite3.Connection, record: str, subject: str) -> bool:
    """Return whether the index needs an artifact; of a metadata file the subject is its reference.

    That is one statement, so it needs no transaction to see one position.
    """
    asks = {"image": has_image, "manifest": has_manifest, "layer": has_layer}[record]
    return asks(connection, subject)


def manifests_with(connection: sqlite3.Connection, diff_id: str) -> list[str]:
    """Return the manifests in the index that need this layer."""
    rows = connection.execute(
        "SELECT DISTINCT manifest_digest FROM manifest_layer WHERE diff_id = ? ORDER BY manifest_digest",
        (diff_id,),
    )
    return [digest for (digest,) in rows]


def has_image(connection: sqlite3.Connection, reference: str) -> bool:
    """Return whether the index has this reference in any spelling, so that its metadata file is needed."""
    return _any(connection, "SELECT 1 FROM image WHERE reference = ? LIMIT 1", reference)


def holders(connection: sqlite3.Connection, manifest_digest: str) -> list[str]:
    """Return who holds a manifest, by name."""
    rows = connection.execute(
        f"SELECT holder FROM hold WHERE manifest_digest = ? AND {LASTS} ORDER BY holder",  # noqa: S608
        (manifest_digest,),
    )
    return [holder for (holder,) in rows]


def holds(connection: sqlite3.Connection, manifest_digest: str | None) -> list[HoldDetailRow]:
    """Return the holds of a manifest, or (None) all, by holder."""
    where = LASTS if manifest_digest is None else f"manifest_digest = ? AND {LASTS}"
    names = ", ".join(HoldDetailRow.__struct_fields__)
    rows = connection.execute(
        f"SELECT {names} FROM hold WHERE {where} ORDER BY holder, since, seq",  # noqa: S608
        () if manifest_digest is None else (manifest_digest,),
    )
    return [HoldDetailRow(*row) for row in rows]


def uses(connection: sqlite3.Connection) -> list[UseRow]:
    """Return the boots that have not ended, the longest first; there are never many."""
    names = ", ".join(UseRow.__struct_fields__)
    rows = connection.execute(f"SELECT {names} FROM open_use ORDER BY since, seq")  # noqa: S608
    return [UseRow(*row) for row in rows]


def ended_holds(connection: sqlite3.Connection) -> dict[str, tuple[int, int]]:
    """Return, by manifest digest, when its last hold that ended by itself did, and the event that says so.

    Times in ns since the epoch, UTC.
    """
    rows = connection.execute(
        "SELECT manifest_digest, until, seq FROM hold WHERE until <= moment() ORDER BY until"
    )
    return {digest: (until, seq) for digest, until, seq in rows}


def pin(connection: sqlite3.Connection, subject: str) -> PinDetailRow | None:
    """Return the pin of a canonical reference or manifest digest, None if it has none that lasts."""
    return next(iter(_pins(connection, "subject = ?", subject)), None)


def pins(connection: sqlite3.Connection) -> list[PinDetailRow]:
    """Return the pins that last, by subject."""
    return _pins(connection)


def _pins(connection: sqlite3.Connection, where: str = "true", *values: str) -> list[PinDetailRow]:
    names = ", ".join(PinDetailRow.__struct_fields__)
    query = f"SELECT {names} FROM pin WHERE {where} AND {LASTS} ORDER BY subject"  # noqa: S608
    return [PinDetailRow(*row) for row in connection.execute(query, values)]


def is_pinned(connection: sqlite3.Connection, reference: str, digest: str) -> bool:
    """Return whether a canonical reference is pinned, or the manifest that it points at."""
    query = f"SELECT 1 FROM pin WHERE subject IN (?, ?) AND {LASTS} LIMIT 1"  # noqa: S608
    return connection.execute(query, (reference, digest)).fetchone() is not None


def total_bytes(connection: sqlite3.Connection) -> int:
    """Return what the files of all layers and manifests measure, those left out whose size is unknown."""
    (total,) = connection.execute(
        "SELECT (SELECT coalesce(sum(erofs_bytes), 0) FROM layer) "
        "+ (SELECT coalesce(sum(coalesce(fsmeta_bytes, 0) + coalesce(vmdk_bytes, 0)), 0) FROM manifest)"
    ).fetchone()
    return int(total)


def blob_and_image_bytes(connection: sqlite3.Connection, *, compressed: bool) -> tuple[int, int]:
    """Return the bytes of all layers' blobs that are compressed, or not, and of the images made of them."""
    (blobs, made) = connection.execute(
        "SELECT coalesce(sum(compressed_bytes), 0), coalesce(sum(erofs_bytes), 0) FROM "
        "(SELECT DISTINCT diff_id, blob_digest, media_type, compressed_bytes FROM manifest_layer) "
        "JOIN layer USING (diff_id) "
        "WHERE compressed_bytes > 0 AND erofs_bytes > 0 AND instr(media_type, '+') > 0 = ?",
        (compressed,),
    ).fetchone()
    return int(blobs), int(made)


def held_by(connection: sqlite3.Connection, holder: str) -> list[str]:
    """Return the manifests that a holder holds."""
    rows = connection.execute(
        f"SELECT manifest_digest FROM hold WHERE holder = ? AND {LASTS} ORDER BY manifest_digest",  # noqa: S608
        (holder,),
    )
    return [digest for (digest,) in rows]


def is_held_in_msb(connection: sqlite3.Connection, manifest_digest: str, holder: str) -> bool:
    """Return whether msb's index has this hold."""
    row = connection.execute(
        "SELECT msb_row FROM hold WHERE manifest_digest = ? AND holder = ?", (manifest_digest, holder)
    ).fetchone()
    return row is not None and row[0] is not None


def holds_beside_msb(connection: sqlite3.Connection) -> bool:
    """Return whether a manifest in the index is held, and in msb's index by nobody."""
    query = (
        f"SELECT 1 FROM hold WHERE msb_row IS NULL AND {LASTS} "  # noqa: S608
        "AND manifest_digest IN (SELECT digest FROM manifest) "
        "AND manifest_digest NOT IN (SELECT manifest_digest FROM hold WHERE msb_row IS NOT NULL) LIMIT 1"
    )
    return connection.execute(query).fetchone() is not None


def kept_beside_msb(connection: sqlite3.Connection, manifest_digest: str) -> bool:
    """Return whether only what msb does not know keeps a manifest: holds of ours, a pin of its digest."""
    held_by = holders(connection, manifest_digest)
    if any(is_held_in_msb(connection, manifest_digest, holder) for holder in held_by):
        return False
    return bool(held_by) or is_pinned(connection, manifest_digest, manifest_digest)


def unknown_to_msb(connection: sqlite3.Connection) -> list[str]:
    """Return the canonical references that were never seen in msb's index, in order."""
    rows = connection.execute("SELECT reference FROM image WHERE msb_row IS NULL ORDER BY reference")
    return [reference for (reference,) in rows]


class Damage(Result, Struct, frozen=True):
    """A file that an image needs and that another program deleted: of which kind, what, in which event.

    ``name``, ``reference`` and ``spelling`` are the image's, as in ``HandleRow``; ``spelling`` is None where
    the reference was typed in its familiar form.
    """

    name: str
    reference: str
    spelling: str | None
    kind: str
    subject: str
    seq: int


def damage(connection: sqlite3.Connection) -> list[Damage]:
    """Return what the log knows to be gone of images in the index, by name."""
    of = "i.name, i.reference, i.spelling, d.kind, d.subject, d.seq FROM damage d"
    rows = connection.execute(
        f"SELECT {of} JOIN image i ON i.reference = d.subject WHERE d.mended IS NULL UNION ALL "
        f"SELECT {of} JOIN image i ON i.manifest_digest = d.subject WHERE d.mended IS NULL UNION ALL "
        f"SELECT DISTINCT {of} JOIN manifest_layer m ON m.diff_id = d.subject "
        "JOIN image i ON i.manifest_digest = m.manifest_digest "
        "WHERE d.mended IS NULL AND d.kind = 'layer' ORDER BY 1, 6"
    )
    return [Damage(*row) for row in rows]


def layers_once_damaged(connection: sqlite3.Connection) -> set[str]:
    """Return the diff IDs of layers that were ever deleted although an image needed them."""
    return {diff_id for (diff_id,) in connection.execute("SELECT subject FROM damage WHERE kind = 'layer'")}


def _any(connection: sqlite3.Connection, query: str, value: str) -> bool:
    return connection.execute(query, (value,)).fetchone() is not None
