"""Archives that are opened from bytes, and three platforms' images in indexes of any depth."""

from collections.abc import Callable
from typing import Any

from msb_cache.oci.archive.open import Archive
from msb_cache.oci.image import SourceImage
from tests.imagebuilder import (
    BuiltImage,
    index,
    index_descriptor,
    named,
    oci_archive,
    sample,
    sha256,
)

Opener = Callable[..., Archive]


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
