import bz2
import gzip
import hashlib
import io
import lzma
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msb_cache.errors import InvalidImageError
from msb_cache.oci.archive.open import open_archive
from msb_cache.oci.layer.zstd import zstd
from tests.imagebuilder import (
    blob_name,
    docker_archive,
    docker_members,
    file,
    hybrid_archive,
    hybrid_members,
    index,
    index_descriptor,
    layer_tar,
    legacy_members,
    named,
    oci_archive,
    oci_directory,
    oci_members,
    sample,
    sha256,
    symlink,
    tar_of,
    write_members,
)
from tests.oci.opening import Opener, check

pytestmark = pytest.mark.usefixtures("on_amd64")

FORMATS = {
    "docker": docker_archive,
    "hybrid": hybrid_archive,
    "oci": oci_archive,
    "oci-nested": lambda *images: oci_archive(
        *images,
        manifests=[
            named(index_descriptor(index([each.descriptor])), ref_name=each.names[0]) for each in images
        ],
        blobs={sha256(index([each.descriptor])): index([each.descriptor]) for each in images},
    ),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_every_format_and_compression(opened: Opener, format: str, compression: str) -> None:
    built = [sample(f"s{n}:1", compression=compression, seed=str(n)) for n in range(3)]
    archive = opened(FORMATS[format](*built))
    check(archive, *built)
    assert archive.notes == ()
    assert archive.kind == ("oci" if format.startswith("oci") else "docker")
    # The builder's manifests are compact and sorted, as msb makes them where there are none.
    assert [found.manifest for found in archive.images] == [each.manifest for each in built]


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": zstd.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize("name", COMPRESS)
def test_from_anywhere(tmp_path: Path, name: str) -> None:
    built = sample()
    spool = tmp_path / "spool" / "deep"
    path = tmp_path / "archive"
    path.write_bytes(b"before" + COMPRESS[name](docker_archive(built)))
    data = path.read_bytes()[6:]
    with path.open("rb") as file_at_an_offset:
        file_at_an_offset.seek(6)
        with open_archive(file_at_an_offset, spool) as archive:
            check(archive, built)
        assert not file_at_an_offset.closed
    with open_archive(io.BytesIO(data), spool) as archive:
        check(archive, built)
    reading, writing = os.pipe()
    thread = threading.Thread(target=lambda: (os.write(writing, b""), _pour(writing, data)))
    thread.start()
    with os.fdopen(reading, "rb") as pipe, open_archive(pipe, spool) as archive:
        check(archive, built)
    thread.join()
    assert not spool.exists() or list(spool.iterdir()) == []


def _pour(fd: int, data: bytes) -> None:
    with os.fdopen(fd, "wb") as out:
        out.write(data)


def test_from_a_directory(tmp_path: Path) -> None:
    built = sample(compression="gzip")
    with open_archive(oci_directory(tmp_path / "layout", built), tmp_path / "spool") as archive:
        check(archive, built)
        assert archive.kind == "oci"
    target = tmp_path / "layout" / blob_name(built.layers[0].digest)
    (tmp_path / "elsewhere").write_bytes(target.read_bytes())
    target.unlink()
    target.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidImageError, match="links are not followed"):
        open_archive(tmp_path / "layout", tmp_path / "spool")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is empty"),
        (b"x", "is not a docker save archive"),
        (b"hello" * 1000, "is not a docker save archive"),
        (bytes(100), "is not a docker save archive"),
        (bytes(10_240), "has neither manifest.json nor index.json"),
        (layer_tar([file("a")]), "has neither manifest.json nor index.json"),
        (gzip.compress(b"hello" * 1000, mtime=0), "is not a docker save archive"),
        (
            gzip.compress(gzip.compress(docker_archive(sample()), mtime=0), mtime=0),
            "is not a docker save archive",
        ),
        (gzip.compress(docker_archive(sample()), mtime=0)[:-20], "is truncated"),
        (b"\x1f\x8b" + b"garbage" * 100, "is damaged"),
        (docker_archive(sample())[:-11_000], "is truncated"),
        (tar_of({"manifest.json": b"{}"}), "manifest.json cannot be read"),
        (tar_of({"manifest.json": b"[]"}), "holds no image"),
        (tar_of({"manifest.json": b" " * (5 << 20)}), "manifest.json is 5242880 bytes long"),
        (tar_of({"manifest.json": b'[{"x":' + b"[" * 100_000}), "nested too deeply"),
        (
            tar_of({"manifest.json": b'[{"Config":"../../etc/passwd"}]'}),
            "config '../../etc/passwd' is missing",
        ),
        (tar_of({"manifest.json": b'[{"Config":"manifest.json"}]'}), "config 'manifest.json' cannot be read"),
        (tar_of({"index.json": index([])}), "oci-layout is missing"),
        (
            tar_of({"index.json": index([]), "oci-layout": b'{"imageLayoutVersion":"2.0"}'}),
            "unknown version '2.0'",
        ),
        (oci_archive(), "holds no image"),
        (layer_tar([symlink("manifest.json", "manifest.json")]), "leads nowhere"),
    ],
)
def test_what_is_no_archive(opened: Opener, data: bytes, problem: str) -> None:
    with pytest.raises(InvalidImageError) as caught:
        opened(data)
    assert problem in str(caught.value)
    assert str(caught.value).isprintable()


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidImageError, match="cannot be opened: No such file or directory; check the path"
    ):
        open_archive(tmp_path / "none", tmp_path)


def test_nothing_stays_open(tmp_path: Path) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    for data in (
        docker_archive(sample()),
        gzip.compress(docker_archive(sample()), mtime=0),
        b"junk" * 1000,
        tar_of({}),
    ):
        (tmp_path / "a").write_bytes(data)
        try:
            with open_archive(tmp_path / "a", tmp_path / "spool") as archive:
                archive.images[0].layers[0].verify_only()
        except InvalidImageError:
            pass
    assert count() == before


# Docker archives


def test_manifest_json_wins_over_index_json(opened: Opener) -> None:
    built, other = sample("docker:1"), sample("oci:1", seed="other")
    members = {**oci_members([other]), **hybrid_members([built])}
    members["index.json"] = oci_members([other])["index.json"]
    check(opened(tar_of(members)), built)


def test_the_last_of_two_members_counts(opened: Opener) -> None:
    first, second = sample("one:1"), sample("two:1", seed="b")
    members = [*docker_members([first]).items(), *docker_members([second]).items()]
    check(opened(tar_of(members)), second)


# OCI layouts


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_archives_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    built = sample(compression=data.draw(st.sampled_from(["none", "gzip"])))
    members = data.draw(
        st.sampled_from([docker_members([built]), oci_members([built]), legacy_members(built)])
    )
    name = data.draw(st.sampled_from(sorted(members)))
    content = bytearray(members[name])
    for _ in range(data.draw(st.integers(1, 5))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.tar"
    path.write_bytes(tar_of({**members, name: bytes(content)}))
    try:
        with open_archive(path, tmp_path / "spool") as archive:
            for found in archive.images:
                assert hashlib.sha256(found.config).hexdigest() == found.config_digest[7:]
                for each in found.layers:
                    with each.open() as stream:
                        for entry in stream.entries():
                            entry.read()
                        stream.verify()
    except InvalidImageError as error:
        message = str(error)
        assert message
        assert "\n" not in message


def test_a_directory_of_a_saved_archive(tmp_path: Path) -> None:
    built = sample()
    with open_archive(write_members(tmp_path / "d", docker_members([built])), tmp_path) as archive:
        check(archive, built)
