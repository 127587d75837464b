"""How much memory the trees of an image take while it is converted, and how much they may.

A layer of some megabytes expands to millions of names, or to gigabytes of extended attributes. Its files'
data goes to the disk as it comes; what a tree holds is counted here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Lock

from msb_cache.artifacts.tree import Node
from msb_cache.errors import InvalidImageError

Claim = Callable[[int], None]
"""Takes so many bytes more, or raises InvalidImageError."""

MAX_FOOTPRINT = 2 << 30
"""Bytes for all layers of one image: two million files; the largest public images have under a million."""
_NAME = 1024
_DIRECTORY = 512
_XATTR = 256
_COPIES = 3
"""Of a name, link or attribute, at once: in the tree, encoded, and in the metadata that is written."""


def footprint(name: bytes, node: Node) -> int:
    """The bytes that a name and its node take at most at one time, as measured and rounded up."""
    found = _NAME + _COPIES * (len(name) + len(node.target))
    if node.children is not None:
        found += _DIRECTORY
    if node.xattrs:
        found += xattrs_footprint(node.xattrs)
    return found


def xattrs_footprint(xattrs: Mapping[bytes, bytes]) -> int:
    """The bytes that the extended attributes of one node take."""
    return _XATTR + sum(_XATTR + _COPIES * (len(name) + len(value)) for name, value in xattrs.items())


class Allowance:
    """What the trees of one image may still take; its layers share it, which threads convert side by side."""

    def __init__(self) -> None:
        self._left = MAX_FOOTPRINT
        self._lock = Lock()

    def claim(self, size: int) -> None:
        """Take ``size`` bytes; raises InvalidImageError when there are not so many left."""
        with self._lock:
            self._left -= size
            if self._left < 0:
                raise InvalidImageError(
                    "The image has too many files, or too long names, links and extended attributes: "
                    f"its trees would take more than {MAX_FOOTPRINT >> 20} MiB of memory."
                )
