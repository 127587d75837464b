"""Applies the entries of a layer's tar archive to a tree, by the rules of the OCI image-spec.

A layer is a change set (OCI image-spec, layer.md): names, and whiteouts that only concern lower
layers, wherever in the archive they stand. Knows trees and names; who copies the data is not here.
A layer is converted once, whatever lies below it, so nothing here looks at another layer.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from typing import Protocol

from msb_cache.artifacts.erofs import format as fmt
from msb_cache.artifacts.footprint import Allowance, Claim, footprint, xattrs_footprint
from msb_cache.artifacts.tree import (
    MAX_DEPTH,
    MAX_NAME,
    MAX_TARGET,
    Node,
    implicit_directory,
    quoted,
    whiteout,
)
from msb_cache.errors import InvalidImageError

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
BOOKKEEPING = b".wh..wh."
"""aufs kept its own files under such names; they are no part of the image."""

MAX_LINKS = 40
"""Symbolic links that one path may run through: Linux' MAXSYMLINKS."""

MAX_DETOURS = 32_000_000
"""Names that links may add to all paths of a layer: a member of 512 bytes can ask for 80,000, or 10 ms."""

_CLAIM_BYTES = 1 << 20
_WHITEOUT = whiteout()

_TYPES = {
    "file": stat.S_IFREG,
    "directory": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "character": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
}


class Entry(Protocol):
    """One member of a layer's archive, as the tar reader yields it."""

    @property
    def path(self) -> bytes:
        """Its name, as the archive has it."""

    @property
    def type(self) -> str:
        """file, directory, symlink, hardlink, character, block or fifo."""

    @property
    def mode(self) -> int:
        """Permissions: the bits 07777."""

    @property
    def uid(self) -> int:
        """The owner's number."""

    @property
    def gid(self) -> int:
        """The group's number."""

    @property
    def mtime(self) -> int:
        """Seconds since the epoch, rounded down; negative before it."""

    @property
    def mtime_ns(self) -> int:
        """Nanoseconds after ``mtime``: 0 to 999,999,999."""

    @property
    def size(self) -> int:
        """Bytes of a regular file, holes included."""

    @property
    def link(self) -> bytes:
        """What a symbolic link says, or the earlier name a hard link is another one of."""

    @property
    def device(self) -> tuple[int, int]:
        """Major and minor number of a device."""

    @property
    def xattrs(self) -> Mapping[bytes, bytes]:
        """Extended attributes by their full names."""

    def copy_to(self, put: Callable[[memoryview, int], None], offset: int) -> None:
        """Hand the member's ``size`` bytes to ``put``, with the place of each piece from ``offset`` on.

        Holes are left out. The pieces stay as they are. The next entry must not yet be taken.
        """


