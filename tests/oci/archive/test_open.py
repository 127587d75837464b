import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msb_cache.errors import InvalidImageError, PlatformNotFoundError
from msb_cache.oci.archive.open import Archive, open_archive
from msb_cache.oci.documents.platform import Platform
from msb_cache.oci.image import SourceImage
from msb_cache.oci.layer.zstd import zstd
from tests.imagebuilder import (
    BuiltImage,
    BuiltLayer,
    blob_name,
    compact_json,
    docker_archive,
    docker_members,
    file,
    hybrid_archive,
    hybrid_members,
    image,
    index,
    index_descriptor,
    layer,
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

AMD64 = Platform("linux", "amd64")


@pytest.fixture(autouse=True)
def _on_amd64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Platform, "host", classmethod(lambda cls: AMD64))


Opener = Callable[..., Archive]


@pytest.fixture
def opened(tmp_path: Path, request: pytest.FixtureRequest) -> Opener:
    """Opens an archive from bytes, as a file, and closes it after the test."""

    def open_bytes(data: bytes, platform: str | None = None) -> Archive:
        path = tmp_path / "archive.tar"
        path.write_bytes(data)
        archive = open_archive(path, tmp_path / "spool", Platform.parse(platform) if platform else None)
        request.addfinalizer(archive.close)
        return archive

    return open_bytes


def names(found: SourceImage) -> list[str]:
    return [reference.familiar for reference in found.references]


def check(archive: Archive, *built: BuiltImage) -> None:
    """The archive holds exactly these images, with these names, and every layer verifies."""
    assert [found.config for found in archive.images] == [each.config for each in built]
    for found, each in zip(archive.images, built, strict=True):
        assert names(found) == list(each.names)
        assert [one.diff_id for one in found.layers] == [one.diff_id for one in each.layers]
        assert [one.blob_digest for one in found.layers] == [one.digest for one in each.layers]
        assert found.manifest_digest == sha256(found.manifest)
        for one in found.layers:
            one.verify_only()


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


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_before_docker_1_10(opened: Opener, compression: str) -> None:
    built = sample("old:1", compression=compression)
    built = replace(built, names=("old:1", "old:2", "host:5000/other:x"))
    (found,) = opened(tar_of(legacy_members(built))).images
    assert sorted(names(found)) == sorted(built.names)
    assert [each.diff_id for each in found.layers] == [each.diff_id for each in built.layers]
    config = json.loads(found.config)
    assert config["rootfs"] == {"type": "layers", "diff_ids": [each.diff_id for each in built.layers]}
    assert [each["created_by"] for each in config["history"]] == [
        f"/bin/sh -c #(nop) step {n}" for n in (0, 1)
    ]
    assert (config["os"], config["architecture"]) == ("linux", "amd64")
    for each in found.layers:
        each.verify_only()


def test_before_docker_1_10_without_names(opened: Opener) -> None:
    members = legacy_members(sample())
    del members["repositories"]
    (found,) = opened(tar_of(members)).images
    assert found.references == ()
    assert len(found.layers) == 2


def test_a_legacy_chain_that_bites_its_tail(opened: Opener) -> None:
    members = {
        "a/json": b'{"parent":"b"}',
        "b/json": b'{"parent":"a"}',
        "a/layer.tar": b"",
        "b/layer.tar": b"",
    }
    with pytest.raises(InvalidImageError, match="builds on itself"):
        opened(tar_of({**members, "repositories": b'{"x":{"1":"a"}}'}))
    with pytest.raises(InvalidImageError, match="holds no image"):
        opened(tar_of(members))
    with pytest.raises(InvalidImageError, match="image 'c' is missing"):
        opened(tar_of({**members, "repositories": b'{"x":{"1":"c"}}'}))


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
    with pytest.raises(InvalidImageError, match="cannot be opened: No such file or directory"):
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


def test_docker_names(opened: Opener) -> None:
    built = image(sample().layers, "foo:1", "bar:2", "ghcr.io/x/y:3")
    check(opened(docker_archive(built)), built)
    unnamed = image(built.layers)
    check(opened(docker_archive(unnamed)), unnamed)
    odd = opened(docker_archive(image(built.layers, "Foo:1", "ok:1")))
    assert names(odd.images[0]) == ["ok:1"]
    assert "'Foo:1' is not an image reference: a repository name must be lower case" in odd.notes[0]


def test_manifest_json_wins_over_index_json(opened: Opener) -> None:
    built, other = sample("docker:1"), sample("oci:1", seed="other")
    members = {**oci_members([other]), **hybrid_members([built])}
    members["index.json"] = oci_members([other])["index.json"]
    check(opened(tar_of(members)), built)


