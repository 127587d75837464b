"""What skopeo, umoci and msb write is read here; what is written here they read, with the same digests."""

import hashlib
import io
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from msb_cache.oci.archive.open import open_archive
from msb_cache.oci.archive.writer import SavedImage, SavedLayer, write_docker, write_oci
from msb_cache.oci.documents.platform import Platform
from msb_cache.oci.image import SourceImage
from msb_cache.oci.reference import Reference
from tests.imagebuilder import (
    BuiltImage,
    docker_archive,
    hybrid_archive,
    image,
    index,
    index_descriptor,
    named,
    oci_archive,
    oci_directory,
    sample,
    sha256,
)
from tests.oci.peers import need

pytestmark = pytest.mark.peer
HOST = Platform.host().architecture


def run(*command: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **(env or {})}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def read(path: Path, tmp_path: Path) -> tuple[SourceImage, ...]:
    with open_archive(path, tmp_path / "spool") as archive:
        for found in archive.images:
            for each in found.layers:
                each.verify_only()
        return archive.images


def host_sample(name: str = "sample:1", **more: Any) -> BuiltImage:
    return sample(name, architecture=HOST, **more)


def msb_images(path: Path, tmp_path: Path) -> list[dict[str, Any]]:
    """What msb holds after loading an archive: reference, digest and the raw manifest."""
    home = tmp_path / "home"
    env = {"MSB_HOME": str(home)}
    run(need("msb"), "load", "-i", str(path), env=env)
    found = []
    for each in json.loads(run(need("msb"), "image", "ls", "--format", "json", env=env)):
        key = hashlib.sha256(Reference.parse(each["reference"]).canonical.encode()).hexdigest()
        record = json.loads((home / "cache" / "manifests" / f"{key}.json").read_text())
        found.append({**each, "record": record})
    return sorted(found, key=lambda each: str(each["reference"]))


def nested(built: BuiltImage) -> bytes:
    other = sample("x:1", architecture="s390x")
    document = index([other.descriptor, built.descriptor])
    manifests = [named(index_descriptor(document), ref_name="sample:1")]
    return oci_archive(other, built, manifests=manifests, blobs={sha256(document): document})


@pytest.mark.parametrize(
    "data",
    [
        docker_archive(host_sample()),
        docker_archive(host_sample(compression="gzip")),
        docker_archive(host_sample(compression="zstd")),
        docker_archive(image(host_sample().layers, "one:1", "ghcr.io/x/two:2")),
        docker_archive(host_sample("one:1"), host_sample("two:2", seed="2")),
        hybrid_archive(host_sample(compression="gzip")),
        oci_archive(host_sample()),
        oci_archive(host_sample("t")),
        oci_archive(host_sample("1.0")),
        oci_archive(host_sample(compression="gzip"), host_sample("two:2", seed="2")),
        nested(host_sample()),
    ],
    ids=lambda data: hashlib.sha256(data).hexdigest()[:6],
)
def test_msb_loads_the_same(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "archive.tar"
    path.write_bytes(data)
    ours = {reference.canonical: found for found in read(path, tmp_path) for reference in found.references}
    theirs = {Reference.parse(each["reference"]).canonical: each for each in msb_images(path, tmp_path)}
    assert ours.keys() == theirs.keys()
    for name, each in theirs.items():
        found = ours[name]
        assert found.manifest_digest == each["digest"]
        assert found.manifest.decode() == each["record"]["raw_manifest_json"]
        assert found.config_digest == each["record"]["config_digest"]
        assert [
            {
                "digest": one.blob_digest,
                "media_type": one.media_type,
                "size_bytes": one.size,
                "diff_id": one.diff_id,
            }
            for one in found.layers
        ] == each["record"]["layers"]


@pytest.mark.parametrize("format", ["docker-archive", "oci-archive", "oci"])
def test_what_skopeo_writes(tmp_path: Path, format: str) -> None:
    skopeo = need("skopeo")
    built = host_sample("ignored")
    oci_directory(tmp_path / "in", built, manifests=[named(built.descriptor, ref_name="t")])
    target = tmp_path / "out"
    name = (
        "docker.io/library/x:1" if format == "docker-archive" else "x:1" if format == "oci-archive" else "tag"
    )
    run(skopeo, "--insecure-policy", "copy", f"oci:{tmp_path}/in:t", f"{format}:{target}:{name}")
    (found,) = read(target, tmp_path)
    assert [each.diff_id for each in found.layers] == [each.diff_id for each in built.layers]
    expected = "tag:latest" if format == "oci" else "x:1"
    assert [reference.familiar for reference in found.references] == [expected]


def test_what_umoci_writes(tmp_path: Path) -> None:
    umoci = need("umoci")
    layout = tmp_path / "layout"
    run(umoci, "init", "--layout", str(layout))
    run(umoci, "new", "--image", f"{layout}:v1")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "hello").write_text("hello")
    run(umoci, "insert", "--rootless", "--image", f"{layout}:v1", str(tmp_path / "root"), "/data")
    (found,) = read(layout, tmp_path)
    with open_archive(layout, tmp_path) as archive, archive.images[0].layers[0].open() as stream:
        assert b"data/hello" in [entry.path.strip(b"/") for entry in stream.entries()]
    assert [reference.familiar for reference in found.references] == ["v1:latest"]


