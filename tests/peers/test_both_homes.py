"""What must hold in a home of ours and in one that msb keeps: each test runs on both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from msb_cache import (
    Image,
    ImageCache,
    ImageInUseError,
    ImageNotFoundError,
    InvalidImageError,
    LocalBackend,
    OperationNotFoundError,
)
from msb_cache.cli.main import run
from tests.peers.realmsb import Msb, files_of, short_home

pytestmark = pytest.mark.peer


@pytest.fixture(params=["ours", "msb's"])
def home(
    request: pytest.FixtureRequest, msb: str, archives: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Yield a home with app:1, two names of a second image, and alone:1."""
    monkeypatch.setenv("MSB_PATH", msb)
    with short_home() as path:
        if request.param == "msb's":
            Msb(msb, path, archives)("image", "ls")
        with ImageCache(path) as cache:
            for name in ("app", "two", "alone"):
                cache.load(archives / f"{name}.tar")
            assert cache.info().engine == ("msb" if request.param == "msb's" else "msb-cache")
        yield path


@pytest.fixture
def cache(home: Path) -> Iterator[ImageCache]:
    with ImageCache(home) as found:
        yield found


def names(cache: ImageCache) -> list[str]:
    return sorted(handle.reference for handle in cache.list())


def test_list_get_inspect(cache: ImageCache) -> None:
    assert names(cache) == ["alone:1", "app:1", "example.org/team/two:2", "two:latest"]
    detail = cache.inspect("app:1")
    assert detail.handle == cache.get("app:1")
    assert [layer.position for layer in detail.layers] == [0, 1]
    assert detail.config is not None
    assert (detail.config.user, detail.config.labels) == ("1:2", {"k": "v"})
    assert all(layer.erofs_size_bytes for layer in detail.layers)
    with pytest.raises(ImageNotFoundError):
        cache.get("nothing:1")


def test_use_hold_release(cache: ImageCache) -> None:
    before = cache.get("app:1").last_used_at_ns or 0
    assert (cache.use("app:1", holder="sandbox:dev").last_used_at_ns or 0) > before
    cache.hold("app:1", "sandbox:dev")
    assert cache.holders("app:1") == ["sandbox:dev"]
    with pytest.raises(ImageInUseError, match="sandbox:dev"):
        cache.remove("app:1")
    assert cache.prune().image_refs_removed == 3
    assert names(cache) == ["app:1"]
    assert cache.release("sandbox:dev") == [cache.get("app:1").manifest_digest]
    assert cache.prune().image_refs_removed == 1
    assert files_of(cache.home) == {}
    assert cache.prune().operation is None


def test_remove_and_its_history(cache: ImageCache) -> None:
    size = sum(files_of(cache.home).values())
    report = cache.remove("two")
    assert (report.image_refs_removed, report.manifests_removed, report.layers_removed) == (1, 0, 0)
    report = cache.remove("example.org/team/two:2")
    assert (report.image_refs_removed, report.manifests_removed, report.layers_removed) == (1, 1, 1)
    assert report.bytes_reclaimed
    assert sum(files_of(cache.home).values()) == size - sum(
        summary.counters.bytes_reclaimed or 0 for summary in cache.prunes()
    )
    found = [event.type for event in cache.history("example.org/team/two:2")]
    assert found[:2] == ["image.pulled", "image.removed"]
    assert sorted(found[2:]) == [
        *("fsmeta.deleted", "layer.deleted", "manifest.deleted", "metadata.deleted", "vmdk.deleted"),
    ]
    with pytest.raises(ImageNotFoundError):
        cache.remove("two")


def test_reports(cache: ImageCache) -> None:
    report = cache.prune()
    assert report.operation is not None
    found = cache.prune_report(report.operation)
    assert len(found.images) == 4
    assert {artifact.outcome for artifact in found.artifacts} == {"deleted"}
    assert sum(artifact.bytes or 0 for artifact in found.artifacts) == report.bytes_reclaimed
    with pytest.raises(OperationNotFoundError):
        cache.prune_report("ffff")


def test_rebuild_and_verify(cache: ImageCache) -> None:
    cache.hold("alone:1", "snapshot:s")
    cache.remove("app:1")
    cache.prune()
    assert cache.rebuild() == []
    found = cache.verify()
    assert found.sound
    assert found.disk == []


def test_a_broken_archive_changes_nothing(cache: ImageCache, tmp_path: Path) -> None:
    (tmp_path / "junk.tar").write_bytes(b"junk" * 1000)
    before, events = files_of(cache.home), len(cache.events())
    with pytest.raises(InvalidImageError):
        cache.load(tmp_path / "junk.tar")
    assert (files_of(cache.home), len(cache.events())) == (before, events)


def test_the_image_api(home: Path) -> None:
    async def work() -> None:
        backend = LocalBackend(home=home)
        images = await Image.list_local(backend)
        assert len(images) == 4
        assert (await Image.get_local(backend, "app:1")).layer_count == 2
        assert len((await Image.inspect_local(backend, "app:1")).layers) == 2
        await Image.remove_local(backend, "alone:1")
        with pytest.raises(ImageNotFoundError):
            await Image.remove_local(backend, "alone:1")
        report = await Image.prune_local(backend)
        assert (report.image_refs_removed, report.manifests_removed) == (3, 2)
        assert await Image.list_local(backend) == []

    asyncio.run(work())


def test_the_command_line(home: Path, archives: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*words: str) -> tuple[int, str]:
        code = run(["--home", str(home), *words])
        return code, capsys.readouterr().out

    assert call("load", str(archives / "next.tar"))[0] == 0
    shown = json.loads(call("prune", "--dry-run", "--format", "json")[1])
    code, printed = call("prune", "--yes", "--format", "json")
    assert code == 0
    assert json.loads(printed)["image_refs_removed"] == len(shown["images"]) == 4
    assert json.loads(printed)["bytes_reclaimed"] == shown["bytes_reclaimable"]
    assert call("rm", "app:1")[0] == 3
    assert call("verify")[0] == 0
    code, printed = call("info", "--format", "json")
    assert (code, json.loads(printed)["images"]) == (0, 0)