def test_docker_types_give_the_manifest_that_msb_makes(opened: Opener) -> None:
    built = sample("foo:1", compression="gzip")
    typed = replace(
        built,
        manifest_media_type="application/vnd.docker.distribution.manifest.v2+json",
        config_media_type="application/vnd.docker.container.image.v1+json",
        layers=tuple(
            replace(each, media_type="application/vnd.docker.image.rootfs.diff.tar.gzip")
            for each in built.layers
        ),
    )
    assert opened(hybrid_archive(typed)).images[0].manifest == built.manifest
    (found,) = opened(oci_archive(typed)).images
    assert found.manifest == typed.manifest
    assert found.manifest_media_type == typed.manifest_media_type
    assert found.layers[0].media_type == built.layers[0].media_type


def test_shared_and_linked_docker_layers(opened: Opener) -> None:
    shared = layer([file("base", b"x" * 1000)], "gzip")
    first = image([shared], "one:1")
    second = image([shared, layer([file("top")])], "two:1")
    check(opened(docker_archive(first, second)), first, second)
    same_twice = image([shared, shared], "twice:1")
    check(opened(docker_archive(same_twice)), same_twice)
    members = [
        file(name, data) for name, data in docker_members([first]).items() if not name.endswith("layer.tar")
    ]
    name = shared.diff_id.removeprefix("sha256:")
    linked = layer_tar([file("hash.tar", shared.blob), *members, symlink(f"{name}/layer.tar", "../hash.tar")])
    check(opened(linked), first)


def test_images_that_are_the_same_are_one(opened: Opener) -> None:
    first, second = sample("one:1"), sample("two:1")
    (found,) = opened(docker_archive(first, second)).images
    assert names(found) == ["one:1", "two:1"]


def test_the_last_image_gets_a_name_two_claim(opened: Opener) -> None:
    first, second = sample("same:1"), sample("same:1", seed="b")
    archive = opened(docker_archive(first, second))
    check(archive, second)
    assert archive.notes == ("the archive gives the name same:1 to two images; the last one gets it",)


def test_the_last_of_two_members_counts(opened: Opener) -> None:
    first, second = sample("one:1"), sample("two:1", seed="b")
    members = [*docker_members([first]).items(), *docker_members([second]).items()]
    check(opened(tar_of(members)), second)


def test_lying_docker_archives(opened: Opener) -> None:
    built = sample()
    members = docker_members([built])
    name = next(name for name in members if name.endswith("layer.tar"))
    lying = opened(tar_of({**members, name: layer([file("other")]).tar}))
    with pytest.raises(InvalidImageError, match=r"is damaged|bytes long"):
        lying.images[0].layers[0].verify_only()
    del members[name]
    with pytest.raises(InvalidImageError, match=r"layer '.*' is missing"):
        opened(tar_of(members))
    members = docker_members([built])
    document = json.loads(members["manifest.json"])
    document[0]["Layers"].pop()
    with pytest.raises(InvalidImageError, match=r"lists 2 layers, but manifest.json lists 1"):
        opened(tar_of({**members, "manifest.json": compact_json(document)}))
    with pytest.raises(InvalidImageError, match="is compressed with xz"):
        opened(tar_of({**docker_members([built]), name: lzma.compress(built.layers[0].tar)}))


def test_a_blob_name_that_lies_is_found_when_streaming(opened: Opener) -> None:
    built = sample("foo:1", compression="gzip")
    members = hybrid_members([built])
    members[blob_name(built.layers[0].digest)] = gzip.compress(built.layers[0].tar, 1)
    with pytest.raises(InvalidImageError, match="is damaged"):
        opened(tar_of(members)).images[0].layers[0].verify_only()


def test_platforms_of_docker_archives(opened: Opener) -> None:
    built = sample("foo:1", architecture="arm64")
    archive = opened(docker_archive(built))
    check(archive, built)
    assert archive.notes == ("image 'foo:1' is for linux/arm64, not for linux/amd64",)
    assert opened(docker_archive(built), "linux/arm64/v8").notes == ()
    with pytest.raises(PlatformNotFoundError, match=r"has no manifest for linux/amd64; it has linux/arm64"):
        opened(docker_archive(built), "linux/amd64")


# OCI layouts


