"""What a fleet has that begins with what a person has typed: hosts, images, operations and the like.

However much a place has, few rows are read: of an index as many entries as there are different answers, at
most so many and the last one. What all answers have in common is right then, which a shell types by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from msb_cache.fleet.place import SCHEMA, Reading, Values
from msb_cache.fleet.roles import GROUPS

MOST = 200
"""Answers to one question of an index, without the last one."""

_AFTER_ALL = "\U0010ffff"
_LOG_ID = re.compile(r"[0-9a-f]{4,32}")
_DIGEST = "sha256:"
_HOST = "coalesce(f.host, h.role)"


def _different(reading: Reading, table: str, column: str, prefix: str) -> list[str]:
    """Return the values of a column that begin so, each once, in order; an index begins with the column.

    From each value the index leads to the next one, past all rows that have the same.
    """
    least = f"SELECT min(t.{column}) FROM {SCHEMA}.{table} t WHERE t.{column}"
    rows = reading.rows(
        f"WITH RECURSIVE found (value) AS ({least} >= ? AND t.{column} < ? UNION ALL "
        f"SELECT ({least} > found.value AND t.{column} < ?) FROM found WHERE found.value IS NOT NULL) "
        "SELECT value FROM found WHERE value IS NOT NULL LIMIT ?",
        (prefix, prefix + _AFTER_ALL, prefix + _AFTER_ALL, MOST + 1),
    )
    found = [value for (value,) in rows]
    if len(found) > MOST:
        [(found[MOST],)] = reading.rows(
            f"SELECT max(t.{column}) FROM {SCHEMA}.{table} t WHERE t.{column} >= ? AND t.{column} < ?",
            (prefix, prefix + _AFTER_ALL),
        )
    return found


def hosts(reading: Reading, prefix: str) -> list[str]:
    """Return hosts' names, and the roles that send their logs."""
    names = _different(reading, "fold_state", "host", prefix) + _different(reading, "head", "role", prefix)
    return [name for name in names if name]  # a log in a file is of no role


def logs(reading: Reading, prefix: str) -> list[tuple[str, str]]:
    """Return the ids of logs, with their hosts, to what can be the beginning of one."""
    if not _LOG_ID.fullmatch(prefix):
        return []
    rows = reading.rows(
        f"SELECT h.log_id, {_HOST} FROM (SELECT log_id, role FROM {SCHEMA}.head WHERE log_id >= ? "
        f"AND log_id < ? ORDER BY log_id LIMIT ?) h LEFT JOIN {SCHEMA}.fold_state f ON f.log_id = h.log_id "
        "ORDER BY h.log_id",
        (prefix, prefix + _AFTER_ALL, MOST),
    )
    return [(log_id, host) for log_id, host in rows]


def references(reading: Reading, prefixes: Iterable[str], *, gone: bool) -> list[str]:
    """Return canonical references of images that are on hosts; with ``gone`` those that ever were."""
    table = "pointed_at" if gone else "image"
    return [name for prefix in prefixes for name in _different(reading, table, "reference", prefix)]


def digests(reading: Reading, prefix: str, *, gone: bool) -> list[str]:
    """Return digests of these images' manifests, to what begins as one."""
    if not prefix.startswith(_DIGEST):
        return []
    return _different(reading, "pointed_at" if gone else "image", "manifest_digest", prefix)


def holders(reading: Reading, prefix: str) -> list[str]:
    """Return who holds an image on any host, or runs one."""
    running = reading.rows(  # they last, so there are few
        f"SELECT DISTINCT holder FROM {SCHEMA}.open_use WHERE holder >= ? AND holder < ? ORDER BY 1 LIMIT ?",
        (prefix, prefix + _AFTER_ALL, MOST),
    )
    return _different(reading, "hold", "holder", prefix) + [holder for (holder,) in running]


def operations(reading: Reading, prefix: str, *, restores: bool) -> list[Values]:
    """Return what deleted something, and with ``restores`` what brought it back: the newest, and the first.

    Each is its id, when it began in ns since the epoch, what it was, of how many images, and on which host.
    """
    found = _operations(reading, "deletion", "d.kind, d.image_refs_removed", prefix)
    if restores:
        found += _operations(reading, "undoing", "'restore', d.restored", prefix)
    return found


def _operations(reading: Reading, table: str, told: str, prefix: str) -> list[Values]:
    def some(order: str, limit: int) -> list[Values]:
        return reading.rows(
            f"SELECT d.operation, d.started_at, {told}, {_HOST} FROM (SELECT * FROM {SCHEMA}.{table} "
            f"WHERE operation >= ? AND operation < ? ORDER BY operation {order} LIMIT ?) d "
            f"JOIN {SCHEMA}.head h ON h.log_id = d.log_id LEFT JOIN {SCHEMA}.fold_state f "
            f"ON f.log_id = d.log_id ORDER BY d.operation {order}",
            (prefix, prefix + _AFTER_ALL, limit),
        )

    found = some("DESC", MOST + 1)
    if len(found) > MOST:
        found[MOST:] = some("ASC", 1)
    return found


def enrolled(reading: Reading, prefix: str) -> list[str]:
    """Return who is enrolled; a fleet in a file enrols nobody, and has no such tables."""
    rows = reading.rows(
        "SELECT DISTINCT m.rolname::text FROM pg_auth_members a JOIN pg_roles g ON g.oid = a.roleid "
        "JOIN pg_roles m ON m.oid = a.member WHERE g.rolname IN (?, ?, ?) AND starts_with(m.rolname, ?) "
        "ORDER BY 1 LIMIT ?",
        (*GROUPS, prefix, MOST),
    )
    return [name for (name,) in rows]


def servers(reading: Reading, prefix: str) -> list[str]:
    """Return the names of further servers."""
    rows = reading.rows(f"SELECT name FROM {SCHEMA}.server ORDER BY name")
    return [name for (name,) in rows if name.startswith(prefix)]
