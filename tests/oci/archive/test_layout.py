"""OCI image layouts: names, blobs, and descriptors that lie."""

from dataclasses import replace
from typing import Any

import pytest

from msb_cache.errors import InvalidImageError
from msb_cache.oci.documents.decode import DOCKER_FOREIGN, OCI_FOREIGN
from tests.imagebuilder import (
    OCI_LAYER,
    BuiltImage,
    BuiltLayer,
    blob_name,
    image,
    named,
    oci_archive,
    oci_members,
    sample,
    sha256,
    tar_of,
)
from tests.oci.opening import AMD, ATTESTATION, Opener, check, names, without_platform


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


def test_one_image_with_many_names(opened: Opener) -> None:
    built = image(sample().layers, "one:1", "two:2")
    check(opened(oci_archive(built)), built)


def test_nameless_images_stay_apart(opened: Opener) -> None:
    first, second = image(sample(seed="a").layers), image(sample(seed="b").layers)
    check(opened(oci_archive(first, second)), first, second)


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


def test_an_image_with_thousands_of_names_is_read_once(opened: Opener) -> None:
    for base in (AMD.descriptor, without_platform(AMD)):
        data = oci_archive(AMD, manifests=[named(base, ref_name=f"x:{n}") for n in range(5000)])
        (found,) = opened(data).images
        assert len(found.references) == 5000


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


def retyped(built: BuiltImage, media_type: str) -> BuiltImage:
    return replace(built, layers=tuple(BuiltLayer(each.tar, each.blob, media_type) for each in built.layers))


def test_encrypted_layers_are_refused(opened: Opener) -> None:
    with pytest.raises(InvalidImageError, match="encrypted"):
        opened(oci_archive(retyped(AMD, OCI_LAYER + "+gzip+encrypted")))


@pytest.mark.parametrize("media_type", [OCI_FOREIGN, DOCKER_FOREIGN])
def test_foreign_layers_are_loaded_if_they_are_there(opened: Opener, media_type: str) -> None:
    built = retyped(AMD, media_type)
    (found,) = opened(oci_archive(built)).images
    assert [layer.media_type for layer in found.layers] == [OCI_LAYER] * len(built.layers)
    found.layers[0].verify_only()
    members = oci_members([built])
    del members[blob_name(built.layers[0].digest)]
    with pytest.raises(InvalidImageError, match=r"layer sha256:.* is missing"):
        opened(tar_of(members))