def saved(*images: BuiltImage) -> list[SavedImage]:
    def layer_of(tar: bytes, diff_id: str) -> SavedLayer:
        return SavedLayer(diff_id, len(tar), lambda out: out.write(tar))

    return [
        SavedImage(
            [Reference.parse(name) for name in built.names],
            built.config,
            [layer_of(each.tar, each.diff_id) for each in built.layers],
        )
        for built in images
    ]


@pytest.mark.parametrize("format", ["docker", "oci"])
def test_msb_loads_what_is_written(tmp_path: Path, format: str) -> None:
    out = io.BytesIO()
    images = saved(
        image(host_sample().layers, "one:1", "ghcr.io/x/y:2", architecture=HOST), host_sample("two:2")
    )
    (write_docker if format == "docker" else write_oci)(out, images)
    path = tmp_path / "archive.tar"
    path.write_bytes(out.getvalue())
    theirs = msb_images(path, tmp_path)
    assert {each["reference"] for each in theirs} == {"one:1", "ghcr.io/x/y:2", "two:2"}
    ours = {ref.familiar: found.manifest_digest for found in read(path, tmp_path) for ref in found.references}
    assert {each["reference"]: each["digest"] for each in theirs} == ours


@pytest.mark.parametrize("format", ["docker", "oci"])
@pytest.mark.parametrize("name", ["one:1", "ghcr.io/x/y:2"])
def test_skopeo_copies_what_is_written(
    tmp_path: Path, format: str, name: str, require_peer: Callable[[str], str]
) -> None:
    skopeo = need("skopeo")
    if format == "oci":
        require_peer("root")  # skopeo gives the files of an oci-archive their owners
    built = image(host_sample().layers, "one:1", "ghcr.io/x/y:2", architecture=HOST)
    out = io.BytesIO()
    (write_docker if format == "docker" else write_oci)(out, saved(built, host_sample("two:2", seed="2")))
    path = tmp_path / "archive.tar"
    path.write_bytes(out.getvalue())
    source = f"{format}-archive:{path}:{name}"
    config = run(skopeo, "--insecure-policy", "inspect", "--config", "--raw", source)
    assert config.encode().strip() == built.config
    target = tmp_path / "copy"
    run(skopeo, "--insecure-policy", "copy", source, f"oci:{target}:copy")
    (found,) = read(target, tmp_path)
    assert [each.diff_id for each in found.layers] == [each.diff_id for each in built.layers]


def test_umoci_unpacks_what_is_written(tmp_path: Path) -> None:
    umoci = need("umoci")
    out = io.BytesIO()
    write_oci(out, saved(host_sample("x:1")))
    (tmp_path / "layout").mkdir()
    (tmp_path / "a.tar").write_bytes(out.getvalue())
    run("tar", "-xf", str(tmp_path / "a.tar"), "-C", str(tmp_path / "layout"))
    listed = run(umoci, "ls", "--layout", str(tmp_path / "layout"))
    assert listed.strip() == "x:1"
