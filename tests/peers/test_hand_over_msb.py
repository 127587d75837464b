"""Images made without the real msb: it takes them over as they are, or we delete them beside it."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from msb_cache import DataRequest, ImageCache
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
        assert cache.verify(data=DataRequest()).sound
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


def test_what_it_does_not_know_is_deleted_by_us_and_the_rest_by_it(real: Msb) -> None:
    with ImageCache(real.home) as cache:
        cache.hand_over("docker:1")
        before = files_of(real.home)
        report = cache.remove("annotated:1")  # its layer is one of docker:1, which msb knows
        assert (report.image_refs_removed, report.layers_removed) == (1, 0)
        assert before.keys() - files_of(real.home).keys() == {
            f"{kind}/{name}"
            for kind, name in (
                ("manifests", f"{sha256(b'docker.io/library/annotated:1').hexdigest()}.json"),
                ("fsmeta", f"{IMAGES[2].digest.replace(':', '_')}.erofs"),
                ("vmdk", f"{IMAGES[2].digest.replace(':', '_')}.vmdk"),
            )
        }
        assert real.references() == {"docker:1"}
        real("image", "inspect", "docker:1")
        assert cache.prune().image_refs_removed == 5
        assert (files_of(real.home), real.references(), cache.list()) == ({}, set(), [])
        assert cache.rebuild() == []
        assert cache.verify().sound


def test_what_it_takes_from_an_image_that_it_does_not_know_is_recorded(real: Msb) -> None:
    with ImageCache(real.home) as cache:
        cache.hand_over("annotated:1")
        real("image", "rm", "-q", "annotated:1")
        assert {each.reference.rpartition("/")[2] for each in cache.damage()} == {
            "arm:1",
            "docker:1",
            "twice:1",
        }
        (event,) = [each for each in cache.events(types=["layer.deleted"]) if each.subject == ONE.diff_id]
        assert event.actor.observed
