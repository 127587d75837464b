"""What the files of the index measured when they came, and what of that a prune would free, by SQL alone.

No file is looked at: 50,000 of them would take longer than all else that metrics ask. What the disk really
has, ``disk_usage`` measures.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from msgspec import Struct

from msb_cache.projections.moment import LASTS
from msb_cache.shapes import Result

if TYPE_CHECKING:
    from msb_cache.retention.plan import Plan
    from msb_cache.session import Session


class RecordedFiles(Result, Struct, frozen=True):
    """The files of one kind that the index has.

    Attributes:
        kind: ``layer``, ``fsmeta`` or ``vmdk``.
        files: how many.
        unknown: of how many of them no size was recorded; they count as 0 bytes below.
        bytes: how long they were when they came.
        reclaimable_bytes: how long those of them were that a prune without rules would delete now.
    """

    kind: str
    files: int
    unknown: int
    bytes: int
    reclaimable_bytes: int


NO_FILES = tuple(RecordedFiles(kind, 0, 0, 0, 0) for kind in ("layer", "fsmeta", "vmdk"))
"""Those of a home without a log."""

_ALL = """
SELECT 'layer', count(*), count(*) - count(erofs_bytes), coalesce(sum(erofs_bytes), 0) FROM layer UNION ALL
SELECT 'fsmeta', count(*), count(*) - count(fsmeta_bytes), coalesce(sum(fsmeta_bytes), 0) FROM manifest
UNION ALL
SELECT 'vmdk', count(*), count(*) - count(vmdk_bytes), coalesce(sum(vmdk_bytes), 0) FROM manifest
"""

_STAYING = f"""
SELECT manifest_digest FROM hold WHERE {LASTS} UNION
SELECT manifest_digest FROM open_use UNION
SELECT subject FROM pin WHERE {LASTS} UNION
SELECT manifest_digest FROM image WHERE reference IN (SELECT subject FROM pin WHERE {LASTS})
"""  # noqa: S608
"""The manifests that a prune without rules keeps: ``retention.plan.plan_prune`` in SQL."""

_STAYING_BESIDE_PINS = f"""
UNION SELECT digest FROM manifest
WHERE EXISTS (SELECT 1 FROM pin WHERE {LASTS}) AND digest NOT IN (SELECT manifest_digest FROM image)
"""  # noqa: S608
"""Where msb keeps the home: manifests that no reference points at go only when msb prunes all."""


def recorded_files(session: Session, connection: sqlite3.Connection) -> list[RecordedFiles]:
    """Return what the files of the index measured when they came, by kind.

    Args:
        session: the home.
        connection: its index, in a read transaction.
    """
    if session.kept_by_msb and _some_unknown_to_msb(connection):
        # What msb would take away from images that it does not know is in no few words of SQL.
        from msb_cache.retention.plan import plan_prune

        state = session.engine().index_to_judge(connection, facts=False, labels=False)
        free = _of_plan(connection, plan_prune(state))
        found = [(*row, free[row[0]]) for row in connection.execute(_ALL)]
    else:
        kept = _kept(connection, by_msb=session.kept_by_msb)
        found = [(*row, row[3] - kept[row[0]]) for row in connection.execute(_ALL)]
    return [RecordedFiles(*row) for row in found]


def _some_unknown_to_msb(connection: sqlite3.Connection) -> bool:
    found = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM image WHERE msb_row IS NULL) "
        "OR EXISTS (SELECT 1 FROM manifest WHERE msb_row IS NULL)"
    )
    return bool(found.fetchone()[0])


def _kept(connection: sqlite3.Connection, *, by_msb: bool) -> dict[str, int]:
    """Return how many recorded bytes a prune keeps, by kind."""
    staying = _STAYING + _STAYING_BESIDE_PINS if by_msb else _STAYING
    fsmeta, vmdk, layer = connection.execute(
        f"WITH staying AS MATERIALIZED ({staying}) "  # noqa: S608
        "SELECT coalesce(sum(fsmeta_bytes), 0), coalesce(sum(vmdk_bytes), 0), "
        "(SELECT coalesce(sum(erofs_bytes), 0) FROM layer WHERE diff_id IN "
        "(SELECT diff_id FROM manifest_layer WHERE manifest_digest IN staying)) "
        "FROM manifest WHERE digest IN staying"
    ).fetchone()
    return {"layer": layer, "fsmeta": fsmeta, "vmdk": vmdk}


def _of_plan(connection: sqlite3.Connection, plan: Plan) -> dict[str, int]:
    """Return how many recorded bytes a plan deletes, by kind."""
    layers = dict(connection.execute("SELECT diff_id, coalesce(erofs_bytes, 0) FROM layer"))
    manifests = {
        digest: sizes
        for digest, *sizes in connection.execute(
            "SELECT digest, coalesce(fsmeta_bytes, 0), coalesce(vmdk_bytes, 0) FROM manifest"
        )
    }
    return {
        "layer": sum(layers.get(diff_id, 0) for diff_id in plan.layers),
        "fsmeta": sum(manifests[digest][0] for digest in plan.manifests),
        "vmdk": sum(manifests[digest][1] for digest in plan.manifests),
    }