class ChangeSet:
    """A tree that grows entry by entry; :meth:`finish` puts the whiteouts in and hands it out.

    Later entries win over earlier ones of the same name. A directory over a directory only changes
    its metadata; anything else over anything else replaces it with all that is below.

    A path that runs through a symbolic link of this layer is followed inside the layer, as an
    extraction in a chroot (or umoci's) would; one through a file is refused.

    ``footprint`` is what the tree takes of the memory, in bytes. It is claimed in pieces as it grows; without
    a ``claim`` the layer may take what an image may.
    """

    def __init__(self, claim: Claim | None = None) -> None:
        self._root = implicit_directory()
        self._whiteouts: list[tuple[Node, bytes]] = []
        self.footprint = 0
        self._claim = claim or Allowance().claim
        self._claimed = 0
        self._detours = 0
        self._head: bytes | None = None  # the parent path seen last, and its node: most repeat it
        self._parent = self._root

    def add(self, entry: Entry) -> Node | None:
        """Put one entry in; the node if it is a regular file (the caller copies its data)."""
        path = entry.path
        head, _, name = path.rstrip(b"/").rpartition(b"/")
        if name == b"" or name == b"." or name == b"..":
            parts = _components(path, path)
            if not parts:
                self._describe_root(entry)
                return None
            head, name = b"/".join(parts[:-1]), parts[-1]
        # What a whiteout hides may have a name of the full length, so its own may be longer.
        _check_name(name.removeprefix(WHITEOUT), path)
        if BOOKKEEPING in path and _is_bookkeeping(path):
            if name == OPAQUE and not _is_bookkeeping(head):
                self._directory(head, path).opaque = True
            return None
        parent = self._directory(head, path)
        if name.startswith(WHITEOUT):
            self._whiteout(parent, name[len(WHITEOUT) :], path)
            return None
        if entry.type == "directory":
            existing = (parent.children or {}).get(name)
            if existing is not None and existing.children is not None:
                self._redescribe(existing, entry)
                return None
        if entry.type == "hardlink":
            self._put(parent, name, self._link_target(entry))
            return None
        node = _node(entry)
        if node.rdev == (0, 0) and entry.type == "character":
            # overlayfs, and so every reader of a layer image, takes this device for a whiteout.
            (parent.children or {}).pop(name, None)
            self._head = None
            self._whiteout(parent, name, path)
            return None
        self._put(parent, name, node)
        return node if entry.type == "file" else None

    def finish(self) -> Node:
        """The layer's tree. A whiteout beside a directory of the same name makes that one opaque."""
        self._claim_rest()
        for parent, name in self._whiteouts:
            children = parent.children
            assert children is not None  # noqa: S101
            node = children.get(name)
            if node is None:
                children[name] = whiteout()
            elif node.children is not None:
                # The lower directory is gone, so its owner and mode are not inherited either.
                node.opaque = True
                node.implicit = False
        return self._root

    def _describe_root(self, entry: Entry) -> None:
        if entry.type != "directory":
            raise InvalidImageError(f"The layer replaces its root directory by a {entry.type}.")
        self._redescribe(self._root, entry)

    def _redescribe(self, node: Node, entry: Entry) -> None:
        _describe(node, entry)
        if node.xattrs:
            self._count(xattrs_footprint(node.xattrs))

    def _put(self, parent: Node, name: bytes, node: Node) -> None:
        children = parent.children
        assert children is not None  # noqa: S101
        if name in children:
            self._head = None  # what stood here may have been part of the remembered path
        children[name] = node
        self._count(footprint(name, node))

    def _count(self, size: int) -> None:
        self.footprint += size
        if self.footprint - self._claimed >= _CLAIM_BYTES:
            self._claim_rest()

    def _claim_rest(self) -> None:
        rest = self.footprint - self._claimed
        self._claimed = self.footprint
        self._claim(rest)

    def _whiteout(self, parent: Node, name: bytes, path: bytes) -> None:
        if name in (b"", b".", b".."):
            raise InvalidImageError(f"The layer has a whiteout without a name: {quoted(path)}.")
        self._count(footprint(name, _WHITEOUT))
        self._whiteouts.append((parent, name))

    def _link_target(self, entry: Entry) -> Node:
        link = entry.link
        shown = f"{quoted(entry.path)} as a hard link to {quoted(link)}"
        parts = _components(link, link)
        if not parts:
            raise InvalidImageError(f"The layer has {shown}, which is a directory.")
        parent = self._resolve(parts[:-1], link)[-1][1]
        node = parent.children.get(parts[-1]) if parent is not None and parent.children is not None else None
        if node is None:
            raise InvalidImageError(f"The layer has {shown}, which is not in this layer.")
        if node.children is not None:
            raise InvalidImageError(f"The layer has {shown}, which is a directory.")
        return node

    def _directory(self, head: bytes, path: bytes) -> Node:
        """The directory at ``head``, made as an implicit one where the layer has none yet."""
        if head == self._head:
            return self._parent
        chain = self._resolve(_components(head, path), path)
        node = self._root
        for name, known in chain[1:]:
            if known is None:
                _check_name(name, path)
                if name.startswith(WHITEOUT):
                    raise InvalidImageError(f"The layer has files below a whiteout: {quoted(path)}.")
                known = implicit_directory()
                self._put(node, name, known)
            node = known
        self._head, self._parent = head, node
        return node

    def _resolve(self, parts: list[bytes], path: bytes) -> list[tuple[bytes, Node | None]]:
        """The directories from the root to ``parts``, links followed; None where there is nothing yet.

        ``..`` comes from links only and stays inside the root, as it would in a chroot.
        """
        chain: list[tuple[bytes, Node | None]] = [(b"", self._root)]
        pending = parts[::-1]
        links = 0
        while pending:
            name = pending.pop()
            if name == b"..":
                if len(chain) > 1:
                    chain.pop()
                continue
            parent = chain[-1][1]
            node = parent.children.get(name) if parent is not None and parent.children is not None else None
            if node is not None and node.target:
                links += 1
                if links > MAX_LINKS:
                    raise InvalidImageError(
                        f"A path in the layer runs through too many symbolic links: {quoted(path)}."
                    )
                if node.target.startswith(b"/"):
                    del chain[1:]
                detour = [part for part in node.target.split(b"/") if part not in (b"", b".")]
                self._detours += len(detour)
                if self._detours > MAX_DETOURS:
                    raise InvalidImageError(
                        f"The layer's paths run through too long symbolic links (at {quoted(path)})."
                    )
                pending += detour[::-1]
                continue
            if node is not None and node.children is None:
                raise InvalidImageError(
                    f"The layer has {quoted(path)} below {quoted(name)}, which is not a directory."
                )
            chain.append((name, node))
            if len(chain) > MAX_DEPTH:
                raise InvalidImageError(
                    f"The layer's directories are more than {MAX_DEPTH} deep: {quoted(path)}."
                )
        return chain


