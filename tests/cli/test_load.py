"""Archives in and out: every way to load, every way to save, and that what is saved loads here again."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from msb_cache.artifacts.layer import read_layer
from tests.artifacts.support import flatten
from tests.cli.conftest import Call
from tests.cli.support import APP, APP_NEXT, BASE, PROGRAM, TOOL, execute, written
from tests.imagebuilder import (
    docker_archive,
    hybrid_archive,
    image,
    index,
    index_descriptor,
    legacy_members,
    named,
    oci_archive,
    oci_directory,
    oci_members,
    tar_of,
)

ARM = image([BASE], architecture="arm64", variant="v8")
AMD = image([TOOL.layers[1]], architecture="amd64")
MANY = index([ARM.descriptor, AMD.descriptor])
MULTI = tar_of(
    oci_members(
        [ARM, AMD],
        manifests=[named(index_descriptor(MANY), ref_name="many:1")],
        blobs={index_descriptor(MANY)["digest"]: MANY},
    )
)
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "gzip in two members": lambda data: gzip.compress(data[:3000]) + gzip.compress(data[3000:]),
    "zstd": zstandard.ZstdCompressor().compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}
FORMATS: dict[str, Callable[..., bytes]] = {
    "docker": docker_archive,
    "oci": oci_archive,
    "docker 25": hybrid_archive,
    "docker 1.9": lambda *images: tar_of(legacy_members(images[0])),
}


class TestLoad:
    @pytest.mark.parametrize("compression", COMPRESSIONS)
    @pytest.mark.parametrize("format", FORMATS)
    def test_formats(self, own_home: Path, call: Call, tmp_path: Path, format: str, compression: str) -> None:
        archive = tmp_path / "archive"
        archive.write_bytes(COMPRESSIONS[compression](FORMATS[format](APP)))
        done = call("load", "-i", archive)
        assert (done.code, done.raw) == (0, b"")
        assert sorted(call("list", "-q").lines) == ["app:1", "app:latest"]
        layers = call("inspect", "app:1", "--format", "json").json["layers"]
        assert [each["diff_id"] for each in layers] == [each.diff_id for each in APP.layers]
        assert call("verify").code == 0
        assert os.listdir(own_home / "cache" / "tmp") == []

    @pytest.mark.parametrize("compression", ["plain", "zstd"])
    @pytest.mark.parametrize("dash", [[], ["-i", "-"]])
    def test_stdin(self, own_home: Path, compression: str, dash: list[str]) -> None:
        done = execute("load", *dash, stdin=COMPRESSIONS[compression](docker_archive(APP)))
        assert (done.code, done.raw) == (0, b"")
        assert done.err.count("Loaded") == 2
        [first, *_] = execute("history", "app:1", "--format", "json").json
        assert first["data"]["source"] == {"kind": "archive", "name": "-"}

    def test_layout_folder(self, own_home: Path, call: Call, tmp_path: Path) -> None:
        folder = oci_directory(tmp_path / "layout", APP, TOOL)
        assert call("load", "-i", folder).code == 0
        assert sorted(call("list", "-q").lines) == ["app:1", "app:latest", "example.org/team/tool:2"]
        assert call("inspect", "app:1", "--format", "json").json["digest"] == APP.digest
        assert sorted(path.name for path in folder.iterdir()) == ["blobs", "index.json", "oci-layout"]

    def test_tag_is_one_more_reference(self, own_home: Path, call: Call, tmp_path: Path) -> None:
        archive = written(tmp_path / "a.tar", APP, TOOL)
        done = call("load", "-i", archive, "--tag", "localhost:5000/mine:x")
        assert done.err.splitlines()[0].split() == ["✓", "Loaded", "localhost:5000/mine:x"]
        found = {entry["reference"]: entry["digest"] for entry in call("ls", "--format", "json").json}
        assert found["localhost:5000/mine:x"] == found["app:1"] == found["app:latest"]
        assert len(found) == 4

    def test_tag_names_what_has_no_name(self, own_home: Path, call: Call, tmp_path: Path) -> None:
        archive = written(tmp_path / "a.tar", image([BASE]), format="oci")
        assert call("load", "-i", archive).code == 1
        assert call("load", "-i", archive, "-t", "named:1").code == 0
        assert call("list", "-q").lines == ["named:1"]

    @pytest.mark.parametrize(
        ("platform", "chosen"), [("linux/arm64", ARM), ("linux/amd64", AMD), ("linux/arm64/v8", ARM)]
    )
    def test_platform(self, own_home: Path, call: Call, tmp_path: Path, platform: str, chosen: Any) -> None:
        (tmp_path / "many.tar").write_bytes(MULTI)
        assert call("load", "-i", tmp_path / "many.tar", "--platform", platform).code == 0
        shown = call("inspect", "many:1", "--format", "json").json
        assert (shown["digest"], shown["architecture"]) == (chosen.digest, chosen.architecture)

    def test_an_image_of_another_machine_is_noted(self, own_home: Path, call: Call, tmp_path: Path) -> None:
        archive = written(tmp_path / "a.tar", image([BASE], "far:1", architecture="s390x"))
        done = call("load", "-i", archive)
        assert done.code == 0
        assert done.err.startswith("note: ")
        assert "linux/s390x" in done.err
        assert call("load", "-q", "-i", archive).err == ""

    def test_again_changes_nothing_on_disk(self, home: Path, call: Call, tmp_path: Path) -> None:
        files = {path: path.stat().st_ino for path in (home / "cache" / "layers").glob("*.erofs")}
        assert call("load", "-i", tmp_path / "app.tar").code == 0
        assert {path: path.stat().st_ino for path in files} == files
        last = call("history", "app:1", "--format", "json").json[-1]
        assert last["data"]["changed"] is False
        assert last["data"]["bytes_fetched"] == 0
        assert "unchanged" in call("history", "app:1").lines[-1]

    def test_the_archive_may_be_named_relative(
        self, home: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert call("load", "-i", "app.tar").code == 0
        last = call("history", "app:1", "--format", "json").json[-1]
        assert last["data"]["source"]["name"] == str(tmp_path / "app.tar")

    def test_mending_what_was_lost(self, home: Path, call: Call, tmp_path: Path) -> None:
        """Verify says: load the image again. That must help, for each kind of file."""
        for path in sorted((home / "cache").rglob("*")):
            if not path.is_file() or path.suffix == ".lock":
                continue
            path.unlink()
            assert call("verify").code == 1, path
            call("load", "-q", "-i", tmp_path / "app.tar")
            call("load", "-q", "-i", tmp_path / "tool.tar")
            assert call("verify").code == 0, path

    def test_mending_what_is_too_short(self, home: Path, call: Call, tmp_path: Path) -> None:
        for folder in ("layers", "fsmeta", "vmdk"):
            for path in sorted((home / "cache" / folder).glob("sha256_*")):
                if path.suffix == ".lock":
                    continue
                os.truncate(path, 100)
                assert call("verify").code == 1, path
                call("load", "-q", "-i", tmp_path / "app.tar")
                call("load", "-q", "-i", tmp_path / "tool.tar")
                assert call("verify").code == 0, path


class TestSave:
    @pytest.mark.parametrize("to_stdout", [True, False], ids=["stdout", "file"])
    @pytest.mark.parametrize("format", ["docker", "oci"])
    def test_loads_again(self, home: Path, call: Call, tmp_path: Path, format: str, to_stdout: bool) -> None:
        references = ["app:1", "example.org/team/tool:2", "app:latest"]
        out = tmp_path / "out.tar"
        if to_stdout:
            done = call("save", *references, "--format", format)
            assert (done.code, done.err) == (0, "")
            out.write_bytes(done.raw)
        else:
            done = call("save", *references, "--format", format, "-o", out)
            assert (done.code, done.raw) == (0, b"")
            assert done.err.split()[:2] == ["✓", "Saved"]
        again = tmp_path / "again"
        assert call("--home", again, "load", "-i", out).code == 0
        assert sorted(call("--home", again, "list", "-q").lines) == sorted(references)
        assert call("--home", again, "verify").code == 0
        for reference in references:
            was = call("inspect", reference, "--format", "json").json
            now = call("--home", again, "inspect", reference, "--format", "json").json
            for key in ("reference", "architecture", "os", "layer_count"):
                assert was[key] == now[key]
            assert {**was["config"], "digest": None} == {**now["config"], "digest": None}
            # The layers say the same, though their tars are others and so are their digests.
            for before, after in zip(was["layers"], now["layers"], strict=True):
                assert _tree(home, before) == _tree(again, after)

    @pytest.mark.parametrize("format", ["docker", "oci"])
    def test_saving_what_was_loaded_from_a_save_changes_nothing_more(
        self, home: Path, call: Call, tmp_path: Path, format: str
    ) -> None:
        first = call("save", "app:1", "--format", format).raw
        (tmp_path / "first.tar").write_bytes(first)
        call("--home", tmp_path / "again", "load", "-i", tmp_path / "first.tar")
        assert call("--home", tmp_path / "again", "save", "app:1", "--format", format).raw == first

    def test_quiet_and_dash(self, home: Path, call: Call, tmp_path: Path) -> None:
        done = call("save", "-q", "app:1", "-o", tmp_path / "out.tar")
        assert (done.code, done.raw, done.err) == (0, b"", "")
        assert call("save", "app:1", "-o", "-").raw == (tmp_path / "out.tar").read_bytes()

    def test_formats_are_what_they_say(self, home: Path, call: Call) -> None:
        with tarfile.open(fileobj=io.BytesIO(call("save", "app:1", "app:latest").raw)) as tar:
            manifest = json.load(_member(tar, "manifest.json"))
        assert [sorted(each["RepoTags"]) for each in manifest] == [["app:1", "app:latest"]]
        with tarfile.open(fileobj=io.BytesIO(call("save", "app:1", "--format", "oci").raw)) as tar:
            assert json.load(_member(tar, "oci-layout")) == {"imageLayoutVersion": "1.0.0"}
            assert len(json.load(_member(tar, "index.json"))["manifests"]) == 1

    def test_the_same_twice(self, home: Path, call: Call) -> None:
        done = call("save", "app:1", "library/app:1")
        assert done.code == 0
        with tarfile.open(fileobj=io.BytesIO(done.raw)) as tar:
            assert json.load(_member(tar, "manifest.json"))[0]["RepoTags"] == ["app:1"]

    def test_saving_appends_nothing(self, home: Path, call: Call) -> None:
        before = call("events").raw
        call("save", "app:1")
        assert call("events").raw == before

    def test_permissions_follow_the_umask(self, home: Path, tmp_path: Path) -> None:
        """As msb's do: an archive is made to be given to somebody."""
        out = tmp_path / "out.tar"
        subprocess.run(["sh", "-c", 'umask 022; "$0" save -q app:1 -o "$1"', PROGRAM, out], check=True)
        assert out.stat().st_mode & 0o777 == 0o644

    def test_after_a_retag_the_new_image_is_saved(self, home: Path, call: Call, tmp_path: Path) -> None:
        call("load", "-q", "-i", written(tmp_path / "next.tar", APP_NEXT))
        (tmp_path / "out.tar").write_bytes(call("save", "app:1").raw)
        call("--home", tmp_path / "again", "load", "-i", tmp_path / "out.tar")
        top = call("--home", tmp_path / "again", "inspect", "app:1", "--format", "json").json["layers"][1]
        assert _tree(tmp_path / "again", top) == _tree(home, {"diff_id": APP_NEXT.layers[1].diff_id})


def _layer(home: Path, layer: dict[str, Any]) -> Path:
    return home / "cache" / "layers" / f"{layer['diff_id'].replace(':', '_')}.erofs"


def _tree(home: Path, layer: dict[str, Any]) -> dict[bytes, Any]:
    path = _layer(home, layer)
    return flatten(read_layer(path).root, {0: path.read_bytes()})


def _member(tar: tarfile.TarFile, name: str) -> Any:
    found = tar.extractfile(name)
    assert found is not None
    return found
