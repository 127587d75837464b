"""Turns a tree into EROFS metadata: inodes, directories, symbolic links, superblock.

File data is not its business: nodes say in which block (and on which device) theirs begins. The
same tree gives the same bytes; numbers follow from a walk with siblings in byte order.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from operator import itemgetter
from typing import BinaryIO, NamedTuple

from msb_cache.artifacts.erofs import format as fmt
from msb_cache.artifacts.tree import Node
from msb_cache.errors import InvalidImageError

_DIRENT = fmt.DIRENT.size
_INODE = fmt.INODE.size
# Looked up for every inode and name.
_pack_inode = fmt.INODE.pack_into
_pack_dirent = fmt.DIRENT.pack
_FILE_TYPE = fmt.FILE_TYPE
_SLOT = fmt.SLOT
_BLOCK = fmt.BLOCK
_KIND = 0o170000  # S_IFMT
_GROWTH = 64 << 10


class Metadata(NamedTuple):
    """What to put at the block that was asked for, and what the superblock must say of it.

    Each of ``directories`` and then ``table``, the inodes, are whole blocks; together they are ``blocks``.
    """

    directories: list[bytearray]
    table: bytearray
    blocks: int
    meta_block: int
    inodes: int

    def write(self, file: BinaryIO) -> None:
        """Write all to where the file stands: joined first, they would take twice the memory."""
        file.writelines(self.directories)
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
    """A directory whose inode has its place, and whose entries are written once those below have theirs.

    ``names`` are its entries in order, ``ends`` the index at which each of its blocks ends.
    """

    __slots__ = ("ends", "inline", "names", "node", "number", "offset", "parent", "size", "xattrs")

    def __init__(self, node: Node, parent: _Directory | None) -> None:
        self.node = node
        self.parent = parent or self
        self.xattrs = _xattrs(node) if node.xattrs or node.opaque else b""
        self.names = sorted([b".", b"..", *(node.children or {})])
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
        self.ends.append(len(self.names))
        self.size = (len(self.ends) - 1) * fmt.BLOCK + used
        tail = self.size % fmt.BLOCK
        self.inline = 0 < tail <= fmt.BLOCK - _INODE - len(self.xattrs)
        self.offset = self.number = 0


class _Encoder:
    """Walks the tree once. What a hundred thousand files cost is the work of one `_place` each."""

    def __init__(self, first_block: int) -> None:
        self._first_block = first_block
        self._meta = bytearray()
        self._end = 0  # of the inodes placed so far
        self._count = 0
        self._number = 0
        self._offsets: dict[int, int] = {}  # of what is no directory, by the node's id
        self._links: dict[int, int] = {}  # by offset, where a file has several names
        self._outside: list[tuple[int, bytearray]] = []  # offset of an inode, and its data

    def encode(self, root: Node) -> Metadata:
        stack = [self._place_directory(root, None)]
        while stack:
            # A directory's inodes lie together, as ``ls -l`` wants them.
            stack.extend(reversed(self._fill(stack.pop())))
        meta = self._meta
        for offset, links in self._links.items():
            fmt.UNSIGNED.pack_into(meta, offset + fmt.INODE_LINKS_OFFSET, links)
        block = self._first_block
        directories = []
        for offset, data in sorted(self._outside, key=itemgetter(0)):
            fmt.UNSIGNED.pack_into(meta, offset + fmt.INODE_UNION_OFFSET, block)
            data += bytes(-len(data) % _BLOCK)
            block += len(data) // _BLOCK
            directories.append(data)
        blocks = fmt.blocks_for(self._end)
        meta += bytes(max(0, blocks * _BLOCK - len(meta)))
        del meta[blocks * _BLOCK :]
        return Metadata(directories, meta, block - self._first_block + blocks, block, self._count)

    def _reserve(self, need: int) -> int:
        """The offset of the next inode, which takes ``need`` bytes with what lies beside it."""
        offset = self._end + _SLOT - 1 & -_SLOT
        room = _BLOCK - offset % _BLOCK
        # Linux wants inline data inside one block; keeping whole inodes together costs little more.
        if room < need <= _BLOCK:
            offset += room
        self._end = end = offset + need
        if end > len(self._meta):
            self._meta += bytes(need + _GROWTH)
        self._count += 1
        return offset

    def _place_directory(self, node: Node, parent: _Directory | None) -> _Directory:
        directory = _Directory(node, parent)
        tail = directory.size % _BLOCK if directory.inline else 0
        directory.offset = self._reserve(_INODE + len(directory.xattrs) + tail)
        # Linux derives inode numbers from the nid, which leaves the field free to say
        # "implicit"; microsandbox gives 0 to its root, which it takes from no layer, too.
        if not node.implicit:
            self._number += 1
            directory.number = self._number
        return directory

    def _fill(self, directory: _Directory) -> list[_Directory]:
        """Place what is in a directory, write its entries and its inode; the directories in it."""
        children = directory.node.children
        assert children is not None  # noqa: S101
        offsets, place = self._offsets, self._place
        below: list[_Directory] = []
        data = bytearray()
        start = 0
        for end in directory.ends:
            names = directory.names[start:end]
            parts: list[bytes] = []
            position = _DIRENT * len(names)
            for name in names:
                child = children.get(name)
                if child is None:
                    offset = directory.offset if name == b"." else directory.parent.offset
                    kind = stat.S_IFDIR
                elif child.children is not None:
                    below.append(self._place_directory(child, directory))
                    offset, kind = below[-1].offset, stat.S_IFDIR
                else:
                    kind = child.mode & _KIND
                    known = offsets.get(id(child))
                    if known is None:
                        offset = offsets[id(child)] = place(child, kind)
                    else:
                        offset = known
                        self._links[offset] = self._links.get(offset, 1) + 1
                parts.append(_pack_dirent(offset // _SLOT, position, _FILE_TYPE[kind]))
                position += len(name)
            parts += names
            if end != len(directory.names):
                parts.append(bytes(_BLOCK - position))
            data += b"".join(parts)
            start = end
        tail = b""
        if directory.inline:
            whole = directory.size - directory.size % _BLOCK
            tail = bytes(data[whole:])
            del data[whole:]
        if data:
            self._outside.append((directory.offset, data))
        self._write(
            directory.offset,
            directory.node,
            fmt.EXTENDED_INLINE if directory.inline else fmt.EXTENDED_PLAIN,
            directory.size,
            fmt.NO_BLOCK,
            directory.number,
            2 + len(below),
            directory.xattrs,
            tail,
        )
        return below

    def _place(self, node: Node, kind: int) -> int:
        """Write what is no directory; the offset of its inode."""
        xattrs = _xattrs(node) if node.xattrs or node.opaque else b""
        layout, size, union, tail = fmt.EXTENDED_PLAIN, 0, 0, b""
        if kind == stat.S_IFREG:
            size = node.size
            if not size:
                union = fmt.NO_BLOCK
            elif node.device:
                layout = fmt.EXTENDED_CHUNKED
                union = fmt.CHUNK_INDEXES | (size - 1 >> fmt.BLOCK_BITS).bit_length()
                tail = fmt.CHUNK_INDEX.pack(0, node.device, node.block)
                if xattrs:
                    tail = bytes(-len(xattrs) % 8) + tail
            else:
                union = node.block
        elif kind == stat.S_IFLNK:
            size, union = len(node.target), fmt.NO_BLOCK
            if 0 < size <= _BLOCK - _INODE - len(xattrs):
                layout, tail = fmt.EXTENDED_INLINE, node.target
        elif kind == stat.S_IFCHR or kind == stat.S_IFBLK:
            union = fmt.encode_rdev(node.rdev)
        offset = self._reserve(_INODE + len(xattrs) + len(tail))
        if kind == stat.S_IFLNK and size and not tail:
            self._outside.append((offset, bytearray(node.target)))
        self._number += 1
        self._write(offset, node, layout, size, union, self._number, 1, xattrs, tail)
        return offset

    def _write(
        self,
        offset: int,
        node: Node,
        layout: int,
        size: int,
        union: int,
        number: int,
        links: int,
        xattrs: bytes,
        tail: bytes,
    ) -> None:
        count = (len(xattrs) - fmt.XATTR_HEADER.size) // 4 + 1 if xattrs else 0
        _pack_inode(
            self._meta,
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
            links,
        )
        if xattrs or tail:
            payload = xattrs + tail
            self._meta[offset + _INODE : offset + _INODE + len(payload)] = payload


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
