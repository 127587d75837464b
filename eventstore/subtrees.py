"""The Merkle tree over a log: its leaves are the events' chain hashes, in the order of their positions.

Of the tree the hashes of complete subtrees are kept, of 256 leaves each, of 256 of those, and so on. So a
root takes a few reads however long the log is, and an append adds one row in 256 events. They are derived:
what signs recomputes them, and a log without them has the same roots.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from msb_cache.errors import CorruptLogError
from msb_cache.eventstore import merkle
from msb_cache.shapes import Result

if TYPE_CHECKING:
    from msb_cache.eventstore.chain import Rows

STEP = 8
"""Each kept level is so many above the one below it."""

WIDTH = 1 << STEP
"""A kept subtree has so many of the level below it."""

_LEAVES = "SELECT hash FROM events WHERE seq > ? AND seq <= ? ORDER BY seq"
_INSERT = "INSERT OR REPLACE INTO subtree (level, position, hash) VALUES (?, ?, ?)"


@dataclass(frozen=True)
class SubtreeProblem(Result):
    """A kept hash that is not the one of its leaves: the ``position``-th, from 0, of ``2 ** level``."""

    level: int
    position: int


def keep(connection: sqlite3.Connection, size: int) -> None:
    """Keep what is missing of the subtrees of a log's first ``size`` events; in a write transaction.

    The first time, all of them are made, in one pass over the log's hashes.
    """
    level = STEP
    while size >> level:
        first, count = _complete(connection, level), size >> level
        hashes = _over_events if level == STEP else _over_subtrees
        rows = enumerate(hashes(connection, level, first, count), first)
        connection.executemany(_INSERT, ((level, position, found) for position, found in rows))
        level += STEP


def is_kept(connection: sqlite3.Connection, size: int) -> bool:
    """Return whether all is kept that there is to keep of the first ``size`` events."""
    return _complete(connection, STEP) == size // WIDTH


def keep_up(connection: sqlite3.Connection, before: int, size: int) -> None:
    """Keep the subtrees that an append from ``before`` to ``size`` events has completed.

    Of a log whose earlier ones are not all there none are kept: an append does not read the whole log.
    """
    if before // WIDTH != size // WIDTH and _complete(connection, STEP) == before // WIDTH:
        keep(connection, size)


def forget(connection: sqlite3.Connection) -> None:
    """Delete what is kept; in a write transaction."""
    connection.execute("DELETE FROM subtree")


class LogTree:
    """The tree over a log, in a read of it.

    Args:
        connection: the log.
        size: how many of its events; no more than it has.
    """

    def __init__(self, connection: sqlite3.Connection, size: int) -> None:
        self._connection = connection
        self.size = size

    def root(self, size: int | None = None) -> bytes:
        """Return the root over the first ``size`` events; None: over all."""
        return merkle.root(self.size if size is None else size, self.subtree)

    def inclusion_path(self, seq: int) -> list[bytes]:
        """Return what proves that the event at a position is in the tree."""
        return merkle.inclusion_path(seq - 1, self.size, self.subtree)

    def consistency_path(self, old: int) -> list[bytes]:
        """Return what proves that the tree goes on from that of the first ``old`` events, at least one."""
        return merkle.consistency_path(old, self.size, self.subtree)

    def subtree(self, level: int, index: int) -> bytes:
        """Return the hash of a complete subtree, from what is kept of it or below it."""
        if level and level % STEP == 0:
            found = self._kept(level, index, index + 1)
            if found:
                return found[0]
        below = max(0, level - 1) // STEP * STEP
        count = 1 << (level - below)
        return merkle.combined(self._of_level(below, index * count, (index + 1) * count))

    def _of_level(self, level: int, start: int, end: int) -> Sequence[bytes]:
        if level == 0:
            return _leaves(self._connection, start, end)
        hashes = self._kept(level, start, end)
        if len(hashes) == end - start:
            return hashes
        return [self.subtree(level, index) for index in range(start, end)]

    def _kept(self, level: int, start: int, end: int) -> list[bytes]:
        rows = self._connection.execute(
            "SELECT hash FROM subtree WHERE level = ? AND position >= ? AND position < ? "
            "AND typeof(hash) = 'blob' AND length(hash) = 32 ORDER BY position",
            (level, start, end),
        )
        return [found for (found,) in rows]


class Recomputed:
    """The tree over rows as a check of the log meets them, and what of the kept hashes is not of them.

    A full block of rows is hashed at once, and of a tree that ends within one only the root is made.

    Args:
        roots_of: at which sizes the root is wanted.
    """

    def __init__(self, roots_of: Iterable[int] = ()) -> None:
        self._wanted = sorted({*roots_of}, reverse=True)
        self._roots: dict[int, bytes] = {}
        self._levels: dict[tuple[int, int], bytes] = {}
        self._begun: list[list[bytes]] = [[]]
        """The hashes of rows that make no block yet; of the blocks that make no subtree of the next kept
        level; and so on."""
        self._blocks = 0

    @property
    def size(self) -> int:
        """How many rows there were."""
        return self._blocks * WIDTH + len(self._begun[0])

    def add(self, stored: bytes) -> None:
        """Take the hash of the next row."""
        block = self._begun[0]
        block.append(stored)
        if len(block) == WIDTH:
            self._close()

    def following(self, rows: Rows) -> Rows:
        """Yield rows, and take the hash of each when the next one is asked for: the row was in order then."""
        block = self._begun[0]
        for row in rows:
            yield row
            block.append(row[1])
            if len(block) == WIDTH:
                self._close()

    def root(self, size: int) -> bytes | None:
        """Return the root over the first rows, of a size that was asked for; None: it was not reached."""
        if size not in self._roots and self._blocks * WIDTH <= size <= self.size:
            self._roots[size] = self._root(size, _leaf_hashes(self._begun[0]))
        return self._roots.get(size)

    def problems(self, connection: sqlite3.Connection, *, whole: bool = True) -> Iterator[SubtreeProblem]:
        """Yield each kept hash that is not the one of these rows.

        Args:
            connection: the log.
            whole: these are all of its rows; else of what lies behind them nothing is said.
        """
        for level, position, found in connection.execute(
            "SELECT level, position, hash FROM subtree ORDER BY level, position"
        ):
            made = self._levels.get((level, position))
            if made != found and (made is not None or whole):
                yield SubtreeProblem(level, position)

    def lacks(self, connection: sqlite3.Connection) -> bool:
        """Return whether fewer are kept than these rows have."""
        (kept,) = connection.execute("SELECT count(*) FROM subtree").fetchone()
        return int(kept) < len(self._levels)

    def keep(self, connection: sqlite3.Connection) -> None:
        """Keep just the subtrees of these rows, in place of all that is kept; in a write transaction."""
        forget(connection)
        rows = ((level, position, found) for (level, position), found in self._levels.items())
        connection.executemany(_INSERT, rows)

    def _close(self) -> None:
        """Make the hash of a full block, and of the larger subtrees that it completes."""
        block = self._begun[0]
        leaves = _leaf_hashes(block)
        first = self._blocks * WIDTH
        while self._wanted and self._wanted[-1] < first + WIDTH:
            size = self._wanted.pop()
            if size >= first:
                self._roots[size] = self._root(size, leaves)
        block.clear()
        self._blocks += 1
        depth, found = 1, merkle.combined(leaves)
        while True:
            level = depth * STEP
            self._levels[level, (self._blocks * WIDTH >> level) - 1] = found
            if depth == len(self._begun):
                self._begun.append([])
            self._begun[depth].append(found)
            if len(self._begun[depth]) < WIDTH:
                return
            found = merkle.combined(self._begun[depth])
            self._begun[depth].clear()
            depth += 1

    def _root(self, size: int, leaves: Sequence[bytes]) -> bytes:
        """Return the root of a tree that ends in the block that is not full yet."""

        def subtree(level: int, index: int) -> bytes:
            depth, above = divmod(level, STEP)
            known = self._begun[depth] if depth else leaves
            ended = self._blocks * WIDTH >> (depth + 1) * STEP << STEP  # those in whole ones above
            first = (index << above) - ended
            return merkle.combined(known[first : first + (1 << above)])

        return merkle.root(size, subtree)


def _complete(connection: sqlite3.Connection, level: int) -> int:
    """Return how many subtrees of a level are kept, without holes at the end."""
    (found,) = connection.execute(
        "SELECT coalesce(max(position), -1) + 1 FROM subtree WHERE level = ?", (level,)
    ).fetchone()
    return int(found)


def _over_events(connection: sqlite3.Connection, level: int, first: int, count: int) -> Iterator[bytes]:
    """Yield the hashes of subtrees over the events themselves, from the first to that before ``count``."""
    rows = connection.execute(_LEAVES, (first << level, count << level))
    for _ in range(first, count):
        yield merkle.combined(_checked(rows.fetchmany(WIDTH), WIDTH))


def _over_subtrees(connection: sqlite3.Connection, level: int, first: int, count: int) -> Iterator[bytes]:
    """Yield the same over the subtrees below them."""
    tree = LogTree(connection, count << level)
    for index in range(first, count):
        yield tree.subtree(level, index)


def _leaves(connection: sqlite3.Connection, start: int, end: int) -> list[bytes]:
    return _checked(connection.execute(_LEAVES, (start, end)).fetchall(), end - start)


def _checked(rows: list[tuple[object]], count: int) -> list[bytes]:
    """Return the hashes of leaves of so many rows."""
    try:
        hashes = _leaf_hashes([stored for (stored,) in rows])  # type: ignore[misc]
    except TypeError:
        hashes = []
    if len(hashes) != count:
        raise CorruptLogError("the log lacks an event, or the hash of one; `msb-cache verify` says which")
    return hashes


def _leaf_hashes(hashes: Iterable[bytes]) -> list[bytes]:
    """Return ``merkle.leaf_hash`` of each, for many."""
    return [sha256(b"\x00" + stored).digest() for stored in hashes]
