"""Symbolic links that somebody planted in a home: nothing is written or deleted behind them."""

from __future__ import annotations

import io
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from msb_cache import CorruptArtifactError, ImageCache
from tests.imagebuilder import docker_archive, sample
from tests.trees import files_below

ONE, TWO = sample("one:1"), sample("two:1", seed="two")
FOLDERS = ("cache/layers", "cache/fsmeta", "cache/vmdk", "cache/manifests", "cache/tmp", "db/operations")


@pytest.fixture
def cache(tmp_path: Path) -> ImageCache:
    cache = ImageCache(tmp_path / "home")
    cache.load(io.BytesIO(docker_archive(ONE)))
    return cache


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_that_leads_out(cache: ImageCache, tmp_path: Path, folder: str) -> None:
    outside = tmp_path / "outside"
    (cache.home / folder).rename(outside)
    (cache.home / folder).symlink_to(outside)
    before = files_below(tmp_path)
    for write in (
        lambda: cache.load(io.BytesIO(docker_archive(TWO))),
        lambda: cache.remove("one:1"),
        cache.prune,
        lambda: cache.pull("localhost:1/two:1"),
    ):
        with pytest.raises(CorruptArtifactError, match="is a symbolic link"):
            write()
    cache.close()
    after = files_below(tmp_path)
    assert {name: after[name] for name in before if "/db/" not in name} == {
        name: before[name] for name in before if "/db/" not in name
    }
    assert {name for name in after if name not in before} <= {"home/db/msb-cache.db"}
    with cache:
        assert [handle.reference for handle in cache.list()] == ["one:1"]


def test_the_cache_itself_may_lie_elsewhere(cache: ImageCache, tmp_path: Path) -> None:
    (cache.home / "cache").rename(tmp_path / "large disk")
    (cache.home / "cache").symlink_to(tmp_path / "large disk")
    cache.load(io.BytesIO(docker_archive(TWO)))
    assert cache.verify().sound
    assert cache.prune().image_refs_removed == 2
    assert not [*(tmp_path / "large disk").rglob("*.erofs")]


@pytest.mark.parametrize("kind", ["layer", "fsmeta", "vmdk", "metadata"])
@pytest.mark.parametrize("lock", [False, True])
def test_a_file_that_leads_out(cache: ImageCache, tmp_path: Path, kind: str, lock: bool) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    digest = cache.get("one:1").manifest_digest or ""
    subject = {"layer": ONE.layers[0].diff_id, "metadata": "docker.io/library/one:1"}.get(kind, digest)
    path = cache._layout.artifact(kind, subject)
    if lock:
        path = path.with_name(f"{path.name}.lock")
    path.unlink(missing_ok=True)
    path.symlink_to(victim)
    for write in (
        lambda: cache.load(io.BytesIO(docker_archive(ONE))),
        lambda: cache.remove("one:1"),
        cache.prune,
        lambda: cache.prune(orphans=True),
    ):
        with suppress(OSError) if lock else nullcontext():  # a lock that leads elsewhere is none
            write()
        assert victim.read_text() == "precious"
        assert victim.stat().st_mode & 0o777 == 0o644
