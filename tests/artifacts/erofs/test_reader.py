"""Reading EROFS images, whatever their bytes are."""

from __future__ import annotations

import contextlib
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis.strategies as st
import pytest
from hypothesis import given

from msb_cache.artifacts.erofs import format as fmt
from msb_cache.artifacts.layer import read_layer, write_layer
from msb_cache.artifacts.tree import walk
from msb_cache.errors import CorruptArtifactError
from tests.artifacts.support import Member, directory, hardlink, symlink


def test_numbers_start_at_one_and_zero_is_implicit(tmp_path: Path) -> None:
    write_layer([Member(b"a/b")], tmp_path / "image")
    flat = dict(walk(read_layer(tmp_path / "image").root))
    assert [flat[path].implicit for path in (b"", b"a", b"a/b")] == [True, True, False]


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
