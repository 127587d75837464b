"""Beginnings of layers in files: locked, bounded, and kept only if there is something in them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from msb_cache.oci.registry.partials import Partial
from tests.logs import digest

DIGEST = digest(1)


def opened(folder: Path, limit: int = 100) -> Partial:
    partial = Partial.open(folder, DIGEST, limit)
    assert partial is not None
    return partial


def test_what_arrived_is_there_the_next_time(tmp_path: Path) -> None:
    partial = opened(tmp_path / "downloads")
    partial.write(b"hello world", 0)
    partial.write(b"!", 5)  # gone on with from there
    partial.close()
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == [f"{DIGEST[7:]}.partial"]
    again = opened(tmp_path / "downloads")
    assert again.size == 11
    assert again.read(100, 0) == b"hello!world"
    assert again.read(3, 9) == b"ld"
    assert again.read(3, 11) == b""
    again.close()


def test_one_at_a_time(tmp_path: Path) -> None:
    partial = opened(tmp_path)
    assert Partial.open(tmp_path, DIGEST, 100) is None
    partial.close()
    opened(tmp_path).close()


def test_nothing_leaves_no_file(tmp_path: Path) -> None:
    folder = tmp_path / "downloads"
    opened(folder).close()
    partial = opened(folder)
    partial.write(b"x", 0)
    partial.discard()
    partial.close()
    assert [*folder.iterdir()] == []


def test_a_file_that_was_deleted_is_not_deleted_again(tmp_path: Path) -> None:
    folder = tmp_path / "downloads"
    first = opened(folder)
    first.discard()
    second = opened(folder)
    second.write(b"x", 0)
    first.discard()
    first.close()
    assert len([*folder.iterdir()]) == 1
    second.close()


def test_more_than_the_layer_is_no_beginning_of_it(tmp_path: Path) -> None:
    partial = opened(tmp_path)
    partial.write(b"x" * 50, 0)
    partial.close()
    shorter = opened(tmp_path, 49)
    assert shorter.size == 0
    shorter.close()


@pytest.mark.parametrize(("folder", "file"), [(0o700, 0o600), (0o2770, 0o660), (0o770, 0o600)])
def test_a_folder_that_a_group_shares_has_files_that_it_shares(
    tmp_path: Path, folder: int, file: int
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(folder)
    partial = opened(tmp_path / "d")
    (path,) = (tmp_path / "d").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == file
    partial.close()