@pytest.mark.parametrize(
    ("annotations", "expected", "noted"),
    [
        ({"ref_name": "ghcr.io/a/b:1"}, ["ghcr.io/a/b:1"], ""),
        ({"ref_name": "docker.io/library/x:1"}, ["x:1"], ""),
        (
            {"ref_name": "latest"},
            ["latest:latest"],
            "'latest', which is read as the repository latest:latest",
        ),
        ({"ref_name": "1.0"}, ["1.0:latest"], "give it another name with --tag"),
        ({"ref_name": "1.0", "containerd_name": "docker.io/library/x:1.0"}, ["x:1.0"], ""),
        ({"containerd_name": "docker.io/library/x:1.0"}, ["x:1.0"], ""),
        ({"ref_name": "x:2", "containerd_name": "NO"}, ["x:2"], "'NO' is not an image reference"),
        ({"ref_name": "v1+x"}, [], "'v1+x' is not an image reference"),
        ({"ref_name": ""}, [], ""),
        ({}, [], ""),
    ],
)
def test_oci_names(opened: Opener, annotations: dict[str, str], expected: list[str], noted: str) -> None:
    built = sample()
    archive = opened(oci_archive(built, manifests=[named(built.descriptor, **annotations)]))
    assert names(archive.images[0]) == expected
    assert noted in "".join(archive.notes)
    assert bool(noted) == bool(archive.notes)


def without_platform(built: BuiltImage) -> dict[str, Any]:
    return {key: value for key, value in built.descriptor.items() if key != "platform"}


ARM, AMD, WINDOWS = (
    sample("x:1", seed="arm", architecture="arm64"),
    sample("x:1", seed="amd"),
    sample("x:1", seed="windows", os="windows"),
)
ATTESTATION = {
    **sample(seed="attestation").descriptor,
    "platform": {"os": "unknown", "architecture": "unknown"},
    "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
}


def nested(*descriptors: dict[str, Any], depth: int = 1) -> bytes:
    """A layout with the sample images and one named index, ``depth`` indexes deep."""
    blobs = {}
    document = index(descriptors)
    for _ in range(depth):
        blobs[sha256(document)] = document
        inner = index_descriptor(document)
        document = index([inner])
    return oci_archive(ARM, AMD, WINDOWS, manifests=[named(inner, ref_name="x:1")], blobs=blobs)


@pytest.mark.parametrize(
    ("platform", "expected"),
    [(None, AMD), ("linux/arm64", ARM), ("windows/amd64", WINDOWS), ("linux/s390x", None)],
)
@pytest.mark.parametrize(
    "data",
    [
        oci_archive(ARM, AMD, WINDOWS),
        oci_archive(ARM, AMD, WINDOWS, manifests=[ARM.descriptor, AMD.descriptor, WINDOWS.descriptor]),
        nested(ATTESTATION, ARM.descriptor, AMD.descriptor, WINDOWS.descriptor),
        nested(ARM.descriptor, WINDOWS.descriptor, AMD.descriptor, depth=4),
        nested(*(without_platform(each) for each in (ARM, WINDOWS, AMD))),
        nested(ARM.descriptor, ARM.descriptor, WINDOWS.descriptor, without_platform(AMD), AMD.descriptor),
    ],
)
def test_the_platform_is_chosen(
    opened: Opener, data: bytes, platform: str | None, expected: BuiltImage | None
) -> None:
    if expected is None:
        with pytest.raises(PlatformNotFoundError, match="has no manifest for linux/s390x; it has") as caught:
            opened(data, platform)
        assert all(each in str(caught.value) for each in ("linux/arm64", "linux/amd64", "windows/amd64"))
        return
    (found,) = opened(data, platform).images
    assert found.manifest_digest == expected.digest
    assert found.platform == Platform.of(expected.os, expected.architecture)


def test_a_single_foreign_platform_loads_with_a_note(opened: Opener) -> None:
    for data in (oci_archive(ARM), nested(ARM.descriptor), nested(ATTESTATION, ARM.descriptor)):
        archive = opened(data)
        assert archive.images[0].manifest_digest == ARM.digest
        assert archive.notes == ("image 'x:1' is for linux/arm64, not for linux/amd64",)
        with pytest.raises(PlatformNotFoundError):
            opened(data, "linux/amd64")


def test_images_without_the_platform_are_left_out_with_a_note(opened: Opener) -> None:
    other = replace(AMD, names=("other:1",))
    archive = opened(oci_archive(ARM, WINDOWS, other))
    assert [names(found) for found in archive.images] == [["other:1"]]
    (note,) = archive.notes
    assert note.endswith("so it is left out")
    assert "linux/arm64, windows/amd64" in note


def test_platforms_whose_blobs_are_missing_do_not_count(opened: Opener) -> None:
    document = index([ARM.descriptor, AMD.descriptor])
    data = oci_archive(
        ARM, manifests=[named(index_descriptor(document), ref_name="x:1")], blobs={sha256(document): document}
    )
    archive = opened(data)
    assert archive.images[0].manifest_digest == ARM.digest
    assert archive.notes == ("image 'x:1:' is for linux/arm64, not for linux/amd64".replace("1:'", "1'"),)


def test_one_image_with_many_names(opened: Opener) -> None:
    built = image(sample().layers, "one:1", "two:2")
    check(opened(oci_archive(built)), built)


