"""The part of the EROFS on-disk format that layer images and fsmeta use.

Sources: Linux, Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h. All numbers are little
endian. Only extended inodes, uncompressed data and inline extended attributes appear here.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from struct import Struct
from typing import NamedTuple

BLOCK_BITS = 12
BLOCK = 1 << BLOCK_BITS
MAX_BLOCKS = 1 << 28
"""Blocks in one image: 1 TiB. The format could address 16 TiB, a layer of that size is an attack."""

SUPERBLOCK_OFFSET = 1024
SUPERBLOCK = Struct("<IIIBBHQQIIII16s16sIHHHBBIQ24x")


class Superblock(NamedTuple):
    """The fields of :data:`SUPERBLOCK`, in order; those that stay zero here have that default."""

    magic: int = 0xE0F5E1E2
    checksum: int = 0
    feature_compat: int = 0
    block_bits: int = BLOCK_BITS
    extension_slots: int = 0
    root_nid: int = 0
    inodes: int = 0
    build_seconds: int = 0
    build_nanoseconds: int = 0
    blocks: int = 0
    meta_block: int = 0
    shared_xattr_block: int = 0
    uuid: bytes = b""
    volume_name: bytes = b""
    feature_incompat: int = 0
    compression: int = 0
    devices: int = 0
    device_table_slot: int = 0
    directory_block_bits: int = 0
    xattr_prefixes: int = 0
    xattr_prefix_start: int = 0
    packed_nid: int = 0


MAGIC = Superblock().magic
COMPAT_CHECKSUM = 0x1
COMPAT_MTIME = 0x2
INCOMPAT_CHUNKED_FILE = 0x4
INCOMPAT_DEVICE_TABLE = 0x8

DEVICE = Struct("<64sII56x")
"""tag, blocks, block at which the device begins when all are concatenated."""
DEVICE_TABLE_SLOT = 9
DEVICE_TABLE_OFFSET = DEVICE_TABLE_SLOT * DEVICE.size
MAX_DEVICES = 0xFFFF

INODE = Struct("<HHHHQIIIIqII16x")
"""format, xattr count, mode, reserved, size, union (first block, rdev or chunk format), inode
number, uid, gid, mtime (s), its ns, link count."""
INODE_UNION_OFFSET = 16
INODE_LINKS_OFFSET = 44
UNSIGNED = Struct("<I")
SLOT = 32
"""A nid counts slots of this many bytes from the metadata block."""
NO_BLOCK = 0xFFFFFFFF

EXTENDED_PLAIN = 0 << 1 | 1
EXTENDED_INLINE = 2 << 1 | 1
EXTENDED_CHUNKED = 4 << 1 | 1

CHUNK_INDEXES = 0x20
CHUNK_BITS_MASK = 0x1F
CHUNK_INDEX = Struct("<HHI")
"""unused here, device, block."""

DIRENT = Struct("<QHBx")
"""nid, offset of the name in its block, file type."""
FILE_TYPE = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFLNK: 7,
}

XATTR_HEADER = Struct("<IB7x")
"""name filter, number of shared attributes (none here)."""
XATTR_ENTRY = Struct("<BBH")
"""length of the name without its prefix, prefix, length of the value."""
XATTR_PREFIXES = {
    b"user.": 1,
    b"system.posix_acl_access": 2,
    b"system.posix_acl_default": 3,
    b"trusted.": 4,
    b"security.": 6,
}
XATTR_PREFIX_BY_INDEX = {index: prefix for prefix, index in XATTR_PREFIXES.items()}
MAX_XATTRS = XATTR_HEADER.size + 4 * 0xFFFE
"""Bytes that one inode's attributes can take: the count in the inode has 16 bits."""

OVERLAY_XATTR = b"trusted.overlay."
OPAQUE_XATTR = b"trusted.overlay.opaque"


def blocks_for(size: int) -> int:
    """Whole blocks that hold ``size`` bytes."""
    return (size + BLOCK - 1) >> BLOCK_BITS


def encode_rdev(rdev: tuple[int, int]) -> int:
    """A device number in 32 bits: Linux' new_encode_dev (12 bits major, 20 bits minor)."""
    major, minor = rdev
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def decode_rdev(value: int) -> tuple[int, int]:
    """The inverse of :func:`encode_rdev`."""
    return (value >> 8) & 0xFFF, (value & 0xFF) | ((value >> 12) & 0xFFF00)


def split_xattr(name: bytes) -> tuple[int, bytes] | None:
    """The prefix number and the rest of an attribute's name, or None if Linux has no such name."""
    if name.startswith(b"system."):
        index = XATTR_PREFIXES.get(name)
        return None if index is None else (index, b"")
    prefix, dot, rest = name.partition(b".")
    index = XATTR_PREFIXES.get(prefix + dot)
    if index is None or not rest or len(name) > 255 or b"\0" in rest:
        return None
    return index, rest


def encode_xattrs(xattrs: Mapping[bytes, bytes]) -> bytes:
    """The inline attribute area of an inode; attributes by name, each padded to four bytes."""
    out = bytearray(XATTR_HEADER.pack(0, 0))
    for name, value in sorted(xattrs.items()):
        split = split_xattr(name)
        if split is None:
            continue
        index, rest = split
        out += XATTR_ENTRY.pack(len(rest), index, len(value)) + rest + value
        out += bytes(-len(out) % 4)
    return bytes(out) if len(out) > XATTR_HEADER.size else b""


def _crc32c_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_CRC32C = _crc32c_table()


def superblock_checksum(first_block: bytes) -> int:
    """CRC-32C of an image's first block from the superblock on, its checksum field taken as zero.

    As erofs_superblock_csum_verify in Linux has it: seeded with ones and not inverted at the end.
    """
    data = bytearray(first_block[SUPERBLOCK_OFFSET:BLOCK])
    data[4:8] = bytes(4)
    crc = 0xFFFFFFFF
    table = _CRC32C
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc
