"""What the log has of the bytes of artifacts."""

from __future__ import annotations

import sqlite3

from msb_cache.projections.rows import DigestRow
from msb_cache.projections.tables import columns, stored_rows

Artifact = tuple[str, str]
"""An artifact's kind, and its subject."""


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
