import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from msb_cache.errors import InvalidImageError
from msb_cache.oci.archive import files as archive_files
from msb_cache.oci.archive.files import ArchiveFiles, DirectoryFiles, TarFiles, read_file
from tests.imagebuilder import directory, file, hardlink, layer_tar, symlink, write_members

OPEN: list[TarFiles] = []


@pytest.fixture(autouse=True)
def _closed_afterwards() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def tar_files(tmp_path: Path, data: bytes, start: int = 0) -> TarFiles:
    path = tmp_path / "archive.tar"
    path.write_bytes(bytes(start) + data)
    OPEN.append(TarFiles(io.FileIO(path), start, "the archive"))
    return OPEN[-1]


def content(files: ArchiveFiles, name: str) -> bytes:
    return read_file(files, name, 1 << 20, name)


def test_members_by_name(tmp_path: Path) -> None:
    data = layer_tar(
        [directory("d"), file("./d/a", b"one"), file("/b", b"two"), file("dup", b"1"), file("dup", b"22")]
    )
    files = tar_files(tmp_path, data, 7)
    assert content(files, "d/a") == content(files, "./d//a") == b"one"
    assert content(files, "b") == b"two"
    assert content(files, "dup") == b"22"
    assert files.size("dup") == 2
    assert files.size("d") is files.size("none") is None
    with pytest.raises(InvalidImageError, match="'none' is missing from the archive"):
        files.open("none")
    files.close()


def test_readers_are_independent(tmp_path: Path) -> None:
    files = tar_files(tmp_path, layer_tar([file("a", b"0123456789")]))
    first, second = files.open("a"), files.open("a")
    assert first.read(4) == b"0123"
    assert second.read(100) == b"0123456789"
    first.close()
    assert second.read(1) == b""
    assert first.read(100) == b"456789"


def test_links_between_members(tmp_path: Path) -> None:
    files = tar_files(
        tmp_path,
        layer_tar(
            [
                symlink("id/layer.tar", "../hash.tar"),
                file("hash.tar", b"layer"),
                hardlink("hard", "hash.tar"),
                symlink("chain", "id/layer.tar"),
                symlink("self", "self"),
                symlink("one", "two"),
                symlink("two", "one"),
                symlink("away", "../../../../etc/passwd"),
                symlink("absolute", "/hash.tar"),
                symlink("dangling", "nothing"),
                file("replaced", b"1"),
                symlink("replaced", "hash.tar"),
            ]
        ),
    )
    for name in ("id/layer.tar", "hard", "chain", "absolute", "replaced"):
        assert content(files, name) == b"layer"
    for name in ("away", "dangling"):
        assert files.size(name) is None
    for name in ("self", "one"):
        with pytest.raises(InvalidImageError, match="leads nowhere"):
            files.size(name)


def test_members_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_files, "MAX_MEMBERS", 3)
    with pytest.raises(InvalidImageError, match="more than 3 members"):
        tar_files(tmp_path, layer_tar([file(f"f{n}") for n in range(4)]))


def test_the_names_of_members_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = layer_tar([file("f" * 900_000), symlink("s", "t" * 900_000)])
    assert len(tar_files(tmp_path, data).names()) == 2
    monkeypatch.setattr(archive_files, "MAX_NAME_BYTES", 1 << 20)
    with pytest.raises(InvalidImageError, match="more than 1 MiB of names"):
        tar_files(tmp_path, data)


def test_truncated_archives(tmp_path: Path) -> None:
    data = layer_tar([file("a", b"x" * 5000), file("b", b"y" * 3_000_000)], tarfile.GNU_FORMAT)
    for end in [*range(1, 512 + 5000, 511), 512 + 5120 + 1, 1_000_000, 3_000_000]:
        with pytest.raises(InvalidImageError, match="the archive is truncated"):
            tar_files(tmp_path, data[:end])


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        tar.addfile(tarfile.TarInfo("\xff\xfe"))
    files = tar_files(tmp_path, out.getvalue())
    assert files.size("\udcff\udcfe") == 0


def test_directories(tmp_path: Path) -> None:
    files = DirectoryFiles(write_members(tmp_path / "layout", {"a": b"1", "d/e/f": b"22"}))
    assert (content(files, "a"), content(files, "d/e/f"), files.size("d/e/f")) == (b"1", b"22", 2)
    for name in ("none", "d/none", "../layout/a", "d/../a", "/etc/passwd", "", "d//e/f", "a\0b"):
        assert files.size(name) is None
    files.close()
    files.close()


def test_directories_are_not_left_through_links(tmp_path: Path) -> None:
    write_members(tmp_path, {"secret": b"secret", "layout/a": b"1"})
    (tmp_path / "layout" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "layout" / "folder").symlink_to(tmp_path)
    (tmp_path / "layout" / "inner").symlink_to("a")
    os.mkfifo(tmp_path / "layout" / "fifo")
    files = DirectoryFiles(tmp_path / "layout")
    before = len(os.listdir("/proc/self/fd"))
    for name in ("link", "folder/secret", "inner", "fifo", "a/b"):
        with pytest.raises(InvalidImageError, match="is not a plain file"):
            files.open(name)
    (tmp_path / "layout" / "d").mkdir()
    with pytest.raises(InvalidImageError, match="is not a plain file"):
        files.size("d")
    assert files.size("d/none") is None
    with pytest.raises(InvalidImageError, match="is not a plain file"):
        files.size("x" * 300)
    assert len(os.listdir("/proc/self/fd")) == before


def test_small_files_stay_small(tmp_path: Path) -> None:
    files = DirectoryFiles(write_members(tmp_path, {"a": b"12345"}))
    assert read_file(files, "a", 5, "it") == b"12345"
    with pytest.raises(InvalidImageError, match="it is 5 bytes long; at most 4 are accepted"):
        read_file(files, "a", 4, "it")
    with pytest.raises(InvalidImageError, match="it is missing from the archive"):
        read_file(files, "b", 4, "it")
