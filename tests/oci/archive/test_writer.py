import io
import json
import tarfile
from pathlib import Path
from typing import BinaryIO

import pytest

from msb_cache.errors import InvalidImageError
from msb_cache.oci.archive.open import open_archive
from msb_cache.oci.archive.writer import (
    SavedImage,
    SavedLayer,
    write_docker,
    write_oci,
    write_without_layers,
)
from msb_cache.oci.documents.platform import Platform
from msb_cache.oci.reference import Reference
from tests.imagebuilder import BuiltImage, BuiltLayer, file, image, layer, sample


class Pipe(io.RawIOBase):
    """Takes a few bytes at a time and cannot be read, told or sought."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        taken = bytes(data)[:3000]  # type: ignore[call-overload]
        self.data += taken
        return len(taken)


def saved_layer(built: BuiltLayer) -> SavedLayer:
    def write(out: BinaryIO) -> None:
        for start in range(0, len(built.tar), 777):
            out.write(built.tar[start : start + 777])

    return SavedLayer(built.diff_id, len(built.tar), write)


def saved(built: BuiltImage) -> SavedImage:
    references = [Reference.parse(name) for name in built.names]
    return SavedImage(references, built.config, [saved_layer(each) for each in built.layers])


BASE = layer([file("base", b"x" * 5000)])
ONE = image([BASE], "one:1", "ghcr.io/x/one:latest", architecture="arm64", variant="v8")
TWO = image([BASE, layer([file("top", b"y")]), BASE], "two:2")
NAMELESS = image([layer([])])
WRITERS = {"docker": write_docker, "oci": write_oci}


def members(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getnames()


@pytest.mark.parametrize("format", WRITERS)
def test_what_is_written_is_read_back(tmp_path: Path, format: str) -> None:
    out = Pipe()
    WRITERS[format](out, [saved(each) for each in (ONE, TWO, NAMELESS)])  # type: ignore[arg-type]
    data = bytes(out.data)
    again = io.BytesIO()
    WRITERS[format](again, [saved(each) for each in (ONE, TWO, NAMELESS)])
    assert again.getvalue() == data
    assert len(data) % 10_240 == 0
    assert len(set(members(data))) == len(members(data))
    with open_archive(io.BytesIO(data), tmp_path) as archive:
        assert archive.kind == format
        for found, built in zip(archive.images, (ONE, TWO, NAMELESS), strict=True):
            assert [reference.familiar for reference in found.references] == list(built.names)
            assert found.config == built.config
            assert found.manifest_digest == built.digest
            for each in found.layers:
                each.verify_only()


def test_docker_members(tmp_path: Path) -> None:
    out = io.BytesIO()
    write_docker(out, [saved(ONE), saved(TWO)])
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        manifest, repositories = tar.extractfile("manifest.json"), tar.extractfile("repositories")
        assert manifest is not None
        assert repositories is not None
        entries = json.load(manifest)
        assert [each["RepoTags"] for each in entries] == [["one:1", "ghcr.io/x/one:latest"], ["two:2"]]
        hexes = [each.diff_id.removeprefix("sha256:") for each in TWO.layers]
        assert entries[1]["Layers"] == [f"{each}/layer.tar" for each in hexes]
        assert json.load(repositories) == {
            "ghcr.io/x/one": {"latest": hexes[0]},
            "one": {"1": hexes[0]},
            "two": {"2": hexes[2]},
        }
        assert {(info.uid, info.mtime, info.mode) for info in tar} == {(0, 0, 0o644)}


def test_oci_annotations() -> None:
    out = io.BytesIO()
    write_oci(out, [saved(ONE), saved(NAMELESS)])
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        content = tar.extractfile("index.json")
        assert content is not None
        entries = json.load(content)["manifests"]
    assert [each.get("annotations") for each in entries] == [
        {"org.opencontainers.image.ref.name": "one:1", "io.containerd.image.name": "docker.io/library/one:1"},
        {
            "org.opencontainers.image.ref.name": "ghcr.io/x/one:latest",
            "io.containerd.image.name": "ghcr.io/x/one:latest",
        },
        None,
    ]
    assert entries[0]["platform"] == {"architecture": "arm64", "os": "linux", "variant": "v8"}


def test_names_by_digest(tmp_path: Path) -> None:
    by_digest = image(ONE.layers, "one@sha256:" + "a" * 64)
    for writer, expected in ((write_docker, []), (write_oci, list(by_digest.names))):
        out = io.BytesIO()
        writer(out, [saved(by_digest)])
        out.seek(0)
        with open_archive(out, tmp_path, Platform("linux", "amd64")) as archive:
            assert [reference.familiar for reference in archive.images[0].references] == expected


def test_layers_from_files(tmp_path: Path) -> None:
    path = tmp_path / "layer.tar"
    path.write_bytes(BASE.tar)
    out = io.BytesIO()
    write_oci(out, [SavedImage([], ONE.config, [SavedLayer.of_file(path, BASE.diff_id)])])
    assert BASE.tar in out.getvalue()


@pytest.mark.parametrize("content", [b"", b"short", b"x" * len(BASE.tar), BASE.tar + b"x"])
def test_layers_that_are_not_what_they_say(content: bytes) -> None:
    lying = SavedLayer(BASE.diff_id, len(BASE.tar), lambda out: out.write(content))
    for writer in WRITERS.values():
        with pytest.raises(InvalidImageError, match=r"came out as|is longer than"):
            writer(io.BytesIO(), [SavedImage([], ONE.config, [lying])])


def test_configs_that_list_other_layers() -> None:
    for writer in WRITERS.values():
        with pytest.raises(InvalidImageError, match="does not list the layers"):
            writer(io.BytesIO(), [SavedImage([], TWO.config, [saved_layer(BASE)])])


def test_members_above_8_gib_keep_their_size() -> None:
    written = bytearray()

    class Stop(Exception):
        pass

    class Head(io.RawIOBase):
        def write(self, data: object) -> int:
            written.extend(bytes(data))  # type: ignore[call-overload]
            return len(bytes(data))  # type: ignore[call-overload]

    def stop(out: BinaryIO) -> None:
        raise Stop

    huge = SavedLayer(BASE.diff_id, 9 << 30, stop)
    with pytest.raises(Stop):
        write_oci(Head(), [SavedImage([], ONE.config, [huge])])  # type: ignore[arg-type]
    assert tarfile.TarInfo.frombuf(bytes(written[-512:]), "utf-8", "strict").size == 9 << 30


def test_the_sample_is_deterministic() -> None:
    assert sample().digest == sample().digest


def test_without_layers_no_placeholder_is_of_its_blob() -> None:
    out = io.BytesIO()
    built = sample()
    layers = [(each.digest, len(each.blob)) for each in built.layers] + [("sha256:" + 64 * "0", 0)]
    write_without_layers(out, built.manifest, built.config, [*layers, layers[0]])
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        found = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
    read = {name: b"" if data is None else data.read() for name, data in found.items()}
    assert read[f"blobs/sha256/{built.digest[7:]}"] == built.manifest
    (entry,) = json.loads(read["index.json"])["manifests"]
    assert (entry["digest"], "annotations" in entry) == (built.digest, False)
    for digest, size in layers:
        assert len(read[f"blobs/sha256/{digest[7:]}"]) != size
