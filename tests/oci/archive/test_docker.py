"""Archives of `docker save`, with manifest.json and before Docker 1.10."""

import gzip
import json
import lzma
from dataclasses import replace

import pytest

from msb_cache.errors import InvalidImageError, PlatformNotFoundError
from tests.imagebuilder import (
    blob_name,
    compact_json,
    docker_archive,
    docker_members,
    file,
    hybrid_archive,
    hybrid_members,
    image,
    layer,
    layer_tar,
    legacy_members,
    oci_archive,
    sample,
    symlink,
    tar_of,
)
from tests.oci.opening import Opener, check, names


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


def test_docker_names(opened: Opener) -> None:
    built = image(sample().layers, "foo:1", "bar:2", "ghcr.io/x/y:3")
    check(opened(docker_archive(built)), built)
    unnamed = image(built.layers)
    check(opened(docker_archive(unnamed)), unnamed)
    odd = opened(docker_archive(image(built.layers, "Foo:1", "ok:1")))
    assert names(odd.images[0]) == ["ok:1"]
    assert "'Foo:1' is not an image reference: a repository name must be lower case" in odd.notes[0]


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
