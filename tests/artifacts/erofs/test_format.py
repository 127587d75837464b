"""The EROFS format's numbers, names and sums."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.artifacts.erofs import format as fmt


def test_structures_have_the_sizes_of_the_format() -> None:
    sizes = [each.size for each in (fmt.SUPERBLOCK, fmt.DEVICE, fmt.INODE, fmt.CHUNK_INDEX, fmt.DIRENT)]
    assert sizes == [128, 128, 64, 8, 12]
    assert (fmt.XATTR_HEADER.size, fmt.XATTR_ENTRY.size) == (12, 4)
    assert len(fmt.Superblock()) == len(fmt.SUPERBLOCK.unpack(bytes(128)))


@given(st.integers(0, fmt.MAX_BLOCKS * fmt.BLOCK))
def test_blocks_hold_a_size_and_no_fewer_do(size: int) -> None:
    blocks = fmt.blocks_for(size)
    assert (blocks - 1) * fmt.BLOCK < size <= blocks * fmt.BLOCK


@given(st.integers(0, 0xFFF), st.integers(0, 0xFFFFF))
def test_device_numbers_come_back(major: int, minor: int) -> None:
    assert fmt.decode_rdev(fmt.encode_rdev((major, minor))) == (major, minor)


def test_device_numbers_are_those_of_linux() -> None:
    # new_encode_dev(MKDEV(8, 257)): the minor's upper bits stand above the major.
    assert fmt.encode_rdev((8, 257)) == 0x100801


@pytest.mark.parametrize(
    ("name", "split"),
    [
        (b"user.mime", (1, b"mime")),
        (b"user.a.b", (1, b"a.b")),
        (b"trusted.overlay.opaque", (4, b"overlay.opaque")),
        (b"security.capability", (6, b"capability")),
        (b"system.posix_acl_access", (2, b"")),
        (b"system.posix_acl_access.x", None),
        (b"system.other", None),
        (b"user.", None),
        (b"user", None),
        (b"", None),
        (b"other.x", None),
        (b"user.x\0y", None),
        (b"user." + b"n" * 250, (1, b"n" * 250)),
        (b"user." + b"n" * 251, None),
    ],
)
def test_names_of_attributes(name: bytes, split: tuple[int, bytes] | None) -> None:
    assert fmt.split_xattr(name) == split


def test_attributes_stand_by_name_and_are_padded() -> None:
    attributes = {b"user.b": b"12345", b"other": b"dropped", b"user.a": b""}
    assert fmt.encode_xattrs(attributes) == bytes(12) + b"\x01\x01\0\0a\0\0\0" + b"\x01\x01\x05\0b12345\0\0"
    assert fmt.encode_xattrs({}) == fmt.encode_xattrs({b"other": b"x"}) == b""


def test_the_sum_is_crc32c_of_what_follows_the_offset() -> None:
    # The check value of CRC-32C for "123456789" is 0xE3069283, which inverts the sum at its end.
    crc = 0xFFFFFFFF
    for byte in b"123456789":
        crc = crc >> 8 ^ fmt._CRC32C[(crc ^ byte) & 0xFF]
    assert crc ^ 0xFFFFFFFF == 0xE3069283
    block = bytearray(fmt.BLOCK)
    total = fmt.superblock_checksum(bytes(block))
    block[:1024] = b"x" * 1024
    block[1028:1032] = b"sum!"
    assert fmt.superblock_checksum(bytes(block)) == total
    block[1032] ^= 1
    assert fmt.superblock_checksum(bytes(block)) != total
