"""Turns a tree into EROFS metadata: inodes, directories, symbolic links, superblock.

File data is not its business: nodes say in which block (and on which device) theirs begins. The
same tree gives the same bytes; numbers follow from a walk with siblings in byte order.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from msb_cache.artifacts.erofs import format as fmt
from msb_cache.artifacts.tree import Node
from msb_cache.errors import InvalidImageError

_DIRENT = fmt.DIRENT.size
_INODE = fmt.INODE.size
_pack_inode = fmt.INODE.pack_into
# Looked up for every inode and name.
_SLOT = fmt.SLOT
_BLOCK = fmt.BLOCK
_KIND = 0o170000  # S_IFMT


class Metadata(NamedTuple):
    """What to put at the block that was asked for, and what the superblock must say of it.

    ``directories`` and then ``table``, the inodes, are whole blocks.
    """

    directories: bytearray
    table: bytearray
    meta_block: int
    inodes: int

    @property
    def blocks(self) -> int:
        """How many blocks both are together."""
        return (len(self.directories) + len(self.table)) // fmt.BLOCK

    def write(self, file: BinaryIO) -> None:
        """Write both to where the file stands: joined first, they would take twice the memory."""
        file.write(self.directories)
        file.write(self.table)


def superblock(metadata: Metadata, blocks: int, devices: Sequence[tuple[int, int]] = ()) -> bytes:
    """The first block of an image of ``blocks`` and, if the device table is long, those after it.

    ``devices`` are (blocks, first block when concatenated), device 1 first.
    """
    end = fmt.DEVICE_TABLE_OFFSET + len(devices) * fmt.DEVICE.size
    out = bytearray(fmt.blocks_for(end) * fmt.BLOCK)
    position = fmt.DEVICE_TABLE_OFFSET
    for device_blocks, mapped in devices:
        fmt.DEVICE.pack_into(out, position, b"", device_blocks, mapped)
        position += fmt.DEVICE.size
    fields = fmt.Superblock(
        feature_compat=fmt.COMPAT_CHECKSUM,
        inodes=metadata.inodes,
        blocks=blocks,
        meta_block=metadata.meta_block,
        feature_incompat=fmt.INCOMPAT_CHUNKED_FILE | fmt.INCOMPAT_DEVICE_TABLE if devices else 0,
        devices=len(devices),
        device_table_slot=fmt.DEVICE_TABLE_SLOT if devices else 0,
    )
    fmt.SUPERBLOCK.pack_into(out, fmt.SUPERBLOCK_OFFSET, *fields)
    checksum = fmt.superblock_checksum(bytes(out[: fmt.BLOCK]))
    fmt.SUPERBLOCK.pack_into(out, fmt.SUPERBLOCK_OFFSET, *fields._replace(checksum=checksum))
    return bytes(out)


def encode(root: Node, first_block: int) -> Metadata:
    """The metadata of a tree for an image in which it begins at ``first_block``.

    Directories and links that do not fit beside their inode come first, in whole blocks, then the
    inodes, the root's at nid 0. A file whose ``device`` is 0 is written flat, any other as one
    chunk on that device: a file is contiguous in its layer, so one chunk covers it all.
    """
    return _Encoder(first_block).encode(root)


class _Directory:
    """Where a directory's entries go: names in order, and for each block the index it ends at."""

    __slots__ = ("ends", "names", "parent", "size")

    def __init__(self, node: Node, parent: _Inode | None) -> None:
        children = node.children or {}
        self.names = sorted([b".", b"..", *children])
        self.parent = parent  # None: the root, which is its own
        self.ends: list[int] = []
        used = _DIRENT * len(self.names) + sum(map(len, self.names))
        if used > fmt.BLOCK:
            used = 0
            for index, name in enumerate(self.names):
                need = _DIRENT + len(name)
                if used + need > fmt.BLOCK:
                    self.ends.append(index)
                    used = 0
                used += need
        self.size = len(self.ends) * fmt.BLOCK + used
        self.ends.append(len(self.names))


class _Inode:
    """A node's place: byte offset in the inode area, attributes, tail, links."""

    __slots__ = ("directory", "inline", "links", "node", "offset", "xattrs")

    def __init__(self, node: Node, directory: _Directory | None) -> None:
        self.node = node
        self.directory = directory
        self.inline = False
        self.links = 2 if directory else 0
        self.offset = 0
        self.xattrs = b""


