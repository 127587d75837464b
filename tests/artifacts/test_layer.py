"""Layer images: what goes in comes out again, in the same bytes every time."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given

from msb_cache.artifacts.layer import read_layer, write_layer
from msb_cache.artifacts.tree import walk
from msb_cache.errors import InvalidImageError
from tests.artifacts.strategies import layers
from tests.artifacts.support import Member, flatten, make_tar, tar_entries


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


def test_deep_directories(tmp_path: Path) -> None:
    write_layer([Member(b"d/" * 1023 + b"f")], tmp_path / "image")
    assert len(list(walk(read_layer(tmp_path / "image").root))) == 1025


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
