"""The Merkle tree of RFC 6962: its root, and proofs of a leaf in it or of a larger tree that goes on from it.

Pure: it knows no log. A tree is given by its complete subtrees, ``subtree(level, index)``: the hash over the
``2 ** level`` leaves from ``index * 2 ** level`` on. Hashes have 32 bytes, indexes begin at 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256

Subtree = Callable[[int, int], bytes]
"""The hash of a complete subtree: of ``2 ** level`` leaves, the ``index``-th of that level."""

EMPTY_ROOT = sha256(b"").digest()
"""The root of the tree without leaves."""

HASH_BYTES = 32

MOST_HASHES = 63
"""No proof of a log has more hashes: its positions have 63 bits."""


def leaf_hash(leaf: bytes) -> bytes:
    """Return the hash of a leaf."""
    return sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node over those of its two sides."""
    return sha256(b"\x01" + left + right).digest()


def combined(hashes: Sequence[bytes]) -> bytes:
    """Return the hash over neighbours of one level; there are a power of two of them."""
    level = list(hashes)
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=True)
        level = [sha256(b"\x01" + left + right).digest() for left, right in pairs]
    return level[0]


def root(size: int, subtree: Subtree) -> bytes:
    """Return the root of the tree with the first ``size`` leaves."""
    return _over(0, size, subtree) if size else EMPTY_ROOT


def inclusion_path(index: int, size: int, subtree: Subtree) -> list[bytes]:
    """Return what proves that a leaf is in the tree of ``size`` leaves, from its sibling up (2.1.1)."""
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    start, end, path = 0, size, []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_over(middle, end, subtree))
            end = middle
        else:
            path.append(_over(start, middle, subtree))
            start = middle
    return path[::-1]


def consistency_path(old: int, new: int, subtree: Subtree) -> list[bytes]:
    """Return what proves that the tree of ``new`` leaves begins with that of ``old`` (2.1.2)."""
    if not 0 < old <= new:
        raise ValueError(f"a tree of {new} leaves goes on from none of {old}")
    start, end, path, whole = 0, new, [], True
    while old - start < end - start:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(_over(middle, end, subtree))
            end = middle
        else:
            path.append(_over(start, middle, subtree))
            start, whole = middle, False
    if not whole:
        path.append(_over(start, end, subtree))
    return path[::-1]


def root_of_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root that a path leads to from the hash of a leaf; None: the path does not fit the tree."""
    if not 0 <= index < size:
        return None
    found, position, last, rest = leaf, index, size - 1, iter(path)
    for side in rest:
        if last == 0:
            return None
        if position & 1 or position == last:
            found = node_hash(side, found)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            found = node_hash(found, side)
        position, last = position >> 1, last >> 1
    return found if last == 0 else None


def is_consistent(old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> bool:
    """Return whether a path proves that the tree of ``new`` leaves begins with that of ``old``.

    Of the empty tree every other goes on, without a path.
    """
    if old == 0:
        return not path and (old_root == EMPTY_ROOT) and (new > 0 or new_root == EMPTY_ROOT)
    if old > new:
        return False
    if old == new:
        return not path and old_root == new_root
    hashes = [old_root, *path] if old & (old - 1) == 0 else list(path)
    position, last = old - 1, new - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    if not hashes:
        return False
    first = second = hashes[0]
    for side in hashes[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            first, second = node_hash(side, first), node_hash(side, second)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            second = node_hash(second, side)
        position, last = position >> 1, last >> 1
    return last == 0 and first == old_root and second == new_root


class Frontier:
    """A tree that grows at its end: all that its next roots take of the leaves that it has.

    Attributes:
        size: how many leaves it has.
    """

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[bytes] = []
        """The hashes of the complete subtrees that it is made of, the largest first."""

    @classmethod
    def proved(cls, leaf: bytes, size: int, path: Sequence[bytes]) -> Frontier:
        """Return the tree of ``size`` leaves from the hash of its last leaf and the path of that.

        The path of the last leaf holds all of a tree that the next ones build on. So where the path leads to
        a root that is believed, all of it is.
        """
        found = cls()
        found.size = size
        below = (size & -size).bit_length() - 1  # levels of the subtree that ends with the last leaf
        last = leaf
        for side in path[:below]:
            last = node_hash(side, last)
        found._peaks = [*reversed(path[below:]), last]
        return found

    @classmethod
    def kept(cls, size: int, peaks: bytes) -> Frontier:
        """Return the tree of ``size`` leaves again from its ``peaks``."""
        found = cls()
        found.size = size
        found._peaks = [peaks[start : start + HASH_BYTES] for start in range(0, len(peaks), HASH_BYTES)]
        return found

    @property
    def peaks(self) -> bytes:
        """The hashes of the complete subtrees that it is made of, the largest first, one behind the other."""
        return b"".join(self._peaks)

    def append(self, leaf: bytes) -> None:
        """Add the hash of a leaf."""
        self.size += 1
        full = self.size
        while not full & 1:
            leaf = node_hash(self._peaks.pop(), leaf)
            full >>= 1
        self._peaks.append(leaf)

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add the hashes of leaves."""
        for leaf in leaves:
            self.append(leaf)

    def root(self) -> bytes:
        """Return the root of the tree as it is."""
        if not self._peaks:
            return EMPTY_ROOT
        found = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            found = node_hash(peak, found)
        return found


def _split(count: int) -> int:
    """Return the largest power of two below a count of two or more."""
    return 1 << ((count - 1).bit_length() - 1)


def _over(start: int, end: int, subtree: Subtree) -> bytes:
    """Return the hash over the leaves of a side of the tree."""
    hashes = list(_complete(start, end, subtree))
    found = hashes.pop()
    while hashes:
        found = node_hash(hashes.pop(), found)
    return found


def _complete(start: int, end: int, subtree: Subtree) -> Iterator[bytes]:
    """Yield the hashes of the complete subtrees of a side, the largest first."""
    while start < end:
        level = (end - start).bit_length() - 1
        yield subtree(level, start >> level)
        start += 1 << level
