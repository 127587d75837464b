"""What files of a cache take of the disk, against du, and what of that comes free."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from msb_cache.artifacts.layout import Layout
from msb_cache.artifacts.measured import MeasuredFiles
from tests.flatroots import BLOB, MIB, ONE, TWO, document, put
from tests.logs import PYTHON, digest

X, Y, M = digest("x"), digest("y"), digest("m")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "measured")


def write(path: Path, size: int, hole: int = 0) -> int:
    """Write a file that ends with a hole; return what it takes of the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(os.urandom(size))
        file.truncate(size + hole)
        file.flush()
        os.fsync(file.fileno())  # some file systems give blocks only when they write
    return blocks(path)


def blocks(path: Path) -> int:
    return path.stat().st_blocks * 512


def du(path: Path) -> int:
    found = subprocess.run(["du", "-s", "-B1", f"{path}/"], capture_output=True, text=True, check=True)
    return int(found.stdout.split()[0])


def both(files: MeasuredFiles, kind: str, subject: str) -> tuple[int, int]:
    return files.size(kind, subject), files.freed(kind, subject)


def test_an_artifact_takes_its_blocks(layout: Layout) -> None:
    for kind, subject in (("layer", X), ("fsmeta", M), ("vmdk", M), ("metadata", PYTHON), ("flat_ref", M)):
        taken = write(layout.artifact(kind, subject), 5000)
        assert taken >= 5000
        assert both(MeasuredFiles(layout), kind, subject) == (taken, taken)


def test_holes_take_nothing(layout: Layout) -> None:
    taken = write(layout.artifact("flat", BLOB), 4096, hole=64 * MIB)
    assert taken < MIB
    assert both(MeasuredFiles(layout), "flat", BLOB) == (taken, taken)


def test_of_a_file_with_another_name_nothing_comes_free(layout: Layout, tmp_path: Path) -> None:
    one, two = write(layout.layer(X), 5000), write(layout.layer(Y), 9000)
    os.link(layout.layer(X), tmp_path / "kept elsewhere")
    files = MeasuredFiles(layout)
    assert both(files, "layer", X) == (one, 0)
    assert both(files, "layer", Y) == (two, two)
    (tmp_path / "kept elsewhere").unlink()
    assert both(files, "layer", X) == (one, 0)  # as it was when it was first asked for
    assert both(MeasuredFiles(layout), "layer", X) == (one, one)


def test_what_is_not_there_takes_nothing(layout: Layout) -> None:
    files = MeasuredFiles(layout)
    for kind, subject in (("layer", X), ("flat", BLOB), ("metadata", PYTHON)):
        assert both(files, kind, subject) == (0, 0)
    assert files.total_bytes == 0
    assert files.flat_root(ONE) is None
    write(layout.layer(Y), 1)
    assert both(MeasuredFiles(layout), "layer", X) == (0, 0)


def test_what_is_no_file_takes_nothing(layout: Layout, tmp_path: Path) -> None:
    taken = write(tmp_path / "elsewhere", 5000)
    layout.layer(X).parent.mkdir(parents=True)
    layout.layer(X).symlink_to(tmp_path / "elsewhere")
    layout.layer(Y).mkdir()
    files = MeasuredFiles(layout)
    assert taken > 0
    assert both(files, "layer", X) == both(files, "layer", Y) == (0, 0)


def test_the_lock_beside_an_artifact_is_not_it(layout: Layout) -> None:
    taken = write(layout.layer(X), 5000)
    write(layout.layer(X).with_name(layout.layer(X).name + ".lock"), 50)
    write(layout.layer(Y).with_name(layout.layer(Y).name + ".lock"), 50)
    files = MeasuredFiles(layout)
    assert both(files, "layer", X) == (taken, taken)
    assert both(files, "layer", Y) == (0, 0)


def filled(layout: Layout, tmp_path: Path) -> None:
    for size, subject in enumerate((X, Y, M)):
        write(layout.layer(subject), 3000 * size)
    write(layout.artifact("flat", BLOB), 4096, hole=MIB)
    write(layout.downloads / "part" / "deeper", 20000)
    write(layout.cache / "stray", 10)
    os.link(layout.layer(Y), layout.cache / "tmp" / "same")
    os.link(layout.layer(M), tmp_path / "elsewhere")
    (layout.cache / "link").symlink_to(tmp_path)
    os.mkfifo(layout.cache / "pipe")


def test_the_whole_cache_is_what_du_says(layout: Layout, tmp_path: Path) -> None:
    filled(layout, tmp_path)
    files = MeasuredFiles(layout)
    assert files.total_bytes == du(layout.cache)
    write(layout.layer(digest("late")), 9000)
    assert files.total_bytes < MeasuredFiles(layout).total_bytes == du(layout.cache)


def test_a_cache_that_is_a_link_to_another_disk(layout: Layout, tmp_path: Path) -> None:
    elsewhere = tmp_path / "disk"
    elsewhere.mkdir()
    Path(layout.home).mkdir()
    layout.cache.symlink_to(elsewhere)
    filled(layout, tmp_path)
    files = MeasuredFiles(layout)
    assert files.total_bytes == du(elsewhere) > 20000
    assert files.size("layer", Y) >= 3000
    found = os.statvfs(elsewhere)
    assert files.capacity_bytes == found.f_blocks * found.f_frsize


@pytest.mark.parametrize("error", [PermissionError, FileNotFoundError])
def test_a_folder_that_cannot_be_read_counts_for_itself(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    write(layout.cache / "closed" / "file", 50000)
    taken = write(layout.layer(X), 10)
    really = os.open

    def closed(path: str, flags: int) -> int:
        if str(path).endswith("closed"):
            raise error
        return really(path, flags)

    monkeypatch.setattr("msb_cache.artifacts.measured.os.open", closed)
    assert (
        taken
        <= MeasuredFiles(layout).total_bytes
        == du(layout.cache) - blocks(layout.cache / "closed" / "file")
    )


def test_the_file_system_is_the_caches(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(layout.home).mkdir()
    asked: list[str] = []

    def statvfs(path: str | Path) -> os.statvfs_result:
        asked.append(os.fspath(path))
        return os.statvfs_result((4096, 512, 1000, 300, 200, 0, 0, 0, 0, 255))

    monkeypatch.setattr("msb_cache.artifacts.measured.os.statvfs", statvfs)
    files = MeasuredFiles(layout)
    assert (files.free_bytes, files.capacity_bytes) == (
        200 * 512,
        1000 * 512,
    )  # what root alone may use is not
    layout.cache.mkdir()
    assert MeasuredFiles(layout).free_bytes == 200 * 512
    assert asked == [layout.home, os.fspath(layout.cache)]


def test_a_flat_root_is_the_one_that_its_ref_names(layout: Layout) -> None:
    put(layout, ONE)
    put(layout, TWO, document(TWO, artifact_digest=digest("other")))
    put(layout, M, b"junk")
    files = MeasuredFiles(layout)
    assert [files.flat_root(each) for each in (ONE, TWO, M, X)] == [BLOB, digest("other"), None, None]
    assert files.size("flat_ref", M) == blocks(layout.artifact("flat_ref", M))


def test_what_goes_anyway_is_said_by_who_knows(layout: Layout) -> None:
    assert MeasuredFiles(layout).going_anyway_bytes == 0
    assert MeasuredFiles(layout, 7).going_anyway_bytes == 7
