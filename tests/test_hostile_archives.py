"""Archives made to harm, loaded for real: one sentence, bounded memory and time, and the cache as it was.

What single readers refuse is tested beside them, in tests/oci; here is what becomes of a home. Nearly each
load runs in a child that may have 1 GiB of address space, 60 s of processor time and, where it says so, files
of 64 MiB.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import resource
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msb_cache import ImageCache
from msb_cache.errors import MicrosandboxError
from tests.cli.support import APP, PROGRAM, fingerprint, sentence, written
from tests.imagebuilder import (
    Member,
    blob_name,
    compact_json,
    directory,
    docker_archive,
    docker_members,
    file,
    hardlink,
    image,
    layer,
    oci_archive,
    oci_members,
    sha256,
    symlink,
    tar_of,
)

ADDRESS_SPACE = 1 << 30
LARGEST_FILE = 64 << 20
MARKER = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with ImageCache(tmp_path / "h") as cache:
        cache.load(written(tmp_path / "app.tar", APP))
    return tmp_path / "h"


def load(home: Path, archive: Path, *, largest_file: int | None = None) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    command = [
        str(Path(sys.executable).with_name("msb-cache")),
        "--home",
        str(home),
        "load",
        "-i",
        str(archive),
    ]
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, timeout=120)


def refused(home: Path, archive: bytes, *, largest_file: int | None = None) -> str:
    """Load an archive that must be refused, and return why; nothing of the home may change."""
    path = home.with_name("hostile.tar")
    path.write_bytes(archive)
    before, around = fingerprint(home), sorted(home.parent.iterdir())
    done = load(home, path, largest_file=largest_file)
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert fingerprint(home) == before
    assert sorted(home.parent.iterdir()) == around
    assert not [*(home / "cache" / "tmp").iterdir()]
    return sentence(done.stderr)


def leaves_no_home(parent: Path, archive: bytes) -> None:
    """Load an archive that must be refused into a home that is not there; nor is it afterwards."""
    above = parent / "not there"
    with ImageCache(above / "yet") as cache, pytest.raises(MicrosandboxError):
        cache.load(io.BytesIO(archive))
    assert not above.exists()


def of_layer(*members: Member, compression: str = "none") -> bytes:
    return docker_archive(image([layer(members, compression)], "hostile:1"))


# --- leaving the folder --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([file("../../evil", b"x")], "points upwards"),
        ([file("a/../../evil", b"x")], "points upwards"),
        ([symlink("out", "/"), hardlink("evil", "../etc/passwd")], "points upwards"),
        ([hardlink("evil", "/etc/passwd")], "not in this layer"),
        ([symlink("a", "b"), symlink("b", "a"), file("a/x", b"x")], "too many symbolic links"),
        ([file("/".join(["n" * 200] * 25), b"x"), file("n" * 4096, b"x")], "longer than 255 bytes"),
        ([file("/".join("d" * 2000), b"x")], "more than 1024 deep"),
        ([Member("dev", "block", device=(1 << 13, 1))], "impossible device number"),
    ],
)
def test_layers_that_try_to_leave_their_root(home: Path, members: list[Member], says: str) -> None:
    assert says in refused(home, of_layer(*members))


def test_links_and_devices_are_data(home: Path, tmp_path: Path) -> None:
    """Whatever they name, nothing but files of the cache is made."""
    members = [
        symlink("up", "../../../../../../../../tmp"),
        symlink("abs", str(tmp_path)),
        file("abs/evil", b"in the image"),
        *(Member(f"dev{number}", "block", device=(8, number)) for number in range(500)),
        Member("pipe", "fifo"),
    ]
    archive = tmp_path / "links.tar"
    archive.write_bytes(of_layer(*members))
    around = set(tmp_path.iterdir())
    assert load(home, archive).returncode == 0
    assert set(tmp_path.iterdir()) == around
    assert all(path.is_file() or path.is_dir() for path in home.rglob("*"))
    assert not any(path.is_symlink() for path in home.rglob("*"))


# --- bombs ---------------------------------------------------------------------------------------

ZEROS = bytes(200 << 20)
WHOLE: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "zstd": zstandard.ZstdCompressor().compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "bzip2": lambda data: bz2.compress(data, 1),
}


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_layer_that_expands_past_what_the_disk_takes(home: Path, compression: str) -> None:
    archive = of_layer(file("zeros", ZEROS), compression=compression)
    assert len(archive) < 2 << 20
    assert "File too large" in refused(home, archive, largest_file=LARGEST_FILE)


@pytest.mark.parametrize("compression", WHOLE)
def test_an_archive_that_expands_past_what_the_disk_takes(home: Path, compression: str) -> None:
    archive = WHOLE[compression](tar_of({"manifest.json": ZEROS}))
    assert len(archive) < 2 << 20
    assert "File too large" in refused(home, archive, largest_file=LARGEST_FILE)


def test_a_hole_of_ten_gigabytes_takes_no_space(home: Path, tmp_path: Path) -> None:
    size = 10 << 30
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("GNUSparseFile.0/hole")
        data = b"1\n0\n0\n".ljust(512, b"\0")
        info.size = len(data)
        info.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "hole",
            "GNU.sparse.realsize": str(size),
        }
        tar.addfile(info, io.BytesIO(data))
    archive = tmp_path / "hole.tar"
    archive.write_bytes(docker_archive(image([layer(out.getvalue())], "hole:1")))
    done = load(home, archive)
    assert done.returncode == 0, done.stderr
    (found,) = (path for path in (home / "cache" / "layers").glob("*.erofs") if path.stat().st_size > size)
    assert found.stat().st_blocks * 512 < 1 << 20


def test_an_archive_of_too_many_members(home: Path) -> None:
    block = tar_of({"x": b""})[:512]
    assert "more than 200000 members" in refused(home, block * 200_001 + bytes(1024))


@pytest.mark.parametrize("name", ["manifest.json", "index.json"])
def test_a_document_of_100_megabytes(home: Path, name: str) -> None:
    assert "bytes long; at most" in refused(home, tar_of({**MARKER, name: bytes(100 << 20)}))


@pytest.mark.parametrize("name", ["manifest.json", "index.json"])
def test_a_document_that_is_nested_deeply(home: Path, name: str) -> None:
    members = {**MARKER, name: b"[" * 1_000_000}
    assert refused(home, tar_of(members))
    members[name] = b'{"schemaVersion":2,"x":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"
    assert refused(home, tar_of(members))


# --- lies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["manifest", "config", "layer", "diff ID"])
def test_every_digest_is_checked(home: Path, which: str) -> None:
    built = image([layer([file("a", b"content")])], "lie:1")
    if which == "diff ID":
        config = built.config.replace(built.layers[0].diff_id.encode(), sha256(b"another").encode())
        built = type(built)(config, built.layers, built.names)
    members = oci_members([built])
    wrong = {"manifest": built.digest, "config": sha256(built.config), "layer": built.layers[0].digest}
    if which in wrong:
        name = blob_name(wrong[which])
        members[name] = members[name].replace(b"a", b"b", 1)
    assert refused(home, tar_of(members))
    leaves_no_home(home.parent, tar_of(members))


def test_ten_thousand_layers(home: Path) -> None:
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
    members = {"c.json": b"", "l.tar": tar_of({"a": b""})}
    config["rootfs"]["diff_ids"] = [sha256(members["l.tar"])] * 10_000  # type: ignore[index]
    members["c.json"] = compact_json(config)
    entry = {"Config": "c.json", "RepoTags": ["many:1"], "Layers": ["l.tar"] * 10_000}
    members["manifest.json"] = compact_json([entry])
    assert "at most 1024 are supported" in refused(home, tar_of(members))


def test_no_layers_are_an_image(home: Path, tmp_path: Path) -> None:
    archive = tmp_path / "none.tar"
    archive.write_bytes(oci_archive(image([], "none:1")))
    assert load(home, archive).returncode == 0
    with ImageCache(home) as cache:
        assert cache.get("none:1").layer_count == 0
        assert cache.verify().sound


def test_names_and_labels_that_are_not_utf8(home: Path, tmp_path: Path) -> None:
    label = docker_members([image([layer([directory("a")])], "l:1", config={"Labels": {"a": "XX"}})])
    name = next(name for name in label if name.endswith(".json") and name != "manifest.json")
    label[name] = label[name].replace(b"XX", b"\xff\xfe")
    assert "cannot be read" in refused(home, tar_of(label))
    archive = tmp_path / "names.tar"
    archive.write_bytes(of_layer(file("na\udcffme", b"x"), symlink("li\udcfek", "t\udcfd")))
    assert load(home, archive).returncode == 0
    with ImageCache(home) as cache:
        assert cache.verify().sound


def test_keys_that_come_twice_mean_the_same_to_everybody(home: Path, tmp_path: Path) -> None:
    """The last counts, as in Go's and Python's decoders, and the digest is of the bytes as they are."""
    built = image([layer([directory("a")])], "twice:1")
    manifest = built.manifest[:-1] + b',"layers":' + json.dumps([built.layers[0].descriptor]).encode() + b"}"
    members = oci_members([built], [{**built.descriptor, "digest": sha256(manifest), "size": len(manifest)}])
    members[blob_name(sha256(manifest))] = manifest
    archive = tmp_path / "twice.tar"
    archive.write_bytes(tar_of(members))
    done = subprocess.run(
        [PROGRAM, "--home", home, "load", "-i", archive, "-t", "twice:1"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with ImageCache(home) as cache:
        assert cache.get("twice:1").manifest_digest == sha256(manifest)


WHOLE_ARCHIVES = {
    "docker": docker_archive(image([layer([file("a", os.urandom(3000))], "gzip")], "cut:1")),
    "oci": oci_archive(image([layer([file("a", os.urandom(3000))], "zstd")], "cut:1")),
}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(WHOLE_ARCHIVES)), data=st.data())
def test_cut_off_anywhere(home: Path, kind: str, data: st.DataObject) -> None:
    whole = WHOLE_ARCHIVES[kind]
    end = len(whole.rstrip(b"\0"))
    cut = data.draw(st.integers(0, end - 1))
    before = fingerprint(home)
    with ImageCache(home) as cache, pytest.raises(MicrosandboxError):
        cache.load(io.BytesIO(whole[:cut]))
    assert fingerprint(home) == before
    leaves_no_home(home.parent, whole[:cut])