def _components(text: bytes, path: bytes) -> list[bytes]:
    """The names in ``text``, which is ``path`` or a part of it."""
    parts = [part for part in text.split(b"/") if part != b"" and part != b"."]
    if b".." in parts:
        raise InvalidImageError(f"A path in the layer points upwards: {quoted(path)}.")
    for part in parts:
        _check_name(part, path)
    return parts


def _check_name(name: bytes, path: bytes) -> None:
    if len(name) > MAX_NAME:
        raise InvalidImageError(f"A name in the layer is longer than {MAX_NAME} bytes: {quoted(path)}.")
    if b"\0" in name:
        raise InvalidImageError(f"A name in the layer contains a NUL: {quoted(path)}.")


def _is_bookkeeping(path: bytes) -> bool:
    return any(part.startswith(BOOKKEEPING) for part in path.split(b"/"))


def _node(entry: Entry) -> Node:
    kind = _TYPES.get(entry.type)
    if kind is None:
        raise InvalidImageError(f"The layer has {quoted(entry.path)} of the unknown type {entry.type!r}.")
    node = Node(kind)
    if kind == stat.S_IFDIR:
        node.children = {}
    elif kind == stat.S_IFREG:
        if entry.size < 0 or entry.size > fmt.MAX_BLOCKS * fmt.BLOCK:
            raise InvalidImageError(f"The layer has a file of {entry.size} bytes: {quoted(entry.path)}.")
        node.size = entry.size
    elif kind == stat.S_IFLNK:
        if not 0 < len(entry.link) <= MAX_TARGET or b"\0" in entry.link:
            raise InvalidImageError(
                f"The layer has a symbolic link that Linux cannot hold: {quoted(entry.path)}."
            )
        node.target = entry.link
    elif kind != stat.S_IFIFO:
        major, minor = entry.device
        if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
            raise InvalidImageError(
                f"The layer has {quoted(entry.path)} with the impossible device number {major}:{minor}."
            )
        node.rdev = (major, minor)
    _describe(node, entry)
    return node


def _describe(node: Node, entry: Entry) -> None:
    """Owner, mode, time and attributes of an entry, checked to be what an inode can hold."""
    if not (0 <= entry.uid < 1 << 32 and 0 <= entry.gid < 1 << 32):
        raise InvalidImageError(
            f"The layer has {quoted(entry.path)} with the impossible owner {entry.uid}:{entry.gid}."
        )
    mtime = entry.mtime
    if 1 << 63 <= mtime < 1 << 64:
        mtime -= 1 << 64  # `msb save` writes times before 1970 as unsigned 64-bit numbers
    if not (-(1 << 63) <= mtime < 1 << 63 and 0 <= entry.mtime_ns < 1_000_000_000):
        raise InvalidImageError(f"The layer has {quoted(entry.path)} with an impossible time.")
    node.mode = stat.S_IFMT(node.mode) | (entry.mode & 0o7777)
    node.uid = entry.uid
    node.gid = entry.gid
    node.mtime = mtime
    node.mtime_ns = entry.mtime_ns
    node.implicit = False
    node.xattrs = _xattrs(entry) if entry.xattrs else None


def _xattrs(entry: Entry) -> dict[bytes, bytes] | None:
    """The attributes that an image can have: those Linux knows, without overlayfs' own.

    A layer that brought ``trusted.overlay.*`` along could redirect names or hide others.
    """
    xattrs: dict[bytes, bytes] = {}
    size = fmt.XATTR_HEADER.size + len(fmt.OPAQUE_XATTR) + 8
    for name, value in entry.xattrs.items():
        split = fmt.split_xattr(name)
        if split is None or name.startswith(fmt.OVERLAY_XATTR):
            continue
        size += fmt.XATTR_ENTRY.size + len(split[1]) + len(value) + 3
        if len(value) > 0xFFFF or size > fmt.MAX_XATTRS:
            raise InvalidImageError(
                f"The layer has {quoted(entry.path)} with larger extended attributes than an inode holds."
            )
        xattrs[name] = value
    return xattrs or None
