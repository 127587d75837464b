"""Layer images: what goes in comes out again, in the same bytes every time."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis.strategies as st
import pytest
from hypothesis import given

from msb_cache.artifacts.erofs import format as fmt
from msb_cache.artifacts.layer import read_layer, write_layer
from msb_cache.artifacts.tree import walk
from msb_cache.errors import CorruptArtifactError, InvalidImageError
from tests.artifacts.strategies import layers
from tests.artifacts.support import Member, directory, flatten, hardlink, make_tar, symlink, tar_entries


@given(members=layers())
def test_round_trip(members: list[Member]) -> None:
    with TemporaryDirectory() as scratch:
        path = Path(scratch, "image")
        written = write_layer(members, path)
        read = read_layer(path)
        data = path.read_bytes()
    assert flatten(read.root, {0: data}) == flatten(written.root, {0: data})
    assert read.blocks == written.blocks == len(data) // 4096
    assert read.size_bytes == len(data)
    assert read.footprint <= written.footprint  # which counts what was replaced, too


@given(members=layers())
def test_reproducible(members: list[Member]) -> None:
    with TemporaryDirectory() as scratch:
        once, again = Path(scratch, "once"), Path(scratch, "again")
        write_layer(members, once)
        write_layer(tar_entries(make_tar(members)), again)
        assert once.read_bytes() == again.read_bytes()


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


def test_deep_directories(tmp_path: Path) -> None:
    write_layer([Member(b"d/" * 1023 + b"f")], tmp_path / "image")
    assert len(list(walk(read_layer(tmp_path / "image").root))) == 1025


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


def test_numbers_start_at_one_and_zero_is_implicit(tmp_path: Path) -> None:
    write_layer([Member(b"a/b")], tmp_path / "image")
    flat = dict(walk(read_layer(tmp_path / "image").root))
    assert [flat[path].implicit for path in (b"", b"a", b"a/b")] == [True, True, False]


def test_a_refused_layer_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidImageError):
        write_layer([Member(b"a", data=b"x"), Member(b"../b")], tmp_path / "image")
    assert not (tmp_path / "image").exists()


def test_an_existing_file_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "image").write_text("mine")
    with pytest.raises(FileExistsError):
        write_layer([], tmp_path / "image")
    assert (tmp_path / "image").read_text() == "mine"


def test_too_large_a_layer_is_refused(tmp_path: Path) -> None:
    huge = [Member(b"a%d" % i, data=b"x", claimed=1 << 39) for i in range(2)]
    with pytest.raises(InvalidImageError, match="larger than 1099511627776 bytes"):
        write_layer(huge, tmp_path / "image")


@pytest.fixture(scope="module")
def sound() -> bytes:
    """A small image with everything in it that a reader follows."""
    members = [
        directory(b"d", xattrs={b"user.a": b"1"}),
        Member(b"d/f", data=b"x" * 5000),
        hardlink(b"d/g", b"d/f"),
        symlink(b"l", b"t" * 4090),
        symlink(b"m", b"short"),
        Member(b"null", "character", device=(1, 3)),
        Member(b"d/.wh.gone"),
        *(Member(b"many/%03d" % i + b"n" * 200) for i in range(40)),
    ]
    with TemporaryDirectory() as scratch:
        write_layer(members, Path(scratch, "image"))
        return Path(scratch, "image").read_bytes()


class TestHostileImages:
    """Whatever the bytes are: a tree or CorruptArtifactError, and soon."""

    @given(data=st.data())
    def test_changed_bytes(self, sound: bytes, data: st.DataObject) -> None:
        head = fmt.Superblock(*fmt.SUPERBLOCK.unpack_from(sound, fmt.SUPERBLOCK_OFFSET))
        image = bytearray(sound)
        # Without the checksum flag, so that a changed superblock is looked at too.
        head = head._replace(feature_compat=0)
        fmt.SUPERBLOCK.pack_into(image, fmt.SUPERBLOCK_OFFSET, *head)
        places = st.one_of(
            st.integers(1024, 1151), st.integers(4096 * 3, len(image) - 1), st.integers(4096 * 5, 4096 * 6)
        )
        for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)):
            image[place] = value
        with TemporaryDirectory() as scratch:
            path = Path(scratch, "image")
            path.write_bytes(image)
            with contextlib.suppress(CorruptArtifactError):
                for _, node in walk(read_layer(path).root):
                    assert node.block * 4096 + node.size <= len(image)

    @pytest.mark.parametrize("length", [0, 1, 1024, 4095, 4096, 8192, -4096, -1])
    def test_cut_off(self, sound: bytes, length: int, tmp_path: Path) -> None:
        (tmp_path / "image").write_bytes(sound[:length])
        with pytest.raises(CorruptArtifactError):
            read_layer(tmp_path / "image")

    def test_every_bit_of_the_superblock_is_checked(self, sound: bytes, tmp_path: Path) -> None:
        for place in range(1024, 1152):
            if place == 1024 + 8:
                continue  # the flag that says there is a checksum
            image = bytearray(sound)
            image[place] ^= 1 << place % 8
            (tmp_path / "image").write_bytes(image)
            with pytest.raises(CorruptArtifactError):
                read_layer(tmp_path / "image")

    def test_a_directory_loop_ends(self, tmp_path: Path) -> None:
        write_layer([directory(b"a/b")], tmp_path / "image")
        image = bytearray((tmp_path / "image").read_bytes())
        at = image.find(b"...b", 4096)
        entries = at - 3 * fmt.DIRENT.size
        fmt.DIRENT.pack_into(image, entries + 2 * fmt.DIRENT.size, 0, at + 3 - entries, 2)
        (tmp_path / "image").write_bytes(image)
        with pytest.raises(CorruptArtifactError, match="two parents"):
            read_layer(tmp_path / "image")

    def test_overlapping_directories_do_not_multiply(self, tmp_path: Path) -> None:
        names = [b"%05d" % i for i in range(20000)]
        write_layer([directory(b"d/" + name) for name in names], tmp_path / "image")
        image = bytearray((tmp_path / "image").read_bytes())
        head = fmt.Superblock(*fmt.SUPERBLOCK.unpack_from(image, fmt.SUPERBLOCK_OFFSET))
        meta = head.meta_block * 4096
        big = max(
            (fmt.INODE.unpack_from(image, at) for at in range(meta, meta + 4096, 32)),
            key=lambda inode: inode[4] if inode[0] == fmt.EXTENDED_PLAIN else 0,
        )
        # Every directory now claims the big one's entries: 20,000 times 20,000 of them.
        for at in range(meta, len(image) - 64, 32):
            inode = fmt.INODE.unpack_from(image, at)
            if inode[0] == fmt.EXTENDED_INLINE and inode[2] == 0o40755:
                fmt.INODE.pack_into(image, at, *big)
        (tmp_path / "image").write_bytes(image)
        with pytest.raises(CorruptArtifactError):
            read_layer(tmp_path / "image")
