"""Single files of the cache: measured without following links, made private, deleted once."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from msb_cache.artifacts import files


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"12345")
    (tmp_path / "folder" / "link").symlink_to("file")
    return tmp_path / "folder"


def test_what_is_no_file_measures_nothing(folder: Path) -> None:
    assert files.measure(folder / "file") == 5
    for name in ("link", "none", "file/below", "."):
        assert files.measure(folder / name) is None
        assert not files.exists(folder / name)


def test_a_file_that_is_there_is_not_written_to(folder: Path) -> None:
    for name in ("file", "link"):
        with pytest.raises(FileExistsError):
            files.write(folder / name, b"other")
    files.write(folder / "new", b"new")
    assert (folder / "file").read_bytes() == b"12345"
    assert (folder / "new").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("mode", "shared", "private", "readable"),
    [(0o700, False, 0o600, 0o644), (0o770, False, 0o600, 0o644), (0o2770, True, 0o660, 0o664)],
)
def test_modes_follow_the_folder(
    folder: Path, umask: None, mode: int, shared: bool, private: int, readable: int
) -> None:
    folder.chmod(mode)
    assert files.is_shared(folder) is shared
    for taken in (0, 0o077) if shared else (0,):  # of a file that is the group's the umask takes nothing
        os.umask(taken)
        files.create(folder / f"private{taken}").close()
        files.create_readable(folder / f"readable{taken}").close()
        assert stat.S_IMODE((folder / f"private{taken}").stat().st_mode) == private
        assert stat.S_IMODE((folder / f"readable{taken}").stat().st_mode) == readable


def test_a_sync_that_fails_names_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        files.sync(folder / "file")
    assert caught.value.filename == str(folder / "file")
