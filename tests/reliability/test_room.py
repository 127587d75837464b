"""What a prune promises of the disk's room it has back, to the byte; and what is pulled beside it stays."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from msb_cache import ImageCache, failpoints
from msb_cache.artifacts.layout import Layout
from msb_cache.artifacts.measured import MeasuredFiles
from msb_cache.retention.policy import PrunePolicy
from tests.flatroots import add
from tests.imagebuilder import BuiltImage, docker_archive, file, image, layer
from tests.reliability.scenarios import check_whole
from tests.reliability.smalldisk import SmallDisk, ext4

ROUNDS = int(os.environ.get("MSB_CACHE_TEST_ROUNDS", "40"))
"""Of a pull beside a prune; 10,000 of them take some minutes."""
HOUR = 3600 * 10**9

SHARED = layer([file("shared", os.urandom(30_000))])


@pytest.fixture
def archives(tmp_path: Path) -> Callable[[BuiltImage], Path]:
    names = count()

    def write(built: BuiltImage) -> Path:
        path = tmp_path / f"{next(names)}.tar"
        path.write_bytes(docker_archive(built))
        return path

    return write


@pytest.fixture(params=[1024, 4096])
def disk(
    tmp_path: Path, require_peer: Callable[[str], str], request: pytest.FixtureRequest
) -> Iterator[SmallDisk]:
    require_peer("root")
    with ext4(tmp_path / "disk", request.param, mib=16) as mounted:
        yield mounted


def test_what_comes_free_is_what_was_promised(
    disk: SmallDisk, own_home: Path, archives: Callable[[BuiltImage], Path]
) -> None:
    cache_folder = disk.folder / "cache"
    cache_folder.mkdir(mode=0o700)
    own_home.mkdir()
    (own_home / "cache").symlink_to(cache_folder)  # the log grows elsewhere
    layout = Layout(own_home)
    with ImageCache(own_home) as cache:
        for number in range(6):
            own = layer([file(f"own{number}", os.urandom(10_000 * (number + 1)))])
            built = image([SHARED, own] if number % 2 else [own], f"app:{number}")
            cache.load(archives(built))
            if number == 5:
                add(own_home, built.digest)
            if number == 4:
                os.link(layout.layer(own.diff_id), disk.folder / "elsewhere")
        cache.pin("app:1")
        total = MeasuredFiles(layout).total_bytes
        for policy in (
            PrunePolicy(grace="0s", max_size=total - 20_000),
            PrunePolicy(grace="0s", min_free=disk.free() + 60_000),
            PrunePolicy(grace="0s", keep_last=2),
            PrunePolicy(),
        ):
            subprocess.run(["sync", "--file-system", disk.folder], check=True)
            free = disk.free()
            shown = cache.preview_prune(policy)
            images = shown.images()
            report = cache.prune(policy)
            subprocess.run(["sync", "--file-system", disk.folder], check=True)
            assert report.image_refs_removed == len(shown.plan.references) > 0
            assert disk.free() - free == shown.freed_bytes
            assert sum(each.freed_bytes for each in images) == shown.freed_bytes
        assert [handle.reference for handle in cache.list()] == ["app:1"]
    check_whole(own_home)


def test_what_is_pulled_beside_a_prune_stays(own_home: Path, archives: Callable[[BuiltImage], Path]) -> None:
    """Each round two images have been idle for a day; one of them is loaded again beside a prune."""
    one = image([SHARED, layer([file("one", os.urandom(5000))])], "one:1")
    two = image([SHARED, layer([file("two", os.urandom(5000))])], "two:1")
    paths = [archives(one), archives(two)]
    chance = random.Random()
    now = time.time_ns()
    policy = PrunePolicy(unused_for="12h")

    def at(time_ns: int) -> ImageCache:
        return ImageCache(own_home, clock=lambda: time_ns)

    def dawdle(step: str) -> None:
        if chance.random() < 0.3:
            time.sleep(chance.random() * 0.003)

    removed = 0
    for number in range(ROUNDS):
        now += 24 * HOUR
        with at(now - 20 * HOUR) as cache:
            for path in paths:
                cache.load(path)
        reports: list[int] = []

        def load(now: int = now) -> None:
            time.sleep(chance.random() * 0.02)
            with at(now) as cache:
                cache.load(paths[0])

        def prune(now: int = now, reports: list[int] = reports) -> None:
            time.sleep(chance.random() * 0.02)
            with at(now) as cache:
                reports.append(cache.prune(policy).image_refs_removed)

        failpoints.observer = dawdle
        threads = [threading.Thread(target=work) for work in (load, prune)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            failpoints.observer = None
        assert len(reports) == 1, f"round {number}: the prune failed"
        removed += reports[0]
        with at(now) as cache:
            digest = cache.get("one:1").manifest_digest
            layers = [each.diff_id for each in cache.inspect("one:1").layers]
        layout = Layout(own_home)
        files = [layout.metadata("docker.io/library/one:1"), layout.fsmeta(str(digest))]
        files += [layout.vmdk(str(digest)), *map(layout.layer, layers)]
        assert [path for path in files if not path.exists()] == [], f"round {number}"
    assert ROUNDS <= removed <= 2 * ROUNDS
    check_whole(own_home)
