"""The real msb takes over images that msb-cache made without it, under the same digests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from msb_cache import ImageCache
from tests.imagebuilder import file, image, layer, oci_archive
from tests.peers.realmsb import Msb, files_of, short_home

DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
ONE = layer([file("one", b"1" * 9000)], compression="gzip")
TWO = layer([file("two", b"2")], compression="gzip")
IMAGES = (
    image([ONE, TWO], "docker:1", manifest_media_type=DOCKER, config_media_type=DOCKER_CONFIG),
    image([ONE, TWO], "arm:1", architecture="arm64", variant="v8"),
    image([ONE], "annotated:1", annotations={"x": "y"}),
    image([], "empty:1"),
    image([ONE, TWO, ONE], "twice:1"),
    image([layer([file("z", b"3" * 400)], compression="zstd")], "zstd:1"),
)


@pytest.fixture
def real(msb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Msb]:
    """Yield msb with a home of ours that has these images."""
    with short_home() as home:
        with ImageCache(home) as cache:
            for built in IMAGES:
                archive = tmp_path / "image.tar"
                archive.write_bytes(oci_archive(built))
                cache.load(archive, platform=f"linux/{built.architecture}")
        monkeypatch.setenv("MSB_PATH", msb)
        yield Msb(msb, home, tmp_path)


def test_it_takes_them_as_they_are(real: Msb) -> None:
    before = {name: size for name, size in files_of(real.home).items() if "manifests" not in name}
    with ImageCache(real.home) as cache:
        found = cache.hand_over()
        assert {each.outcome for each in found} == {"handed over"}
        listed = {each["reference"]: each["digest"] for each in real.json("image", "ls")}
        assert listed == {built.names[0]: built.digest for built in IMAGES}
        after = {name: size for name, size in files_of(real.home).items() if "manifests" not in name}
        assert after == before
        assert cache.verify().sound
        assert cache.sync(force=True).events == ()
        (arm,) = [each for each in found if each.reference == "arm:1"]
        assert "platform" in {each.what for each in arm.reset}
        assert cache.rebuild() == []
    real("image", "prune", "--yes")
    assert files_of(real.home) == {}


def test_it_refuses_one_whose_layer_is_gone(real: Msb) -> None:
    with ImageCache(real.home) as cache:
        (real.home / "cache" / "layers" / f"{ONE.diff_id.replace(':', '_')}.erofs").unlink()
        failed = {each.reference for each in cache.hand_over() if each.outcome == "failed"}
        assert failed == {"docker:1", "arm:1", "annotated:1", "twice:1"}
    assert real.references() == {"empty:1", "zstd:1"}
