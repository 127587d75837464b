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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msb_cache import ImageCache
from msb_cache.artifacts.layer import read_layer
from msb_cache.artifacts.tree import walk
from msb_cache.errors import InvalidImageError, MicrosandboxError
from msb_cache.oci.layer.zstd import zstd
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


def load(
    home: Path, archive: Path, *, largest_file: int | None = None, address_space: int = ADDRESS_SPACE
) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
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


def refused(
    home: Path, archive: bytes, *, largest_file: int | None = None, address_space: int = ADDRESS_SPACE
) -> str:
    """Load an archive that must be refused, and return why; nothing of the home may change."""
    path = home.with_name("hostile.tar")
    path.write_bytes(archive)
    before, around = fingerprint(home), sorted(home.parent.iterdir())
    done = load(home, path, largest_file=largest_file, address_space=address_space)
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
    "zstd": zstd.compress,
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


# --- memory --------------------------------------------------------------------------------------

SCALED = 24 << 20  # instead of 2 GiB
WITHIN = """
import gc, sys
from msb_cache.artifacts import footprint
from msb_cache.cli.main import run
footprint.MAX_FOOTPRINT = int(sys.argv[1])
gc.set_threshold(100_000)  # as main does
code = run(sys.argv[2:])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(code)
"""


def header(name: bytes, kind: bytes = b"0", size: int = 0, link: bytes = b"") -> bytes:
    """A member's header; made by hand, because tarfile takes long for a hundred thousand."""
    fields = [name.ljust(100, b"\0"), b"0000644\0", b"0000000\0" * 2, b"%011o\0" % size, b"14371707400\0"]
    fields += [b" " * 8, kind, link.ljust(100, b"\0"), b"ustar\00000"]
    block = b"".join(fields).ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return header(b"pax", kind, len(records)) + records + bytes(-len(records) % 512)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    digits = len(str(length + len(str(length))))
    return b"%d %b=%b\n" % (length + digits, key, value)


