"""What the log has of the bytes of artifacts."""

from __future__ import annotations

import sqlite3

from msb_cache.projections.rows import DigestRow
from msb_cache.projections.tables import columns, stored_rows

Artifact = tuple[str, str]
"""An artifact's kind, and its subject."""

_SUBJECTS = {
    "image": "SELECT DISTINCT reference AS subject FROM image",
    "manifest": "SELECT digest AS subject FROM manifest",
    "layer": "SELECT diff_id AS subject FROM layer UNION SELECT diff_id FROM manifest_layer",
}
"""What the index has of each record that needs artifacts."""


def digest(connection: sqlite3.Connection, artifact: Artifact) -> DigestRow | None:
    """Return what is known of an artifact's bytes."""
    names = ", ".join(columns(DigestRow))
    row = connection.execute(
        f"SELECT {names} FROM digest WHERE kind = ? AND subject = ?",  # noqa: S608
        artifact,
    ).fetchone()
    return DigestRow(*row) if row else None


def digests(connection: sqlite3.Connection) -> dict[Artifact, DigestRow]:
    """Return all that is known."""
    found = (DigestRow(*row) for row in stored_rows(connection, DigestRow))
    return {(row.kind, row.subject): row for row in found}


def undigested(connection: sqlite3.Connection, kind: str, record: str) -> list[Artifact]:
    """Return the artifacts of one kind that the index needs and of whose bytes nothing is known, in order.

    Args:
        connection: the live index.
        kind: the kind.
        record: what of the index needs one: ``image``, ``manifest`` or ``layer``.
    """
    found = connection.execute(
        f"SELECT subject FROM ({_SUBJECTS[record]}) AS needed WHERE NOT EXISTS "  # noqa: S608
        "(SELECT 1 FROM digest WHERE kind = ? AND digest.subject = needed.subject) ORDER BY subject",
        (kind,),
    )
    return [(kind, subject) for (subject,) in found]
