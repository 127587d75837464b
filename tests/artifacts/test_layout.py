"""Paths: from checked values only."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from msb_cache import ownership
from msb_cache.artifacts.durable import make_folder
from msb_cache.artifacts.layout import Layout, leaving_no_folders
from msb_cache.artifacts.locks import FolderLease
from msb_cache.errors import InvalidImageError

HEX = "ab" * 32
BAD = [
    "",
    "sha256:",
    f"sha256:{HEX.upper()}",
    f"sha512:{HEX}",
    f"sha256:{HEX}/..",
    "sha256:../../etc/passwd",
    f"sha256:{HEX}\n",
]


def test_microsandbox_names() -> None:
    layout = Layout("/home/x")
    assert layout.layer(f"sha256:{HEX}") == Path(f"/home/x/cache/layers/sha256_{HEX}.erofs")
    assert layout.fsmeta(f"sha256:{HEX}") == Path(f"/home/x/cache/fsmeta/sha256_{HEX}.erofs")
    assert layout.vmdk(f"sha256:{HEX}") == Path(f"/home/x/cache/vmdk/sha256_{HEX}.vmdk")
    reference = "docker.io/library/rich:1"
    name = "0763e648382be9775f3348b41e0a0ec3effa6a7566506f6f7faa5a410da5c35a"
    assert sha256(reference.encode()).hexdigest() == name
    assert layout.metadata(reference) == Path(f"/home/x/cache/manifests/{name}.json")


@pytest.mark.parametrize("digest", BAD)
def test_what_is_no_digest_is_no_path(digest: str) -> None:
    layout = Layout("/home/x")
    for path in (layout.layer, layout.fsmeta, layout.vmdk):
        with pytest.raises(InvalidImageError, match="is not a sha256 digest"):
            path(digest)


@pytest.mark.parametrize("operation", ["", "..", "../../x", "01a208de-7af1-7b41-9b6b-151e9b4ceb8", "x" * 36])
def test_what_is_no_operation_is_no_path(operation: str) -> None:
    layout = Layout("/home/x")
    with pytest.raises(InvalidImageError):
        layout.staging(operation)


def test_every_artifact_is_found_again(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert list(layout.files()) == []
    for folder in layout.folders.values():
        make_folder(folder)
    expected = []
    for kind in ("metadata", "layer", "fsmeta", "vmdk"):
        subject = f"{HEX}.json" if kind == "metadata" else f"sha256:{HEX}"
        path = layout.artifact(kind, subject)
        path.touch()
        path.with_name(path.name + ".lock").touch()
        expected.append((kind, subject, path))
    (layout.folders["layer"] / "other.txt").touch()
    (layout.folders["layer"] / ".msb-leases").mkdir()
    assert list(layout.files()) == expected
    assert [path.name for path in layout.foreign_files()] == ["other.txt"]


def test_a_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Layout("home").home == str(tmp_path / "home")


@pytest.mark.parametrize("alone", [True, False])
def test_what_is_refused_takes_no_folders_from_another_operation(tmp_path: Path, alone: bool) -> None:
    layout = Layout(tmp_path / "below" / "home")
    other = layout.operation_lock("01a208fa-d352-7c7a-ad9c-167339bf8ee9")

    @leaving_no_folders(layout)
    def refused() -> None:
        for folder in (layout.operations, *layout.own_folders):
            make_folder(folder)
        if not alone:
            other.touch()
        raise InvalidImageError("refused")

    with pytest.raises(InvalidImageError, match="refused"):
        refused()
    assert layout.db.parent.parent.exists() is not alone
    assert all(folder.is_dir() is not alone for folder in layout.own_folders)


@pytest.mark.parametrize("kept_by", ["an operation", "msb"])
def test_what_is_refused_takes_no_folders_from_what_begins_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_by: str
) -> None:
    layout = Layout(tmp_path / "home")
    lease = FolderLease(layout.db)

    @leaving_no_folders(layout)
    def refused() -> None:
        for folder in (layout.operations, *layout.folders.values()):
            make_folder(folder)
        if kept_by == "msb":
            Path(layout.msb_database).touch()
        else:
            # It has looked already for operations that run, and now one begins.
            monkeypatch.setattr(Layout, "interrupted_operations", lambda self: [])
            assert lease.acquire()
        raise InvalidImageError("refused")

    with pytest.raises(InvalidImageError, match="refused"):
        refused()
    assert all(folder.is_dir() for folder in layout.folders.values())
    lease.release()


def test_folders_are_made_again_where_those_above_vanish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, really, left = tmp_path / "a" / "b" / "c", ownership.make_folder, [3]

    def make(path: Path, mode: int) -> None:
        if path == wanted and left[0]:
            left[0] -= 1
            path.parent.rmdir()
            path.parent.parent.rmdir()
        really(path, mode)

    monkeypatch.setattr(ownership, "make_folder", make)
    make_folder(wanted)
    assert (wanted.is_dir(), left) == (True, [0])
