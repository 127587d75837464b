"""Names change durably, each folder is synced once, and no other module changes names."""

from __future__ import annotations

import ast
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

import msb_cache
from msb_cache.artifacts.durable import (
    Changes,
    delete_folder_unsynced,
    delete_unsynced,
    make_folder,
    make_folder_unsynced,
    sync_above,
)

PACKAGE = Path(msb_cache.__file__).parent

ELSEWHERE = {
    "home/foreign_db.py": "copies of databases, outside of the home",
    "oci/archive/open.py": "an archive from a pipe, in a file that has no name",
    "oci/registry/partials.py": "parts of downloads may be lost or torn: what is resumed is hashed",
    "artifacts/files.py": "syncs of contents",
    "proof/witness_state.py": "a witness's database, outside of any home, and the folders made for it",
    "web/listening.py": "a server's socket and token, which a power loss may take",
    "proof/signer.py": "a secret key, outside of homes, which is durable before it is told of",
    "proof/note_file.py": "notes in a file outside of homes, durable before it is told of",
    "ownership.py": "how a file or folder of another user's is made, for those that see to its durability",
}
"""Modules that change names or sync all the same, and why that harms nothing."""

OF_OS = {
    *("link", "makedirs", "mkdir", "remove", "removedirs", "rename", "renames", "replace", "rmdir"),
    *("symlink", "unlink", "fsync", "fdatasync", "mknod", "mkfifo"),
}
OF_PATHS = {
    *("hardlink_to", "link_to", "mkdir", "rename", "rmdir", "rmtree", "symlink_to", "touch", "unlink"),
    *("copyfile", "copytree", "move"),
}


def changes_of_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil"):
            yield from (alias.name for alias in node.names if alias.name in OF_OS | OF_PATHS)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name, of = node.func.attr, node.func.value
            if (
                (isinstance(of, ast.Name) and of.id == "os" and name in OF_OS)
                or name in OF_PATHS
                # Of a text it takes two; of a struct or a time, names.
                or (name == "replace" and len(node.args) == 1 and not node.keywords)
            ):
                yield name


def test_no_other_module_changes_names() -> None:
    found = {
        str(path.relative_to(PACKAGE))
        for folder, _, names in os.walk(PACKAGE, followlinks=True)
        for path in (Path(folder, name) for name in names if name.endswith(".py"))
        if any(changes_of_names(ast.parse(path.read_text())))
    }
    assert found == {"artifacts/durable.py", *ELSEWHERE}


@pytest.mark.parametrize(
    "source",
    [
        "os.replace(a, b)",
        "path.unlink(missing_ok=True)",
        "a.replace(b)",
        "shutil.rmtree(a)",
        "from os import link",
    ],
)
def test_that_is_seen(source: str) -> None:
    assert [*changes_of_names(ast.parse(source))] != []
    assert [
        *changes_of_names(ast.parse("text.replace('a', 'b'); replace(row, a=1); moment.replace(fold=0)"))
    ] == []


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was synced, in that order."""
    found: list[Path] = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: found.append(Path(f"/proc/self/fd/{descriptor}").readlink())
    )
    return found


def test_each_folder_is_synced_once_when_all_is_changed(tmp_path: Path, synced: list[Path]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    make_folder(one, two)
    synced.clear()
    changes = Changes()
    changes.write(one / "file", b"12345")
    changes.link(one / "file", one / "kept")
    changes.replace(one / "file", two / "file")
    with pytest.raises(FileExistsError):
        changes.link(one / "kept", two / "file")
    assert synced == [one / "file"]
    changes.sync()
    assert sorted(synced[1:]) == [one, two]
    changes.sync()
    assert len(synced) == 3
    assert (changes.delete(one / "kept"), changes.delete(two / "none")) == (5, None)
    changes.sync()
    # Also where nothing lay: another process may have deleted it and not have lived to sync the folder.
    assert sorted(synced[3:]) == [one, two]
    assert (one / "kept").exists() is False
    assert changes.delete(tmp_path / "no folder" / "file") is None
    changes.sync()


def test_a_folder_that_could_not_be_synced_is_synced_by_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced: list[Path]
) -> None:
    changes = Changes()
    changes.write(tmp_path / "file", b"")
    with monkeypatch.context() as failing:
        failing.setattr(os, "open", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(OSError, match="Input/output error"):
            changes.sync()
    synced.clear()
    changes.sync()
    assert synced == [tmp_path]


def test_a_link_is_deleted_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    changes = Changes()
    assert changes.delete(tmp_path / "link") == 0
    assert changes.delete(tmp_path / "file") == 5
    assert changes.delete(tmp_path / "file") is None
    assert not (tmp_path / "link").is_symlink()


def test_folders_are_durable_from_above(tmp_path: Path, synced: list[Path]) -> None:
    home = tmp_path / "new"
    make_folder(home / "cache" / "layers", home / "cache" / "vmdk", home / "cache" / "layers")
    # One before there is anything in the next; brothers together.
    assert synced == [tmp_path, home, home / "cache"]
    assert stat.S_IMODE((home / "cache" / "vmdk").stat().st_mode) == 0o700
    synced.clear()
    make_folder(home / "cache" / "layers")
    make_folder_unsynced(home / "cache" / "tmp" / "x")
    assert synced == []
    sync_above(home / "db", home / "cache", home / "db")
    assert synced == [home / "cache", home, *home.parents]


def test_what_cannot_be_read_is_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("msb_cache.artifacts.durable.os.open", refuse)
    make_folder(tmp_path / "new" / "db")
    assert (tmp_path / "new" / "db").is_dir()


def test_what_is_not_there_is_deleted_all_the_same(tmp_path: Path) -> None:
    delete_unsynced(tmp_path / "file")
    delete_folder_unsynced(tmp_path / "folder")
    make_folder_unsynced(tmp_path / "folder" / "below")
    delete_folder_unsynced(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
