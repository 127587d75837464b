"""Archives in: every format, every way to name one, and what is wrong with them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msb_cache.oci.layer.zstd import zstd
from tests.cli.support import (
    APP,
    BASE,
    FAILED,
    NOT_FOUND,
    TOOL,
    USAGE,
    Call,
    execute,
    fingerprint,
    on_terminal,
    sentence,
    written,
)
from tests.imagebuilder import (
    blob_name,
    compact_json,
    docker_archive,
    docker_members,
    hybrid_archive,
    image,
    index,
    index_descriptor,
    layer,
    legacy_members,
    named,
    oci_archive,
    oci_directory,
    oci_members,
    tar_of,
    write_members,
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
    "zstd": zstd.compress,
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
    @pytest.mark.parametrize(
        ("format", "compression"),
        [
            *(("docker", name) for name in COMPRESSIONS),
            *((name, "plain") for name in FORMATS if name != "docker"),
        ],
    )
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

    @pytest.mark.parametrize(("compression", "dash"), [("plain", ["-i", "-"]), ("zstd", [])])
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
        assert done.err.splitlines()[1].split() == ["✓", "Loaded", "localhost:5000/mine:x"]
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


def _archives() -> dict[str, tuple[Callable[[Path], Path], str]]:
    """Name → what writes it, and a word of what is said about it."""

    def raw(data: bytes) -> Callable[[Path], Path]:
        def write(path: Path) -> Path:
            path.write_bytes(data)
            return path

        return write

    whole = tar_of(docker_members([APP]))
    packed = gzip.compress(whole, mtime=0)
    lying = oci_members([APP])
    lying[blob_name(APP.layers[1].digest)] = APP.layers[1].blob[:-1] + b"!"
    wrong_manifest = oci_members([APP])
    wrong_manifest[blob_name(APP.digest)] += b" "
    missing_blob = oci_members([APP])
    del missing_blob[blob_name(APP.layers[0].digest)]
    other_diff_ids = docker_members([APP])
    other_diff_ids[APP.layers[0].diff_id.removeprefix("sha256:") + "/layer.tar"] = TOOL.layers[0].tar + bytes(
        512
    )
    not_json = docker_members([APP])
    not_json["manifest.json"] = b"{"
    wrong_shape = docker_members([APP])
    wrong_shape["manifest.json"] = compact_json([{"Config": 5}])
    missing_config = docker_members([APP])
    missing_config["manifest.json"] = compact_json(
        [{"Config": "gone.json", "RepoTags": ["a:1"], "Layers": []}]
    )
    bad_name = docker_members([image([BASE], "Bad Name:1")])
    no_layer_tar = image([layer(b"not a tar at all" * 100)], "broken:1")
    climbing = io.BytesIO()
    with tarfile.open(fileobj=climbing, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../../outside"))
    escaping = image([layer(climbing.getvalue())], "escaping:1")
    return {
        "empty": (raw(b""), "empty"),
        "text": (raw(b"hello\n" * 1000), "docker save"),
        "zeros": (raw(bytes(10240)), ""),
        "truncated": (raw(whole[: len(whole) // 2]), "truncated"),
        "cut in a header": (raw(whole[: 512 * 3 + 100]), "truncated"),
        "truncated gzip": (raw(packed[: len(packed) // 2]), ""),
        "damaged gzip": (raw(packed[:200] + bytes(100) + packed[300:]), ""),
        "gzip of text": (raw(gzip.compress(b"hello")), ""),
        "other tar": (raw(tar_of({"hello": b"world"})), "manifest.json"),
        "manifest no JSON": (raw(tar_of(not_json)), "manifest.json"),
        "manifest of another shape": (raw(tar_of(wrong_shape)), "manifest.json"),
        "config missing": (raw(tar_of(missing_config)), "gone.json"),
        "layer not that of the config": (raw(tar_of(other_diff_ids)), "sha256:"),
        "name no reference": (raw(tar_of(bad_name)), "Bad Name"),
        "layer no tar": (raw(tar_of(docker_members([no_layer_tar]))), ""),
        "layer that climbs out": (raw(tar_of(docker_members([escaping]))), ".."),
        "lies about a layer": (raw(tar_of(lying)), "sha256:"),
        "lies about its manifest": (raw(tar_of(wrong_manifest)), "sha256:"),
        "blob missing": (raw(tar_of(missing_blob)), "sha256:"),
        "no names": (raw(oci_archive(image([BASE]))), "--tag"),
        "points at nothing": (
            raw(oci_archive(APP, manifests=[named({**TOOL.descriptor}, ref_name="a:1")])),
            "",
        ),
        "folder that is no layout": (lambda path: write_members(path, {"hello": b"world"}), "index.json"),
        "empty folder": (lambda path: write_members(path, {"a/b": b""}) / "a", ""),
        "layout with a lying blob": (lambda path: write_members(path, lying), "sha256:"),
        "missing": (lambda path: path / "missing.tar", "missing.tar"),
    }


ARCHIVES = _archives()


class TestArchives:
    """What is wrong with what is loaded."""

    @pytest.mark.parametrize("kind", ARCHIVES)
    def test_refused_whole(self, home: Path, call: Call, tmp_path: Path, kind: str) -> None:
        write, says = ARCHIVES[kind]
        before = fingerprint(home)
        done = call("load", "-i", write(tmp_path / "bad"))
        assert done.raw == b""
        assert done.code == FAILED
        notes = [line for line in done.err.splitlines(keepends=True) if line.startswith("note: ")]
        said = sentence(done.err.removeprefix("".join(notes)))
        assert says in said + "".join(notes)
        assert fingerprint(home) == before
        assert not (tmp_path / "outside").exists()
        assert list((home / "cache" / "tmp").iterdir()) == []

    def test_one_bad_image_keeps_the_good_ones_out(self, home: Path, call: Call, tmp_path: Path) -> None:
        good = image([BASE], "good:1")
        bad = image([TOOL.layers[1]], "bad:1")
        members = oci_members([good, bad])
        members[blob_name(bad.layers[0].digest)] += b"!"
        (tmp_path / "both.tar").write_bytes(tar_of(members))
        before = fingerprint(home)
        assert call("load", "-i", tmp_path / "both.tar").code == FAILED
        assert fingerprint(home) == before

    def test_into_a_new_home_leaves_no_image(self, own_home: Path, call: Call, tmp_path: Path) -> None:
        (tmp_path / "bad").write_bytes(b"hello")
        assert call("load", "-i", tmp_path / "bad").code == FAILED
        assert call("list", "--format", "json").json == []
        assert [path for path in own_home.rglob("*") if path.is_file() and path.suffix != ".lock"] == []

    def test_nothing_on_stdin(self, home: Path) -> None:
        before = fingerprint(home)
        done = execute("load")
        assert (done.code, done.raw) == (FAILED, b"")
        assert "empty" in sentence(done.err)
        assert fingerprint(home) == before

    def test_rubbish_on_stdin(self, home: Path) -> None:
        before = fingerprint(home)
        for data in (b"hello", tar_of(docker_members([APP]))[:5000]):
            done = execute("load", stdin=data)
            assert (done.code, done.raw) == (FAILED, b"")
            sentence(done.err)
        assert fingerprint(home) == before

    def test_a_file_that_cannot_be_read(self, home: Path, call: Call, tmp_path: Path) -> None:
        before = fingerprint(home)
        for path in (Path("/proc/self/mem"), tmp_path):
            done = call("load", "-i", path)
            assert (done.code, done.raw) == (FAILED, b"")
            assert str(path) in sentence(done.err)
        if os.geteuid() != 0:
            (tmp_path / "app.tar").chmod(0)
            done = call("load", "-i", tmp_path / "app.tar")
            assert (done.code, done.raw) == (USAGE, b"")
            assert "is not readable" in sentence(done.err)
        assert fingerprint(home) == before

    def test_platform_that_is_not_there(self, home: Path, call: Call, tmp_path: Path) -> None:
        before = fingerprint(home)
        done = call(
            "load", "-i", written(tmp_path / "two.tar", TOOL, format="oci"), "--platform", "linux/s390x"
        )
        assert done.code in (FAILED, NOT_FOUND)
        assert "linux/s390x" in sentence(done.err)
        assert "linux/amd64" in sentence(done.err)
        assert fingerprint(home) == before


def test_load_does_not_wait_for_typing(home: Path) -> None:
    talk = on_terminal(["load"])
    assert talk.code == 2
    assert "name an archive" in sentence(talk.said)


class TestMakingRoom:
    def test_without_a_policy(self, home: Path, call: Call, tmp_path: Path) -> None:
        done = call("load", written(tmp_path / "app.tar", APP), "--make-room")
        assert (done.code, done.raw) == (USAGE, b"")
        assert "msb-cache policy init" in sentence(done.err)

    def test_it_says_what_goes(self, home: Path, call: Call, tmp_path: Path) -> None:
        call("load", written(tmp_path / "app.tar", APP))
        text = '[[rule]]\nname = "size"\nmax-size = "50KiB"\ngrace = "0s"\n'
        (home / "cache-policy.toml").write_text(text)
        done = call("load", written(tmp_path / "tool.tar", TOOL), "--make-room")
        assert done.code == 5
        assert "too little for its rule 'size'; nothing was deleted or added" in sentence(done.err)
        (home / "cache-policy.toml").write_text(text.replace("50KiB", "150KiB"))
        done = call("load", tmp_path / "tool.tar", "--make-room")
        assert done.code == 0
        assert "note: makes room: " in done.err
