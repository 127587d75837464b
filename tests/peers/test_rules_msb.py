"""Prunes by rules, pins and `df` in a home that the real msb keeps: what is kept starts as before."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from msb_cache import ImageCache, failpoints
from msb_cache.artifacts.layout import Layout
from msb_cache.retention.policy import PrunePolicy
from tests import flatroots
from tests.imagebuilder import docker_archive, file, image, layer
from tests.peers.realmsb import BASE, IMAGES, Msb
from tests.peers.test_engine_msb import alike

pytestmark = pytest.mark.peer


def loaded(real: Msb, folder: Path, *tags: str) -> None:
    """Load images of their own, which share the lowest layer with the others."""
    for tag in tags:
        path = folder / "one.tar"
        path.write_bytes(docker_archive(image([BASE, layer([file("own", tag.encode() * 5000)])], tag)))
        real("load", "-q", "-i", str(path))


def test_a_policy(real: Msb, cache: ImageCache, tmp_path: Path) -> None:
    loaded(real, tmp_path, "acme/api:1", "acme/api:2", "acme/api:3", "acme/web:1")
    cache.sync()
    flatroots.add(real.home, str(cache.get("acme/api:1").manifest_digest))
    cache.pin("acme/web:1", reason="the demo")
    real.boot("start", "dev", sandbox="dev")
    before = real.references()
    policy = PrunePolicy(grace="0s", keep_last=1, filter=("reference=*",))
    shown = cache.preview_prune(policy)
    verdicts = {image.spelling or image.reference: image.rule for image in shown.images() if not image.goes}
    assert verdicts["acme/web:1"] == "pinned"
    assert verdicts["acme/api:3"] == "keep-last"
    assert verdicts["app:1"] == "held"
    report = cache.prune(policy)
    assert before - real.references() == {"acme/api:1", "acme/api:2"}
    assert (report.image_refs_removed, report.flat_removed) == (2, 1)
    assert cache.prune(policy).operation is None
    alike(cache)
    real.boot("start", "dev", sandbox="dev")  # which it does not without its VMDK
    alike(cache)


def test_room(real: Msb, cache: ImageCache, tmp_path: Path) -> None:
    loaded(real, tmp_path, "acme/api:1", "acme/api:2", "acme/api:3")
    folder = Layout(real.home).cache

    def used() -> int:
        done = subprocess.run(["du", "-sB1", folder], capture_output=True, text=True, check=True)
        return int(done.stdout.split()[0])

    usage = cache.disk_usage()
    assert usage.cache_total.allocated_bytes == used()
    bound = used() - 10_000
    report = cache.prune(PrunePolicy(grace="0s", max_size=bound))
    assert report.image_refs_removed >= 1
    # Locks and leases that msb leaves take no room, its folders stay as large as they were.
    assert used() <= bound
    assert cache.prune(PrunePolicy(grace="0s", max_size=bound)).operation is None
    alike(cache)


def test_the_window_between_looking_and_deleting(real: Msb, cache: ImageCache, tmp_path: Path) -> None:
    """What msb does after it was looked at is not seen; that is for as long as a command of msb lasts."""
    loaded(real, tmp_path, *(f"acme/api:{number}" for number in range(12)))
    spans: list[float] = []
    began = 0.0

    def observer(step: str) -> None:
        nonlocal began
        if step == "msb.asking":
            began = time.monotonic()
        elif step == "msb.ran" and began:
            spans.append(time.monotonic() - began)
            began = 0.0

    failpoints.observer = observer
    try:
        cache.prune(PrunePolicy(grace="0s", filter=("reference=acme/*",)))
    finally:
        failpoints.observer = None
    assert len(spans) == 3
    assert max(spans) < 10  # it is 0.2 seconds on a machine at rest
    alike(cache)


def test_what_msb_pulls_between_two_commands_stays(real: Msb, cache: ImageCache, tmp_path: Path) -> None:
    loaded(real, tmp_path, *(f"acme/api:{number}" for number in range(7)))
    policy = PrunePolicy(grace="0s", filter=("reference=acme/*",))
    *_, last = cache.preview_prune(policy).plan.references
    asked: list[str] = []

    def observer(step: str) -> None:
        if step == "msb.asking" and not asked:
            asked.append(step)
            loaded(real, tmp_path, last)

    failpoints.observer = observer
    try:
        report = cache.prune(policy)
    finally:
        failpoints.observer = None
    assert report.image_refs_removed == 6
    assert last in real.references()
    alike(cache)


def test_msbs_own_prune_knows_no_pins(real: Msb, cache: ImageCache) -> None:
    held = {"app:1", "two", "two:latest", "example.org/team/two:2"}
    pin = cache.pin("alone:1")
    assert not pin.enforced
    assert cache.prune().operation is None
    assert real.references() == {*held, "alone:1"}
    real("image", "prune", "--yes")
    assert real.references() == held
    cache.sync()
    assert [each.here for each in cache.pins()] == [False]
    real.load("alone")
    cache.sync()
    assert [each.manifest_digest for each in cache.pins()] == [IMAGES["alone"].digest]
    alike(cache)
