"""Files of a cache that are links to others: nothing is written or deleted behind them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from msb_cache import ImageCache
from tests.imagebuilder import docker_archive, sample

ONE, TWO = sample("one:1"), sample("two:1", seed="two")


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ImageCache]:
    with ImageCache(tmp_path / "home") as cache:
        cache.load(io.BytesIO(docker_archive(ONE)))
        yield cache


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
