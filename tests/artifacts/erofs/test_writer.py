"""EROFS images as they are written: order, sizes, holes, link counts."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from msb_cache.artifacts.erofs import format as fmt
from msb_cache.artifacts.layer import read_layer, write_layer
from msb_cache.artifacts.tree import walk
from tests.artifacts.support import Member, directory, hardlink, symlink


def test_data_stands_in_archive_order_before_the_inodes(tmp_path: Path) -> None:
    image = write_layer([Member(b"z", data=b"z" * 5000), Member(b"a", data=b"a")], tmp_path / "image")
    data = (tmp_path / "image").read_bytes()
    assert data[4096:9096] == b"z" * 5000
    assert data[12288:12289] == b"a"
    assert image.blocks == 5


def test_an_empty_layer_is_two_blocks(tmp_path: Path) -> None:
    assert write_layer([], tmp_path / "image").size_bytes == 8192
    assert read_layer(tmp_path / "image").root.implicit


@pytest.mark.parametrize("count", [1, 14, 250, 5000])
@pytest.mark.parametrize("length", [1, 20, 255])
def test_directories_of_any_size(count: int, length: int, tmp_path: Path) -> None:
    names = [str(number).encode().rjust(length, b"!")[:255] for number in range(count)]
    random.Random(7).shuffle(names)
    write_layer([directory(b"d/" + name) for name in set(names)], tmp_path / "image")
    assert set((read_layer(tmp_path / "image").root.children or {})[b"d"].children or {}) == set(names)


@pytest.mark.parametrize("length", [1, 60, 4031, 4032, 4033, 4095])
@pytest.mark.parametrize("attribute", [None, 100, 4000, 65535])
def test_symbolic_links_of_any_length(length: int, attribute: int | None, tmp_path: Path) -> None:
    xattrs = {} if attribute is None else {b"trusted.x": b"v" * attribute}
    members = [symlink(b"l%d" % i, b"t" * length, xattrs=xattrs) for i in range(5)]
    write_layer(members, tmp_path / "image")
    for _, node in list(walk(read_layer(tmp_path / "image").root))[1:]:
        assert node.target == b"t" * length
        assert (node.xattrs or {}) == xattrs


def test_the_file_is_sparse(tmp_path: Path) -> None:
    hole = Member(b"hole", data=b"x", claimed=1 << 32)
    image = write_layer([hole, Member(b"after", data=b"y")], tmp_path / "image")
    info = os.stat(tmp_path / "image")
    assert info.st_size == image.size_bytes > 1 << 32
    assert info.st_blocks * 512 < 1 << 16


def test_links_are_counted(tmp_path: Path) -> None:
    members = [Member(b"a", data=b"1"), hardlink(b"b", b"a"), hardlink(b"c", b"a"), Member(b"b", data=b"2")]
    write_layer([*members, directory(b"d/e"), directory(b"d/f")], tmp_path / "image")
    data = (tmp_path / "image").read_bytes()
    head = fmt.Superblock(*fmt.SUPERBLOCK.unpack_from(data, fmt.SUPERBLOCK_OFFSET))
    slots = range(head.meta_block * 4096, len(data) - 64, 32)
    inodes = [inode for at in slots if (inode := fmt.INODE.unpack_from(data, at))[0] in (1, 5)]
    links = sorted(inode[-1] for inode in inodes if inode[2] & 0o170000 in (0o100000, 0o040000))
    assert links[-2:] == [3, 4]  # the root with one, d with two directories
    assert head.inodes == 6
