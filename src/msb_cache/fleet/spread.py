"""How images are spread: which references how many hosts have, and where each was used last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

import msgspec

from msb_cache.fleet.place import Reading
from msb_cache.oci.reference import familiar
from msb_cache.shapes import Result

NAMES = 5
"""So many hosts of an image are named."""

_SPREAD = f"""
WITH one AS (
    SELECT i.reference, i.log_id, max(i.last_used_at) AS used, max(i.size_bytes) AS size,
        max(CASE WHEN i.in_use_since IS NULL THEN 0 ELSE 1 END) AS running
    FROM msb_cache.image i GROUP BY i.reference, i.log_id
), ranked AS (
    SELECT one.*, row_number() OVER (PARTITION BY reference ORDER BY used DESC, log_id) AS place FROM one
), whole AS (
    SELECT reference, count(*) AS hosts, sum(coalesce(size, 0)) AS size, sum(running) AS running FROM one
    GROUP BY reference ORDER BY 2 DESC, 1 LIMIT ?
)
SELECT w.reference, w.hosts, w.size, w.running, r.used, coalesce(f.host, h.role), i.manifest_digest
FROM whole w JOIN ranked r ON r.reference = w.reference AND r.place <= {NAMES}
JOIN msb_cache.image i ON i.log_id = r.log_id AND i.reference = r.reference
JOIN msb_cache.head h ON h.log_id = r.log_id
LEFT JOIN msb_cache.fold_state f ON f.log_id = r.log_id
ORDER BY w.hosts DESC, w.reference, r.place, i.name
"""


class Spread(Result, msgspec.Struct, frozen=True, gc=False):
    """A reference, and where it is.

    Attributes:
        reference: in familiar form.
        hosts: how many logs' hosts have it.
        names: those where it was used last, the newest first; at most 5.
        digests: the manifests that it points at on those.
        size_bytes: its blobs' sizes on all hosts together, as far as they are known.
        last_used_at_ns: when it was last pulled or used on any of them, in ns since the epoch, UTC.
        in_use: on how many hosts sandboxes run from it.
    """

    reference: str
    hosts: int
    names: tuple[str, ...]
    digests: tuple[str, ...]
    size_bytes: int
    last_used_at_ns: int
    in_use: int


def spread(reading: Reading, limit: int) -> Iterator[Spread]:
    """Yield the references that most hosts of a place have, these first; at most ``limit``."""
    found = reading.rows(_SPREAD, (limit,))
    for (reference, hosts, size, running), rows in groupby(found, key=lambda row: row[:4]):
        of_hosts = [*rows]
        yield Spread(
            familiar(reference),
            hosts,
            tuple(dict.fromkeys(row[5] for row in of_hosts)),
            tuple(dict.fromkeys(row[6] for row in of_hosts)),
            int(size),
            of_hosts[0][4],
            int(running),
        )


def together(found: Iterable[Spread], limit: int) -> list[Spread]:
    """Return what several places have found as one, those that most hosts have first."""
    merged: dict[str, Spread] = {}
    for each in found:
        before = merged.get(each.reference)
        merged[each.reference] = each if before is None else _sum(before, each)
    return sorted(merged.values(), key=lambda each: (-each.hosts, each.reference))[:limit]


def _sum(one: Spread, other: Spread) -> Spread:
    newer, older = sorted((one, other), key=lambda each: each.last_used_at_ns, reverse=True)
    return Spread(
        one.reference,
        one.hosts + other.hosts,
        (newer.names + older.names)[:NAMES],
        tuple(dict.fromkeys(newer.digests + older.digests)),
        one.size_bytes + other.size_bytes,
        newer.last_used_at_ns,
        one.in_use + other.in_use,
    )
