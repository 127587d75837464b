from __future__ import annotations

import os
import sys
import threading
from errno import ECANCELED
from pathlib import Path

import pytest

from msb_cache.artifacts import hashing
from msb_cache.artifacts.hashing import Hashing
from tests.artifacts.test_verity import expected

WORTH = 1 << 16


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_STEP", 1 << 14)


def write_bit_by_bit(hashing_: Hashing, path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.seek(4096)
        for at in range(4096, len(data), 5000):
            file.write(data[at : at + 5000])
            file.flush()
            hashing_.written(path, min(at + 5000, len(data)))
        file.seek(0)
        file.write(data[:4096])  # last, as the superblock of an image


@pytest.mark.usefixtures("small_steps")
def test_while_it_is_written(tmp_path: Path) -> None:
    data = os.urandom(1 << 18)
    with Hashing(worth=WORTH) as each:
        write_bit_by_bit(each, tmp_path / "file", data)
        assert each._process is not None
        assert each.finish(tmp_path / "file") == expected(data)
        write_bit_by_bit(each, tmp_path / "file", data[::-1])
        assert each.finish(tmp_path / "file") == expected(data[::-1])


@pytest.mark.usefixtures("small_steps")
def test_several_at_a_time(tmp_path: Path) -> None:
    contents = {tmp_path / f"file {number}": os.urandom(1 << 18) for number in range(4)}
    found: dict[Path, str] = {}

    def write(path: Path) -> None:
        write_bit_by_bit(each, path, contents[path])
        found[path] = each.finish(path)

    with Hashing(worth=WORTH) as each:
        threads = [threading.Thread(target=write, args=(path,)) for path in contents]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {path: expected(data) for path, data in contents.items()}


def test_a_short_file_starts_no_process(tmp_path: Path) -> None:
    data = os.urandom(WORTH - 1)
    with Hashing(worth=WORTH) as each:
        write_bit_by_bit(each, tmp_path / "file", data)
        assert each.finish(tmp_path / "file") == each.digest("fs-verity", tmp_path / "file") == expected(data)
        assert each._process is None


@pytest.mark.parametrize(
    "how", ["it was killed", "no interpreter", "frozen", "in an archive", "cannot start"]
)
@pytest.mark.usefixtures("small_steps")
def test_without_the_process(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(1 << 18)
    if how == "no interpreter":
        monkeypatch.setattr(sys, "executable", "")
    elif how == "frozen":
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    elif how == "in an archive":
        monkeypatch.setattr(hashing.verity, "__file__", "/archive.zip/verity.py")
    elif how == "cannot start":
        monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    with Hashing(worth=WORTH) as each:
        write_bit_by_bit(each, tmp_path / "file", data)
        if how == "it was killed":
            assert each._process is not None
            each._process.kill()
            each._process.wait()
        else:
            assert each._process is None
        assert each.finish(tmp_path / "file") == expected(data)
        assert each.digest("fs-verity", tmp_path / "file") == expected(data)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with Hashing(worth=1) as each:
        with pytest.raises(FileNotFoundError):
            each.digest("sha256", tmp_path / "nothing")
        (tmp_path / "link").symlink_to(sys.executable)
        with pytest.raises(OSError, match="link"):
            each.digest("sha256", tmp_path / "link")


def test_who_waits_for_it_is_let_go(tmp_path: Path) -> None:
    """Ctrl-C ends a check of large files at once."""
    (tmp_path / "file").touch()
    os.truncate(tmp_path / "file", 1 << 40)  # SHA-256 of a hole takes a quarter of an hour
    each = Hashing(worth=1)
    found: list[OSError] = []

    def ask() -> None:
        try:
            each.digest("sha256", tmp_path / "file")
        except OSError as error:
            found.append(error)

    with each:
        thread = threading.Thread(target=ask)
        thread.start()
        while each._process is None:
            pass
    thread.join(20)
    assert [error.errno for error in found] == [ECANCELED]
