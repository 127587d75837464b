"""The tree of one layer, or of several merged ones, as plain nodes in memory.

Knows neither tar nor EROFS: readers build these nodes, writers walk them. Made for hundreds of
thousands of nodes, so a node is nothing but slots. Two names of one file are the same object.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

IMPLICIT_DIRECTORY_MODE = stat.S_IFDIR | 0o755
MAX_DEPTH = 1024
"""Directories below one another; far above what PATH_MAX lets a program reach in one step."""
MAX_NAME = 255
"""Bytes in one name: NAME_MAX of Linux."""
MAX_TARGET = 4095
"""Bytes in a symbolic link: PATH_MAX of Linux without its NUL."""


class Node:
    """One inode: a directory, file, symbolic link, device or FIFO.

    ``mode`` is the full ``st_mode``; ``mtime`` counts whole seconds since the epoch, rounded down
    (it may be negative), ``mtime_ns`` the nanoseconds after it; ``rdev`` is (major, minor); ``size``
    is in bytes and set for regular files; ``target`` is a symbolic link's text. ``children`` is a
    dict for directories and None for everything else.

    ``opaque`` hides what lower layers have in this directory. ``implicit`` marks a directory that
    exists only because something lies below it: the layer never mentions it, so a lower layer's
    owner and mode stay (OCI image-spec, layer.md). ``device`` says which image holds the data (0 is
    the image the node was read from, n the n-th layer from the bottom), ``block`` where it begins
    there, in blocks of 4096 bytes.

    A whiteout is a character device 0/0, as in overlayfs.
    """

    __slots__ = (
        "block",
        "children",
        "device",
        "gid",
        "implicit",
        "mode",
        "mtime",
        "mtime_ns",
        "opaque",
        "rdev",
        "size",
        "target",
        "uid",
        "xattrs",
    )

    def __init__(
        self,
        mode: int,
        uid: int = 0,
        gid: int = 0,
        mtime: int = 0,
        mtime_ns: int = 0,
        *,
        rdev: tuple[int, int] = (0, 0),
        size: int = 0,
        target: bytes = b"",
        xattrs: dict[bytes, bytes] | None = None,
        children: dict[bytes, Node] | None = None,
        opaque: bool = False,
        implicit: bool = False,
        device: int = 0,
        block: int = 0,
    ) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime = mtime
        self.mtime_ns = mtime_ns
        self.rdev = rdev
        self.size = size
        self.target = target
        self.xattrs = xattrs
        self.children = children
        self.opaque = opaque
        self.implicit = implicit
        self.device = device
        self.block = block

    def __repr__(self) -> str:
        return f"<Node {stat.filemode(self.mode)} {self.uid}:{self.gid} size={self.size}>"


def implicit_directory() -> Node:
    """A directory that no layer described: 0755, root:root, modified at the epoch."""
    return Node(IMPLICIT_DIRECTORY_MODE, children={}, implicit=True)


def whiteout() -> Node:
    """What hides a name of the lower layers: a character device 0/0."""
    return Node(stat.S_IFCHR)


def is_whiteout(node: Node) -> bool:
    """Whether the node is a whiteout (overlayfs.rst, "whiteouts and opaque directories")."""
    return node.rdev == (0, 0) and stat.S_ISCHR(node.mode)


def walk(root: Node) -> Iterator[tuple[bytes, Node]]:
    """Every path and its node, a directory before what it holds, siblings by name.

    Paths have no leading slash; the root's is empty. Without recursion, so depth does not matter.
    """
    stack = [(b"", root)]
    while stack:
        path, node = stack.pop()
        yield path, node
        if node.children:
            prefix = path + b"/" if path else b""
            stack.extend(
                (prefix + name, child) for name, child in sorted(node.children.items(), reverse=True)
            )


def quoted(path: bytes) -> str:
    """A name from an archive for an error message: no control characters, at most 160 characters."""
    text = repr(path)[1:]
    return text if len(text) <= 160 else f"{text[:150]}…{text[-1]}"
