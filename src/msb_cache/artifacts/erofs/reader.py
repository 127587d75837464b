"""Reads the tree out of an EROFS image: ours, or one that microsandbox wrote.

Every number in the image is doubted: whatever the bytes are, reading ends after work in proportion
to the file's size, with a tree or with :class:`CorruptArtifactError`. Only what the two writers
produce is understood: extended inodes, uncompressed data, inline attributes.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from struct import unpack_from
from typing import NamedTuple

from msb_cache.artifacts.erofs import format as fmt
from msb_cache.artifacts.footprint import footprint
from msb_cache.artifacts.tree import MAX_NAME, MAX_TARGET, Node
from msb_cache.artifacts.verity import open_plain
from msb_cache.errors import CorruptArtifactError

_KNOWN_COMPAT = fmt.COMPAT_CHECKSUM | fmt.COMPAT_MTIME
_KNOWN_FEATURES = fmt.INCOMPAT_CHUNKED_FILE | fmt.INCOMPAT_DEVICE_TABLE
_WINDOW_BITS = 16
_MAX_WINDOWS = 1024
_MAX_ENTRIES = 4_000_000
_DIRECTORY = fmt.FILE_TYPE[stat.S_IFDIR]
_DEFAULT_DIRECTORY = (stat.S_IFDIR | 0o755, 0, 0, 0, 0)


class Image(NamedTuple):
    """A tree, what it takes of the memory, its image's blocks, and further devices as (blocks, first).

    ``contradiction`` says what else an inode or a name says that the tree does not have, if anything: a link
    count, a type, a parent, an attribute of overlayfs. A layer's is of no account, for its tree is merged.
    """

    root: Node
    footprint: int
    blocks: int
    devices: tuple[tuple[int, int], ...]
    contradiction: str | None = None


def read_image(path: Path) -> Image:
    """The tree of the image at ``path``; files' ``device`` is 0 if their data is in that image.

    Raises :class:`CorruptArtifactError`, or OSError if the file cannot be opened or read.
    """
    fd = open_plain(path)
    try:
        source = _Source(fd, path.name)
        return _Reader(source).read()
    finally:
        os.close(fd)


class _Source:
    """Bounded reads of a file through windows of 64 KiB, so that few reads cost a system call.

    Not mmap: a file that shrinks, or a disk that fails, would kill the process with SIGBUS.
    """

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._name = name
        self._windows: dict[int, bytes] = {}
        self.size = os.fstat(fd).st_size
        # In an honest image no two inodes share metadata, so all of it, and the first block once
        # more, is no longer than this. Without a bound, overlapping directories cost quadratic time.
        self._left = self.size + fmt.BLOCK

    def corrupt(self, what: str) -> CorruptArtifactError:
        return CorruptArtifactError(f"{self._name} is not a sound EROFS image: {what}.")

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise self.corrupt("it points outside of itself")
        self._left -= length
        if self._left < 0:
            raise self.corrupt("parts of its metadata overlap")
        index = offset >> _WINDOW_BITS
        start = offset - (index << _WINDOW_BITS)
        data = self._window(index)[start : start + length]
        if len(data) == length:
            return data
        parts = [data]
        missing = length - len(data)
        while missing:
            index += 1
            part = self._window(index)[:missing]
            if not part:
                raise self.corrupt("it became shorter while it was read")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _window(self, index: int) -> bytes:
        window = self._windows.get(index)
        if window is None:
            if len(self._windows) == _MAX_WINDOWS:
                self._windows.clear()
            window = os.pread(self._fd, 1 << _WINDOW_BITS, index << _WINDOW_BITS)
            self._windows[index] = window
        return window


class _Reader:
    def __init__(self, source: _Source) -> None:
        self._source = source
        self._corrupt = source.corrupt
        self._files: dict[int, Node] = {}  # nid → node: a second name of one inode is a hard link
        self._directories: set[int] = set()
        self._links: dict[int, int] = {}  # nid → link count, where it is not that of a file with one name
        self._contradiction: str | None = None
        self._read_superblock()

    def _read_superblock(self) -> None:
        source = self._source
        if source.size < fmt.BLOCK or source.size % fmt.BLOCK:
            raise self._corrupt("its length is not a whole number of blocks")
        if source.size >> fmt.BLOCK_BITS > fmt.MAX_BLOCKS:
            raise self._corrupt("it is longer than any image")
        first = source.read(0, fmt.BLOCK)
        fields = fmt.Superblock(*fmt.SUPERBLOCK.unpack_from(first, fmt.SUPERBLOCK_OFFSET))
        if fields.magic != fmt.MAGIC:
            raise self._corrupt("it has no EROFS superblock")
        if fields.feature_compat & fmt.COMPAT_CHECKSUM and fields.checksum != fmt.superblock_checksum(first):
            raise self._corrupt("its superblock does not match its checksum")
        unknown = fields.feature_incompat & ~_KNOWN_FEATURES or fields.feature_compat & ~_KNOWN_COMPAT
        if unknown or fields.block_bits != fmt.BLOCK_BITS or fields.directory_block_bits:
            raise self._corrupt("it uses features that no layer has")
        self._blocks = source.size >> fmt.BLOCK_BITS
        if fields.blocks != self._blocks:
            raise self._corrupt(f"it should have {fields.blocks} blocks and has {self._blocks}")
        self._meta = fields.meta_block << fmt.BLOCK_BITS
        self._root_nid = fields.root_nid
        self._devices: list[tuple[int, int]] = []
        if fields.feature_incompat & fmt.INCOMPAT_DEVICE_TABLE:
            offset = fields.device_table_slot * fmt.DEVICE.size
            table = source.read(offset, fields.devices * fmt.DEVICE.size)
            self._devices = [(count, mapped) for _, count, mapped in fmt.DEVICE.iter_unpack(table)]

    def read(self) -> Image:
        root, data = self._inode(self._root_nid)
        if data is None:
            raise self._corrupt("its root is not a directory")
        entries = taken = 0
        # Without recursion; a directory is read once, so a loop or a second parent is an error.
        self._directories.add(self._root_nid)
        stack = [(root, data, self._root_nid, self._root_nid)]
        files, directories, types = self._files, self._directories, fmt.FILE_TYPE
        names: dict[int, int] = {}  # nid → how many, where a file has several
        while stack:
            node, data, here, parent = stack.pop()
            children: dict[bytes, Node] = {}
            below, dots = 0, [here, parent]
            for name, nid, kind in self._entries(data):
                if name == b"." or name == b"..":
                    if kind != _DIRECTORY or nid != dots.pop(0):
                        self._contradict("a directory's own name leads elsewhere")
                    continue
                entries += 1
                child = files.get(nid)
                if child is not None:
                    names[nid] = names.get(nid, 1) + 1
                else:
                    if nid in directories:
                        raise self._corrupt("a directory has two parents")
                    child, child_data = self._inode(nid)
                    if child_data is None:
                        files[nid] = child
                    else:
                        directories.add(nid)
                        stack.append((child, child_data, nid, here))
                        below += 1
                if kind != types[child.mode & 0o170000]:
                    self._contradict("a directory calls a file another type than it has")
                children[name] = child
                taken += footprint(name, child)
            node.children = children
            if dots:
                self._contradict("a directory lacks its own name or its parent's")
            links = self._links.pop(here, 1)
            # microsandbox writes 2 for its root, whatever is in it.
            if links != 2 + below and not (node is root and links == 2):
                self._contradict("a directory's link count is not that of its directories")
            if entries > _MAX_ENTRIES:
                raise self._corrupt(f"it has more than {_MAX_ENTRIES} entries")
        if self._links != names:
            self._contradict("a file's link count is not that of its names")
        return Image(root, taken, self._blocks, tuple(self._devices), self._contradiction)

    def _contradict(self, what: str) -> None:
        self._contradiction = self._contradiction or what

    def _inode(self, nid: int) -> tuple[Node, bytes | None]:
        """The node at ``nid`` and, for a directory, its entries as bytes."""
        offset = self._meta + nid * fmt.SLOT
        layout, count, mode, _, size, union, number, uid, gid, mtime, ns, links = fmt.INODE.unpack(
            self._source.read(offset, fmt.INODE.size)
        )
        if links != 1:
            self._links[nid] = links
        if ns >= 1_000_000_000:
            raise self._corrupt("a file has an impossible time")
        node = Node(mode, uid, gid, mtime, ns)
        body = offset + fmt.INODE.size
        if count:
            length = fmt.XATTR_HEADER.size + 4 * (count - 1)
            self._xattrs(node, self._source.read(body, length))
            body += length
        kind = stat.S_IFMT(mode)
        if kind == stat.S_IFREG:
            self._file(node, layout, size, union, body)
        elif kind == stat.S_IFDIR:
            node.children = {}
            described = (mode, uid, gid, mtime, ns)
            node.implicit = number == 0 and node.xattrs is None and described == _DEFAULT_DIRECTORY
            return node, self._data(layout, size, union, body)
        elif kind == stat.S_IFLNK:
            if not 0 < size <= MAX_TARGET:
                raise self._corrupt(f"a symbolic link is {size} bytes long")
            node.target = self._data(layout, size, union, body)
        elif kind == stat.S_IFCHR or kind == stat.S_IFBLK:
            node.rdev = fmt.decode_rdev(union)
        elif kind != stat.S_IFIFO:
            raise self._corrupt(f"a file has mode {mode:o}")
        return node, None

    def _data(self, layout: int, size: int, block: int, body: int) -> bytes:
        """What a directory or symbolic link holds: whole blocks, and the rest beside the inode."""
        if layout == fmt.EXTENDED_PLAIN:
            return self._source.read(block << fmt.BLOCK_BITS, size) if size else b""
        if layout != fmt.EXTENDED_INLINE:
            raise self._corrupt(f"a directory or link has layout {layout}")
        tail = size % fmt.BLOCK
        if body % fmt.BLOCK + tail > fmt.BLOCK:
            raise self._corrupt("inline data crosses a block")
        data = self._source.read(block << fmt.BLOCK_BITS, size - tail) if size > tail else b""
        return data + self._source.read(body, tail)

    def _file(self, node: Node, layout: int, size: int, union: int, body: int) -> None:
        node.size = size
        blocks = fmt.blocks_for(size)
        available = self._blocks
        if layout == fmt.EXTENDED_CHUNKED:
            if not size:
                return
            node.device, node.block = self._chunks(union, blocks, body + 7 & ~7)
            available = self._devices[node.device - 1][0] if node.device else self._blocks
        elif layout == fmt.EXTENDED_PLAIN:
            node.block = union if size else 0
        else:
            raise self._corrupt(f"a file has layout {layout}")
        if node.block + blocks > available:
            raise self._corrupt("a file's data lies outside of its image")

    def _chunks(self, chunk_format: int, blocks: int, offset: int) -> tuple[int, int]:
        """The device and first block of a chunked file, which must be contiguous there."""
        if chunk_format & ~(fmt.CHUNK_INDEXES | fmt.CHUNK_BITS_MASK) or not chunk_format & fmt.CHUNK_INDEXES:
            raise self._corrupt("a file has an unknown chunk format")
        bits = chunk_format & fmt.CHUNK_BITS_MASK
        count = (blocks + (1 << bits) - 1) >> bits
        table = self._source.read(offset, count * fmt.CHUNK_INDEX.size)
        _, device, block = fmt.CHUNK_INDEX.unpack_from(table)
        if device > len(self._devices):
            raise self._corrupt(f"a file is on device {device} of {len(self._devices)}")
        expected = block
        for _, other, begin in fmt.CHUNK_INDEX.iter_unpack(table):
            if other != device or begin != expected:
                raise self._corrupt("a file's data is not contiguous")
            expected += 1 << bits
        return device, block

    def _xattrs(self, node: Node, area: bytes) -> None:
        _, shared = fmt.XATTR_HEADER.unpack_from(area)
        if shared:
            raise self._corrupt("a file shares extended attributes")
        xattrs: dict[bytes, bytes] = {}
        position = fmt.XATTR_HEADER.size
        while position < len(area):
            name_length, index, value_length = fmt.XATTR_ENTRY.unpack_from(area, position)
            position += fmt.XATTR_ENTRY.size
            end = position + name_length + value_length
            prefix = fmt.XATTR_PREFIX_BY_INDEX.get(index)
            if prefix is None or end > len(area):
                raise self._corrupt("an extended attribute is damaged")
            name = prefix + area[position : position + name_length]
            value = area[position + name_length : end]
            if name in xattrs:
                raise self._corrupt("a file has an extended attribute twice")
            if not name.startswith(fmt.OVERLAY_XATTR):
                xattrs[name] = value
            elif name == fmt.OPAQUE_XATTR and value == b"y" and stat.S_ISDIR(node.mode):
                node.opaque = True
            else:
                self._contradict("a file has an attribute of overlayfs that no layer brings")
            position = end + 3 & ~3
        node.xattrs = xattrs or None

    def _entries(self, data: bytes) -> list[tuple[bytes, int, int]]:
        """A directory's names, nids and types; they must be in order, as Linux searches by halves."""
        entries: list[tuple[bytes, int, int]] = []
        previous = b""
        for start in range(0, len(data), fmt.BLOCK):
            block = data[start : start + fmt.BLOCK]
            size = len(block)
            if size < fmt.DIRENT.size:
                raise self._corrupt("a directory is cut off")
            first = unpack_from("<H", block, 8)[0]
            count, rest = divmod(first, fmt.DIRENT.size)
            if not count or rest or first >= size:
                raise self._corrupt("a directory is damaged")
            records = list(fmt.DIRENT.iter_unpack(block[:first]))
            ends = [offset for _, offset, _ in records[1:]]
            ends.append(size)
            for (nid, begin, kind), end in zip(records, ends, strict=True):
                name = block[begin:end]
                if end == size:
                    name = name.partition(b"\0")[0]
                if begin < first or not 0 < len(name) <= MAX_NAME or b"/" in name or b"\0" in name:
                    raise self._corrupt("a directory has an impossible name")
                if name <= previous:
                    raise self._corrupt("a directory's names are not in order")
                previous = name
                entries.append((name, nid, kind))
        return entries