def measured(home: Path, archive: Path, limit: int = SCALED) -> tuple[subprocess.CompletedProcess[str], int]:
    """Load with another limit, and the most memory that it took, in bytes."""
    command = [
        sys.executable,
        "-c",
        WITHIN,
        str(limit),
        "--home",
        str(home),
        "load",
        "-q",
        "-i",
        str(archive),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done, int(done.stdout.split()[-1]) << 10


# What a layer is made of, and about how many of it come to the limit.
TREES: dict[str, tuple[Callable[[int], bytes], int]] = {
    "files": (lambda i: header(b"f%07d" % i), 23_000),
    "directories": (lambda i: header(b"d%07d" % i, b"5"), 15_500),
    "long names": (lambda i: pax(record(b"path", b"%0255d" % i)) + header(b"x"), 13_500),
    "links": (lambda i: pax(record(b"linkpath", b"%07d/" % i * 500)) + header(b"l%07d" % i, b"2"), 1_900),
    "hard links": (
        lambda i: header(b"h%07d" % i, b"1", link=b"h%07d" % (i - 1)) if i else header(b"h%07d" % i),
        23_000,
    ),
    "whiteouts": (lambda i: header(b".wh.%07d" % i), 23_000),
    "large attributes": (
        lambda i: pax(record(b"SCHILY.xattr.user.a", b"%010d" % i * 6000)) + header(b"f%07d" % i),
        135,
    ),
    "small attributes": (
        lambda i: (
            pax(b"".join(record(b"SCHILY.xattr.user.%d" % j, b"%d" % i) for j in range(20)))
            + header(b"f%07d" % i)
        ),
        3_450,
    ),
}


@pytest.mark.parametrize("kind", TREES)
def test_a_tree_takes_no_more_memory_than_it_is_counted_with(home: Path, tmp_path: Path, kind: str) -> None:
    make, count = TREES[kind]
    archive, small = tmp_path / "tree.tar", tmp_path / "small.tar"
    archive.write_bytes(docker_archive(image([layer(b"".join(map(make, range(count))))], "tree:1")))
    small.write_bytes(docker_archive(image([layer(make(0))], "small:1")))
    done, base = measured(home, small)
    assert done.returncode == 0, done.stderr
    before = fingerprint(home)
    done, least = measured(home, archive, SCALED // 4)
    assert done.returncode == 1
    assert "more than 6 MiB of memory" in sentence(done.stderr)
    assert fingerprint(home) == before
    done, most = measured(home, archive)
    assert done.returncode == 0, done.stderr
    assert least - base < SCALED // 4 + (4 << 20)
    # Nor is it counted with very much more, or honest images would be refused for nothing.
    assert SCALED // 8 < most - base < SCALED + (4 << 20)
    with ImageCache(home) as cache:
        assert cache.verify().sound


def test_the_layers_of_an_image_share_what_it_may_take(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (layer([file(f"{name}{number}") for number in range(600)]) for name in "ab")
    monkeypatch.setattr("msb_cache.artifacts.footprint.MAX_FOOTPRINT", 1 << 20)
    both = docker_archive(image([first, second], "both:1"))
    with ImageCache(home) as cache:
        before = fingerprint(home)
        with pytest.raises(InvalidImageError, match="more than 1 MiB of memory"):
            cache.load(io.BytesIO(both))
        assert fingerprint(home) == before
        with pytest.raises(InvalidImageError, match="more than 1 MiB of memory"):
            cache.load(io.BytesIO(docker_archive(image([first, first], "twice:1"))))
        # Two images are not one; and layers that are there already count as well.
        cache.load(io.BytesIO(docker_archive(image([first], "first:1"), image([second], "second:1"))))
        before = fingerprint(home)
        with pytest.raises(InvalidImageError, match="more than 1 MiB of memory"):
            cache.load(io.BytesIO(both))
        assert fingerprint(home) == before


def test_trees_that_were_not_kept_in_memory_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are the same, whatever was kept."""
    base, one, two = (
        layer([file(f"{name}/{name}", b"x"), hardlink("l", f"{name}/{name}")]) for name in "abc"
    )
    archive = docker_archive(image([base, one], "one:1"), image([base, two, base], "two:1"))
    found = []
    for kept in (256 << 20, 9000, 0):
        monkeypatch.setattr("msb_cache.engines.own.staging._KEPT_BYTES", kept)
        with ImageCache(tmp_path / str(kept)) as cache:
            cache.load(io.BytesIO(archive))
            assert cache.verify().sound
        folder = tmp_path / str(kept) / "cache"
        found.append({path.name: path.read_bytes() for path in folder.rglob("*.erofs")})
    assert len(found[0]) == 5
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize(
    ("kind", "declared"), [(b"x", 300 << 20), (b"g", (8 << 30) - 1), (b"L", 300 << 20), (b"K", (8 << 30) - 1)]
)
def test_extension_headers_of_hundreds_of_megabytes(
    home: Path, kind: bytes, declared: int, compression: str
) -> None:
    start = header(b"pax", kind, declared) + b"%d path=" % declared
    assert f"an extension header of {declared} bytes; at most" in refused(
        home, of_layer_tar(start + bytes(1 << 20), compression)
    )
    assert f"an extension header of {declared} bytes; at most" in refused(home, start + bytes(1 << 20))


def of_layer_tar(tar: bytes, compression: str) -> bytes:
    return docker_archive(image([layer(tar, compression)], "hostile:1"))


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_many_extension_headers(home: Path, tmp_path: Path, compression: str) -> None:
    """A hundred before one member, each as large as it may be: the last counts, and none is kept."""
    large = pax(record(b"SCHILY.xattr.user.a", b"x" * 1_000_000))
    shared = pax(record(b"path", b"global"), b"g")
    many = pax(b"".join(record(b"k%d" % number, b"") for number in range(60_000)))
    last = pax(record(b"path", b"last") + record(b"SCHILY.xattr.user.b", b"1"))
    tar = (
        (large + shared) * 100
        + many * 5
        + pax(record(b"SCHILY.xattr.user.a", bytes(1_000_000)), b"g") * 100
        + last
        + header(b"f")
    )
    archive = tmp_path / "pax.tar"
    archive.write_bytes(of_layer_tar(tar, compression))
    done, peak = measured(home, archive)
    assert done.returncode == 0, done.stderr
    assert peak < 96 << 20
    (newest,) = (path for path in (home / "cache" / "layers").glob("*.erofs") if b"last" in path.read_bytes())
    (found,) = (node for name, node in walk(read_layer(newest).root) if name == b"last")
    assert found.xattrs == {b"user.b": b"1"}


def test_the_documents_of_all_images_together(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = [
        image([layer([file("a")])], f"many:{number}", config={"Labels": {"a": "x" * 300_000 + str(number)}})
        for number in range(8)
    ]
    monkeypatch.setattr("msb_cache.oci.archive.selection.MAX_DOCUMENTS_BYTES", 2 << 20)
    for archive in (docker_archive, oci_archive):
        with ImageCache(home) as cache, pytest.raises(InvalidImageError, match="above 2 MiB together"):
            cache.load(io.BytesIO(archive(*built)))
    with ImageCache(home) as cache:
        assert len(cache.load(io.BytesIO(docker_archive(*built[:6])))) == 6


def test_no_memory_at_all(home: Path, tmp_path: Path) -> None:
    make, count = TREES["large attributes"]
    archive = of_layer_tar(b"".join(map(make, range(count * 12))), "none")
    assert sentence("error: there is not enough memory for this\n") == refused(
        home, archive, address_space=150 << 20
    )


@pytest.mark.skipif("MSB_CACHE_TEST_MILLION" not in os.environ, reason="takes a minute")
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_million_files(home: Path, tmp_path: Path, compression: str) -> None:
    archive = tmp_path / "million.tar"
    tar = b"".join(header(b"f%07d" % number) for number in range(1_000_000))
    archive.write_bytes(of_layer_tar(tar, compression))
    done = load(home, archive)
    assert done.returncode == 0, done.stderr
    with ImageCache(home) as cache:
        assert cache.verify().sound


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
