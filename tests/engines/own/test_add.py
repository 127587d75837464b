"""Adding images: files and log agree, what is there is used again, a failure leaves nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from msb_cache import (
    HomeOwnedByMicrosandboxError,
    ImageCache,
    InvalidImageError,
    failpoints,
)
from msb_cache.artifacts.layout import Layout
from tests.engines.interrupting import (
    Loading,
    check_clean,
    log,
    prepare,
)
from tests.examples import ONE, SHARED, TWO, archive, types
from tests.imagebuilder import docker_archive, image
from tests.trees import files_below


def test_every_load_is_recorded_and_reuses_what_is_there(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    before = files_below(cache.home / "cache")
    first = cache.get("one:1")
    cache.load(archive(ONE))
    cache.load(archive(TWO))
    assert {name: files_below(cache.home / "cache")[name] for name in before} == before
    pulls = [event.data for event in cache.events(types=["image.pulled"])]
    total = first.size_bytes
    shared = len(SHARED.blob)
    assert [(pull.changed, pull.bytes_fetched, pull.bytes_reused) for pull in pulls] == [  # type: ignore[attr-defined]
        (True, total, 0),
        (False, 0, total),
        (True, len(TWO.layers[1].blob), shared),
    ]
    again = cache.get("one:1")
    assert again.created_at_ns == first.created_at_ns
    assert again.last_used_at_ns is not None
    assert first.last_used_at_ns is not None
    assert again.last_used_at_ns > first.last_used_at_ns


def test_a_moved_reference_keeps_its_age_and_leaves_a_dangling_manifest(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    before = cache.get("one:1")
    moved = image(TWO.layers, "one:1")
    cache.load(archive(moved))
    after = cache.get("one:1")
    assert after.created_at_ns == before.created_at_ns
    assert after.manifest_digest != before.manifest_digest
    last = cache.history("one:1")[-1]
    assert last.data.previous_digest == before.manifest_digest  # type: ignore[attr-defined]
    report = cache.prune()
    assert (report.image_refs_removed, report.manifests_removed, report.layers_removed) == (1, 2, 3)
    assert cache.verify().disk == []


def digest_of_two(cache: ImageCache) -> str:
    digest = cache.get("two:1").manifest_digest
    assert digest is not None
    return digest


def broken(data: bytes) -> list[bytes]:
    return [b"", b"no archive at all", data[:-12000], data[: len(data) // 2], data.replace(b"1" * 1, b"2")]


@pytest.mark.parametrize("number", range(5))
def test_a_bad_archive_leaves_the_cache_untouched(cache: ImageCache, number: int) -> None:
    cache.load(archive(TWO))
    before, log = files_below(cache.home / "cache", locks=True), types(cache)
    with pytest.raises(InvalidImageError) as caught:
        cache.load(io.BytesIO(broken(docker_archive(ONE))[number]))
    assert "\n" not in str(caught.value)
    assert files_below(cache.home / "cache", locks=True) == before
    assert types(cache) == log
    assert not list((cache.home / "cache/tmp").iterdir())


def test_damaged_layer_files_are_made_anew(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    layout = Layout(cache.home)
    path = layout.layer(SHARED.diff_id)
    whole = path.read_bytes()
    path.write_bytes(whole[:5000])
    assert not cache.verify().sound
    cache.load(archive(ONE))
    assert path.read_bytes() == whole
    path.unlink()
    cache.load(archive(ONE))
    assert path.read_bytes() == whole
    assert cache.verify().sound


def test_a_damaged_fsmeta_is_made_anew(cache: ImageCache) -> None:
    (handle,) = cache.load(archive(ONE))
    path = Layout(cache.home).fsmeta(handle.manifest_digest or "")
    whole = path.read_bytes()
    for damaged in (whole[:4096], bytes(len(whole))):
        path.write_bytes(damaged)
        cache.load(archive(ONE))
        assert path.read_bytes() == whole
    assert cache.verify().sound
    assert types(cache).count("manifest.added") == 1


def test_a_layer_made_anew_takes_the_trees_of_other_images_along(cache: ImageCache) -> None:
    """Another program laid the shared layer out differently; fsmeta of both images must follow."""
    cache.load(archive(ONE, TWO))
    layout = Layout(cache.home)
    path, fsmeta = layout.layer(SHARED.diff_id), layout.fsmeta(digest_of_two(cache))
    right_layer, right_fsmeta = path.read_bytes(), fsmeta.read_bytes()
    path.write_bytes(b"damaged")
    fsmeta.write_bytes(right_fsmeta.replace(b"\x01\x00\x01\x00\x00\x00", b"\x01\x00\x07\x00\x00\x00"))
    assert fsmeta.read_bytes() != right_fsmeta
    cache.load(archive(ONE))
    assert path.read_bytes() == right_layer
    assert fsmeta.read_bytes() == right_fsmeta
    assert cache.verify().sound
    assert types(cache).count("manifest.added") == 2


def test_an_image_without_layers(cache: ImageCache) -> None:
    cache.load(archive(image([], "empty:1")))
    assert cache.inspect("empty:1").layers == []
    assert cache.verify().sound
    assert cache.prune().fsmeta_removed == 1


def test_metadata_is_what_microsandbox_writes(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    document = json.loads(Layout(cache.home).metadata("docker.io/library/one:1").read_bytes())
    assert list(document) == [
        "manifest_digest",
        "config_digest",
        "raw_manifest_json",
        "raw_config_json",
        "config",
        "layers",
    ]
    assert document["raw_config_json"].encode() == ONE.config
    assert document["config"]["stop_signal"] == "SIGINT"
    assert [each["diff_id"] for each in document["layers"]] == [each.diff_id for each in ONE.layers]


def test_msb_takes_the_home_over_in_the_middle_of_a_load(tmp_path: Path) -> None:
    home = prepare(tmp_path, "load")
    before, before_log = files_below(home / "cache"), log(home)

    def observer(step: str) -> None:
        if step == "add.published":
            (home / "db/msb.db").touch()

    failpoints.observer = observer
    with ImageCache(home, sync=False) as cache:
        with pytest.raises(HomeOwnedByMicrosandboxError):
            cache.load(tmp_path / "two.tar")
        failpoints.observer = None
        (home / "db/msb.db").unlink()
    # What was published may be msb's by then: it stays, as files that our index does not name.
    assert files_below(home / "cache").items() > before.items()
    assert log(home) == before_log
    with ImageCache(home) as cache:
        assert cache.preview_prune(orphans=True).orphans == 4


def test_two_loads_of_one_image_at_once(tmp_path: Path) -> None:
    home = prepare(tmp_path, "load into an empty home")
    loaders = [Loading(home, tmp_path / "two.tar", lambda step: None) for _ in range(4)]
    for loader in loaders:
        loader.start()
    for loader in loaders:
        loader.join(60)
    check_clean(home)
    with ImageCache(home) as cache:
        pulls = cache.events(types=["image.pulled"])
        assert len(pulls) == 4
        assert sum(event.data.bytes_fetched > 0 for event in pulls) == 1  # type: ignore[attr-defined]
        assert len(cache.events(types=["manifest.added"])) == 1


def test_a_failed_load_leaves_nothing(tmp_path: Path) -> None:
    home = prepare(tmp_path, "load")
    before = files_below(home / "cache", locks=True)
    before_log = log(home)

    def fail(step: str) -> None:
        if step == "add.renamed":
            raise OSError(28, "No space left on device")

    failpoints.observer = fail
    try:
        with ImageCache(home) as cache, pytest.raises(OSError, match="No space"):
            cache.load(tmp_path / "two.tar")
    finally:
        failpoints.observer = None
    assert log(home) == before_log
    with ImageCache(home) as cache:
        cache.release("sandbox:nobody")
    assert files_below(home / "cache", locks=True) == before
    check_clean(home)
