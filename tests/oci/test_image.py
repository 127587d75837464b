import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from msb_cache.errors import InvalidImageError
from msb_cache.oci.documents.decode import OCI_LAYER_GZIP, Descriptor
from msb_cache.oci.documents.platform import Platform
from msb_cache.oci.image import BlobReader, SourceImage, SourceLayer
from msb_cache.oci.reference import Reference
from tests.imagebuilder import BuiltImage, BuiltLayer, compact_json, file, image, layer, sample


def read_all(found: SourceLayer) -> None:
    with found.open() as stream:
        for entry in stream.entries():
            entry.read()
        stream.verify()


class Blob(io.BytesIO):
    """An open blob that yields few bytes at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 1000))


def source_layer(built: BuiltLayer, **changes: Any) -> SourceLayer:
    blob = changes.pop("blob", built.blob)
    whole = SourceLayer(built.diff_id, built.digest, built.media_type, len(built.blob), lambda: Blob(blob))
    return replace(whole, **changes)


def build(built: BuiltImage, **changes: Any) -> SourceImage:
    blobs = built.blobs

    def opener(descriptor: Descriptor) -> Callable[[], BlobReader]:
        return lambda: Blob(blobs[descriptor.digest])

    references = [Reference.parse(name) for name in built.names]
    return SourceImage.build(
        references, changes.get("manifest", built.manifest), changes.get("config", built.config), opener
    )


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_streaming_a_layer(compression: str) -> None:
    found = source_layer(layer([file("a", b"hello"), file("b", b"x" * 100_000)], compression))
    with found.open() as stream:
        assert [(entry.path, entry.size) for entry in stream.entries()] == [(b"a", 5), (b"b", 100_000)]
        stream.verify()
    with found.open() as stream:
        first = next(stream.entries())
        assert first.read() == b"hello"
        stream.verify()
    found.verify_only()


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"diff_id": "sha256:" + "0" * 64}, "is not what its config says: its content has the diff ID"),
        ({"blob_digest": "sha256:" + "0" * 64}, "is damaged: its bytes have the digest"),
        ({"size": 10}, "is longer than the 10 bytes"),
        ({"size": 1 << 40}, "bytes long, but should be 1099511627776"),
    ],
)
def test_what_verify_finds(compression: str, changes: dict[str, Any], problem: str) -> None:
    found = source_layer(layer([file("a", b"hello")], compression), **changes)
    with pytest.raises(InvalidImageError) as caught:
        found.verify_only()
    assert problem in str(caught.value)
    assert f"layer {found.blob_digest}" in str(caught.value)


def test_bytes_behind_the_tar_count() -> None:
    built = layer(layer([file("a")]).tar + b"more")
    with source_layer(built).open() as stream:
        assert len(list(stream.entries())) == 1
        stream.verify()
    with pytest.raises(InvalidImageError, match="is damaged"):
        source_layer(built, blob=built.blob[:-1] + b"!").verify_only()


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_truncated_layers(compression: str) -> None:
    built = layer([file(f"f{n}", b"x" * 600) for n in range(10)], compression)
    for end in range(0, len(built.blob), 512 if compression == "none" else 11):
        found = source_layer(built, blob=built.blob[:end])
        with pytest.raises(InvalidImageError, match=r"truncated|bytes long, but should be"):
            found.verify_only()
        with pytest.raises(InvalidImageError):
            read_all(found)


def test_a_layer_is_what_its_bytes_say() -> None:
    built = layer([file("a", b"hello")])
    source_layer(built, media_type=OCI_LAYER_GZIP).verify_only()
    with pytest.raises(InvalidImageError, match="bzip2, which layers may not be"):
        source_layer(built, blob=b"BZh91AY&SY").open()


def test_the_blob_is_closed() -> None:
    opened: list[Blob] = []

    def opener() -> Blob:
        opened.append(Blob(b"BZh"))
        return opened[-1]

    built = layer([file("a")])
    with pytest.raises(InvalidImageError):
        source_layer(built, open_blob=opener).open()
    with source_layer(built, open_blob=lambda: opened.append(Blob(built.blob)) or opened[-1]).open():
        pass
    assert all(blob.closed for blob in opened)


def test_building() -> None:
    built = sample("python:3", compression="gzip", architecture="arm64", variant="v8")
    found = build(built)
    assert found.references == (Reference.parse("python:3"),)
    assert found.manifest_digest == built.digest
    assert found.config == built.config
    assert found.platform == Platform("linux", "arm64")
    assert [each.diff_id for each in found.layers] == [each.diff_id for each in built.layers]
    assert [each.media_type for each in found.layers] == [OCI_LAYER_GZIP] * 2
    for each in found.layers:
        each.verify_only()


def test_config_and_manifest_must_agree() -> None:
    built = sample()
    with pytest.raises(InvalidImageError, match="is damaged: its bytes have the digest"):
        build(built, config=built.config.replace(b"amd64", b"arm64"))
    with pytest.raises(InvalidImageError, match="bytes long, but should be"):
        build(built, config=built.config + b" ")
    fewer = replace(built, layers=built.layers[:1])
    with pytest.raises(InvalidImageError, match="lists 2 layers, but the image's manifest has 1"):
        build(fewer)


def test_an_image_of_no_layers_and_no_platform() -> None:
    built = replace(image([]), config=compact_json({"rootfs": {"type": "layers", "diff_ids": []}}))
    found = build(built)
    assert found.layers == ()
    assert found.platform == Platform("unknown", "unknown")