def test_nameless_images_stay_apart(opened: Opener) -> None:
    first, second = image(sample(seed="a").layers), image(sample(seed="b").layers)
    check(opened(oci_archive(first, second)), first, second)


def test_media_types_may_be_missing(opened: Opener) -> None:
    document = index([{k: v for k, v in AMD.descriptor.items() if k != "mediaType"}])
    outer = {"digest": sha256(document), "size": len(document)}
    data = oci_archive(AMD, manifests=[named(outer, ref_name="x:1")], blobs={sha256(document): document})
    check(opened(data), AMD)


def test_artifacts_are_left_out(opened: Opener) -> None:
    signature = replace(sample(), config=b"{}", config_media_type="application/vnd.dev.cosign.config")
    descriptors = [
        named(AMD.descriptor, ref_name="x:1"),
        named(without_platform(signature), ref_name="sig:1"),
        {"mediaType": "application/octet-stream", "digest": sha256(b"x"), "size": 1},
        ATTESTATION,
    ]
    archive = opened(oci_archive(AMD, signature, manifests=descriptors, blobs={sha256(b"x"): b"x"}))
    check(archive, AMD)
    assert all("is left out: the archive holds no image manifest for it" in note for note in archive.notes)
    with pytest.raises(InvalidImageError, match="holds no image"):
        opened(oci_archive(signature, manifests=descriptors[1:]))


def test_nesting_is_bounded(opened: Opener) -> None:
    check(opened(nested(AMD.descriptor, depth=8)), AMD)
    with pytest.raises(InvalidImageError, match="nested too deeply"):
        opened(nested(AMD.descriptor, depth=9))


def test_a_web_of_indexes_is_walked_once(opened: Opener) -> None:
    blobs = {}
    document = index([AMD.descriptor])
    for level in range(7):
        blobs[sha256(document)] = document
        # Fifty ways down at each level would be 50^7 walks.
        document = index(
            [named(index_descriptor(document), n=str(n)) for n in range(50)]
            + [{**AMD.descriptor, "platform": {"os": "plan9", "architecture": str(level)}}]
        )
    blobs[sha256(document)] = document
    data = oci_archive(AMD, manifests=[named(index_descriptor(document), ref_name="x:1")], blobs=blobs)
    check(opened(data), AMD)


def test_an_image_with_thousands_of_names_is_read_once(opened: Opener) -> None:
    for base in (AMD.descriptor, without_platform(AMD)):
        data = oci_archive(AMD, manifests=[named(base, ref_name=f"x:{n}") for n in range(5000)])
        (found,) = opened(data).images
        assert len(found.references) == 5000


def test_an_index_cannot_contain_itself(opened: Opener) -> None:
    own = {"mediaType": index_descriptor(b"")["mediaType"], "digest": "sha256:" + "a" * 64, "size": 300}
    document = index([own]).ljust(300)
    data = oci_archive(AMD, manifests=[named(own, ref_name="x:1")], blobs={own["digest"]: document})
    with pytest.raises(InvalidImageError, match="is damaged: its bytes have the digest"):
        opened(data)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"digest": "sha256:../../../../etc/passwd"}, "is not a digest"),
        ({"digest": "sha512:" + "0" * 128}, "only sha256 is supported"),
        ({"size": 5}, "bytes long, but should be 5"),
        ({"size": -5}, "cannot be read"),
        ({"digest": sha256(b"missing")}, "holds no image"),
        ({"mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws"}, "Docker schema 1"),
        ({"mediaType": "application/vnd.oci.image.index.v1+json"}, "not an image index"),
    ],
)
def test_lying_descriptors(opened: Opener, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidImageError) as caught:
        opened(oci_archive(AMD, manifests=[{**named(AMD.descriptor, ref_name="x:1"), **change}]))
    assert problem in str(caught.value)


def test_layers_of_layouts_must_be_there_and_of_their_size(opened: Opener) -> None:
    members = oci_members([AMD])
    name = blob_name(AMD.layers[0].digest)
    with pytest.raises(InvalidImageError, match="in the archive, but should be"):
        opened(tar_of({**members, name: members[name] + b"x"}))
    damaged = bytearray(members[name])
    damaged[600] ^= 1
    with pytest.raises(InvalidImageError, match="is damaged"):
        opened(tar_of({**members, name: bytes(damaged)})).images[0].layers[0].verify_only()
    del members[name]
    with pytest.raises(InvalidImageError, match=r"layer sha256:.* is missing"):
        opened(tar_of(members))


def test_foreign_and_encrypted_layers_are_refused(opened: Opener) -> None:
    for media_type in (
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ):
        built = replace(AMD, layers=tuple(BuiltLayer(each.tar, each.blob, media_type) for each in AMD.layers))
        with pytest.raises(InvalidImageError, match=r"encrypted|foreign"):
            opened(oci_archive(built))


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