class _Encoder:
    def __init__(self, first_block: int) -> None:
        self._first_block = first_block
        self._blocks = bytearray()
        self._inodes: list[_Inode] = []
        self._index: dict[int, _Inode] = {}  # by the node's id
        self._end = 0

    def encode(self, root: Node) -> Metadata:
        self._place_tree(root)
        meta = bytearray(fmt.blocks_for(self._end) * fmt.BLOCK)
        number = 0
        for inode in self._inodes:
            if not inode.node.implicit:
                number += 1
            # Linux derives inode numbers from the nid, which leaves the field free to say
            # "implicit"; microsandbox gives 0 to its root, which it takes from no layer, too.
            self._write(meta, inode, 0 if inode.node.implicit else number)
        meta_block = self._first_block + len(self._blocks) // fmt.BLOCK
        return Metadata(self._blocks, meta, meta_block, len(self._inodes))

    def _place_tree(self, root: Node) -> None:
        """Give every inode its offset: a directory's entries lie together, as ``ls -l`` wants them."""
        stack = [self._place(root, _Directory(root, None))]
        index, place = self._index, self._place
        while stack:
            parent = stack.pop()
            children = parent.node.children
            assert children is not None  # noqa: S101
            assert parent.directory is not None  # noqa: S101
            subdirectories = []
            for name in parent.directory.names:
                child = children.get(name)
                if child is None:
                    continue  # "." and ".."
                if child.children is not None:
                    parent.links += 1
                    subdirectories.append(place(child, _Directory(child, parent)))
                else:
                    known = index.get(id(child))
                    if known is None:
                        known = place(child, None)
                    known.links += 1
            stack.extend(reversed(subdirectories))

    def _place(self, node: Node, directory: _Directory | None) -> _Inode:
        inode = _Inode(node, directory)
        if node.xattrs or node.opaque:
            inode.xattrs = _xattrs(node)
        need = _INODE + len(inode.xattrs)
        tail = 0
        if directory:
            tail = directory.size % fmt.BLOCK
        elif node.target:
            tail = len(node.target)
        elif node.device and node.size:
            need = (need + 7 & ~7) + fmt.CHUNK_INDEX.size
        if tail and need + tail <= fmt.BLOCK:
            inode.inline = True
            need += tail
        offset = self._end + _SLOT - 1 & -_SLOT
        room = _BLOCK - offset % _BLOCK
        # Linux wants inline data inside one block; keeping whole inodes together costs little more.
        if room < need <= _BLOCK:
            offset += room
        inode.offset = offset
        self._end = offset + need
        self._inodes.append(inode)
        self._index[id(node)] = inode
        return inode

    def _write(self, meta: bytearray, inode: _Inode, number: int) -> None:
        node = inode.node
        kind = node.mode & _KIND
        layout, size, union = fmt.EXTENDED_PLAIN, 0, 0
        tail = b""
        if kind == stat.S_IFREG:
            size = node.size
            union = node.block if size else fmt.NO_BLOCK
            if node.device and size:
                layout = fmt.EXTENDED_CHUNKED
                union = fmt.CHUNK_INDEXES | (fmt.blocks_for(size) - 1).bit_length()
                tail = fmt.CHUNK_INDEX.pack(0, node.device, node.block)
                tail = bytes(-len(inode.xattrs) % 8) + tail
        elif kind == stat.S_IFDIR or kind == stat.S_IFLNK:
            begin = self._first_block + len(self._blocks) // _BLOCK
            for piece in self._entries(inode) if inode.directory else (node.target,):
                size += len(piece)
                if inode.inline and len(piece) < _BLOCK:
                    layout, tail = fmt.EXTENDED_INLINE, piece
                else:
                    self._blocks += piece
                    self._blocks += bytes(-len(piece) % _BLOCK)
            union = begin if size > len(tail) else fmt.NO_BLOCK
        elif kind == stat.S_IFCHR or kind == stat.S_IFBLK:
            union = fmt.encode_rdev(node.rdev)
        count = (len(inode.xattrs) - fmt.XATTR_HEADER.size) // 4 + 1 if inode.xattrs else 0
        offset = inode.offset
        _pack_inode(
            meta,
            offset,
            layout,
            count,
            node.mode,
            0,
            size,
            union,
            number,
            node.uid,
            node.gid,
            node.mtime,
            node.mtime_ns,
            inode.links,
        )
        if inode.xattrs or tail:
            payload = inode.xattrs + tail
            meta[offset + _INODE : offset + _INODE + len(payload)] = payload

    def _entries(self, inode: _Inode) -> Iterator[bytes]:
        """Yield a directory's blocks; the last may be shorter."""
        directory = inode.directory
        children = inode.node.children
        assert directory is not None  # noqa: S101
        assert children is not None  # noqa: S101
        index, pack, types = self._index, fmt.DIRENT.pack, fmt.FILE_TYPE
        start = 0
        for end in directory.ends:
            names = directory.names[start:end]
            parts: list[bytes] = []
            position = _DIRENT * len(names)
            for name in names:
                if name == b".":
                    target = inode
                elif name == b"..":
                    target = directory.parent or inode
                else:
                    target = index[id(children[name])]
                parts.append(pack(target.offset // _SLOT, position, types[target.node.mode & _KIND]))
                position += len(name)
            parts += names
            if end != len(directory.names):
                parts.append(bytes(_BLOCK - position))
            yield b"".join(parts)
            start = end


def _xattrs(node: Node) -> bytes:
    xattrs = dict(node.xattrs or {})
    if node.opaque:
        xattrs[fmt.OPAQUE_XATTR] = b"y"
    encoded = fmt.encode_xattrs(xattrs)
    if len(encoded) > fmt.MAX_XATTRS:
        raise InvalidImageError(
            f"A file has {len(encoded)} bytes of extended attributes; an EROFS inode holds {fmt.MAX_XATTRS}."
        )
    return encoded
