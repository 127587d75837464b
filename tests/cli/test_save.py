"""Archives out: that what is saved loads here again, and what is wrong with saving."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from msb_cache.artifacts.layer import read_layer
from tests.artifacts.support import flatten
from tests.cli.support import (
    APP,
    APP_NEXT,
    FAILED,
    NOT_FOUND,
    PROGRAM,
    USAGE,
    Call,
    on_terminal,
    sentence,
    written,
)


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
        assert (done.code, done.lines, done.err) == (0, [str(tmp_path / "out.tar")], "")
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


class TestSaving:
    @pytest.mark.parametrize(
        "target", ["", "no/such/folder/x.tar", "{tmp}", "/proc/x.tar", "{tmp}/app.tar/x"]
    )
    def test_where_nothing_can_be_written(
        self, home: Path, call: Call, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        before = sorted(os.listdir(tmp_path))
        done = call("save", "app:1", "-o", target.format(tmp=tmp_path))
        assert (done.code, done.raw) in ((FAILED, b""), (USAGE, b""))
        said = sentence(done.err)
        assert ".part" not in said  # the user named no such file
        assert sorted(os.listdir(tmp_path)) == before

    def test_one_of_several_missing(self, home: Path, call: Call, tmp_path: Path) -> None:
        done = call("save", "app:1", "nothing:1", "-o", tmp_path / "out.tar")
        assert done.code == NOT_FOUND
        assert "nothing:1" in sentence(done.err)
        assert not (tmp_path / "out.tar").exists()

    def test_a_failed_save_keeps_the_old_file(self, home: Path, call: Call, tmp_path: Path) -> None:
        out = tmp_path / "out.tar"
        out.write_bytes(b"precious")
        next(iter((home / "cache" / "layers").glob("*.erofs"))).unlink()
        done = call("save", "app:1", "example.org/team/tool:2", "-o", out)
        assert done.code == FAILED
        assert "load the image again" in sentence(done.err)
        assert out.read_bytes() == b"precious"
        assert list(tmp_path.glob(".*")) == []

    def test_a_truncated_layer(self, home: Path, call: Call, tmp_path: Path) -> None:
        path = home / "cache" / "layers" / f"{APP.layers[1].diff_id.replace(':', '_')}.erofs"
        os.truncate(path, 4096)
        done = call("save", "app:1", "-o", tmp_path / "out.tar")
        assert done.code == FAILED
        assert path.name in sentence(done.err)
        assert not (tmp_path / "out.tar").exists()


def test_save_does_not_garble_a_terminal(home: Path) -> None:
    talk = on_terminal(["save", "app:1"])
    assert talk.code == 2
    assert "-o FILE" in sentence(talk.said)


def _layer(home: Path, layer: dict[str, Any]) -> Path:
    return home / "cache" / "layers" / f"{layer['diff_id'].replace(':', '_')}.erofs"


def _tree(home: Path, layer: dict[str, Any]) -> dict[bytes, Any]:
    path = _layer(home, layer)
    return flatten(read_layer(path).root, {0: path.read_bytes()})


def _member(tar: tarfile.TarFile, name: str) -> Any:
    found = tar.extractfile(name)
    assert found is not None
    return found
