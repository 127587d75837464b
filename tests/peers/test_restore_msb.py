"""Restores in homes that the real msb keeps: what it deleted comes back through it."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache import ImageCache, SyncReport
from tests.imagebuilder import file, image, layer
from tests.peers.realmsb import BASE, IMAGES, Msb
from tests.registry_server import RegistryServer

pytestmark = pytest.mark.peer
REMOTE, MOVED = (image([BASE, layer([file("remote", name * 500)])]) for name in (b"one", b"two"))


def here(cache: ImageCache) -> dict[str, str | None]:
    return {each.reference: each.manifest_digest for each in cache.list()}


def check(real: Msb, cache: ImageCache) -> None:
    """Both indexes have the same images, and all that is in the home is as the log says."""
    assert cache.sync(force=True) == SyncReport()
    assert {*here(cache)} == real.references()
    assert cache.rebuild() == []
    assert cache.verify().sound


def test_from_a_registry(real: Msb, cache: ImageCache) -> None:
    with RegistryServer() as server:
        reference = server.add(REMOTE, "team/app", "1")
        cache.pull(reference)
        cache.remove(reference)
        (removal, *_) = cache.prunes()
        result = cache.restore(removal.operation)
        assert [(each.reference, each.outcome, each.name) for each in result.images] == [
            (reference, "restored", reference)
        ]
        assert here(cache)[reference] == REMOTE.digest
        real("image", "rm", reference)
        server.add(MOVED, "team/app", "1")
        (external, *_) = cache.prunes()
        assert external.counters.kind == "external"
        result = cache.restore(external.operation)
        by_digest = f"{server.host}/team/app@{REMOTE.digest}"
        assert [(each.outcome, each.name) for each in result.images] == [("restored", by_digest)]
        assert f"means {MOVED.digest} by now" in result.images[0].notes[0]
        assert real.references() >= {by_digest}
        assert reference not in real.references()
        again = cache.restore(external.operation)
        assert (again.operation, again.complete) == (None, True)
    check(real, cache)


def test_from_an_archive(real: Msb, cache: ImageCache, archives: Path) -> None:
    """The digests that our reading of the archive gives are those that msb gives."""
    cache.load(archives / "two.tar", tag="mine:7")
    before = here(cache)
    names = ["mine:7", "two:latest", "example.org/team/two:2"]
    cache.remove(names, force=True)
    (removal, *_) = cache.prunes()
    result = cache.restore(removal.operation, "mine:7")
    assert [(each.reference, each.outcome, each.reason) for each in result.images] == [
        ("mine:7", "restored", None)
    ]
    assert {*result.others} == {"two:latest", "example.org/team/two:2"}
    assert here(cache) == before
    assert cache.get("mine:7").manifest_digest == IMAGES["two"].digest
    check(real, cache)


def test_an_archive_that_has_changed(real: Msb, cache: ImageCache, tmp_path: Path, archives: Path) -> None:
    path = tmp_path / "alone.tar"
    path.write_bytes((archives / "alone.tar").read_bytes())
    cache.load(path)
    cache.remove("alone:1")
    before = here(cache)
    path.write_bytes((archives / "next.tar").read_bytes())
    (removal, *_) = cache.prunes()
    result = cache.restore(removal.operation)
    assert "has changed" in (result.images[0].reason or "")
    assert here(cache) == before
    check(real, cache)
