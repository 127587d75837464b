"""Files that a deletion had to leave: named until they go, and taken up by the next deletion."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout, lock_path
from msb_cache.artifacts.locks import Lock
from tests.engines.msb.support import at
from tests.engines.support import left, refusing
from tests.imagebuilder import docker_archive, file, image, layer

ONE = image([layer([file("one", b"1" * 5000)])], "one:1")
TWO = image([layer([file("two", b"2")])], "two:1")
ONE_1 = "docker.io/library/one:1"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ImageCache]:
    with ImageCache(tmp_path / "own") as cache:
        load(cache, ONE)
        load(cache, TWO)
        yield cache


def load(cache: ImageCache, *images: object) -> None:
    cache.load(io.BytesIO(docker_archive(*images)))  # type: ignore[arg-type]


def files_of(cache: ImageCache) -> list[Path]:
    return [path for path in Layout(cache.home).cache.rglob("*") if path.is_file()]


def prune(cache: ImageCache) -> None:
    report = cache.prune()
    assert (report.leftovers_failed, report.artifacts_failed) == (0, 0)


def remove_another(cache: ImageCache) -> None:
    report = cache.remove("two:1")
    assert (report.image_refs_removed, report.leftovers_failed) == (1, 0)


@pytest.mark.parametrize("again", [prune, remove_another])
@pytest.mark.parametrize("code", [errno.EIO, errno.EBUSY, errno.EPERM], ids=errno.errorcode.get)
def test_what_could_not_be_deleted_goes_with_the_next_deletion(
    own: ImageCache, code: int, again: Callable[[ImageCache], None]
) -> None:
    layout = Layout(own.home)
    stuck = [layout.layer(ONE.layers[0].diff_id), layout.metadata(ONE_1), layout.vmdk(ONE.digest)]
    sizes = {path: path.stat().st_size for path in files_of(own)}
    with refusing(code, *stuck):
        first = own.remove("one:1")
        assert (first.artifacts_failed, first.leftovers_failed) == (3, 0)
        reason = os.strerror(code)
        assert left(own) == [
            ("layer", ONE.layers[0].diff_id, reason),
            ("metadata", ONE_1, reason),
            ("vmdk", ONE.digest, reason),
        ]
        own.hold("two:1", "sandbox:dev")
        assert {each.path for each in own.preview_prune().leftovers} == {*stuck}
        second = own.prune()
        assert (second.artifacts_failed, second.leftovers_failed, second.bytes_reclaimed) == (3, 3, None)
        own.release("sandbox:dev")
        assert len(left(own)) == 3  # it is the last deletion that says why
    again(own)
    assert left(own) == []
    operation = own.prunes()[0].operation
    outcomes = {(each.kind, each.subject): each for each in own.prune_report(operation).artifacts}
    for found in (("layer", ONE.layers[0].diff_id), ("metadata", ONE_1), ("vmdk", ONE.digest)):
        assert outcomes[found].outcome == "deleted"
        assert outcomes[found].bytes == sizes[layout.artifact(*found)]
    assert files_of(own) == []
    assert sum(row.counters.bytes_reclaimed or 0 for row in own.prunes()) == sum(sizes.values())
    assert own.rebuild() == []
    assert own.prune().operation is None


def test_what_was_busy_goes_with_the_next_deletion(own: ImageCache) -> None:
    path = Layout(own.home).metadata(ONE_1)
    with Lock(lock_path(path)) as lock:
        assert lock.acquire()
        own.remove("one:1")
        assert own.preview_prune().leftovers == ()  # busy still: it is not tried
        found = own.info().leftovers
    assert [(each.path, each.reason) for each in found] == [(path, "busy")]
    assert left(own) == [("metadata", ONE_1, "busy")]
    remove_another(own)
    assert left(own) == []
    assert not path.exists()


def test_what_is_left_is_no_leftover_once_it_is_needed_or_gone(own: ImageCache) -> None:
    layout = Layout(own.home)
    stuck = [layout.layer(ONE.layers[0].diff_id), layout.metadata(ONE_1), layout.fsmeta(ONE.digest)]
    with refusing(errno.EIO, *stuck):
        own.remove("one:1")
    stuck[2].unlink()
    assert len(left(own)) == 2
    load(own, ONE)
    assert left(own) == []
    own.hold("one:1", "sandbox:dev")
    own.prune()
    assert own.get("one:1").reference == "one:1"
    assert own.verify().sound


def test_a_leftover_that_comes_to_be_needed_is_kept(own: ImageCache) -> None:
    path = Layout(own.home).layer(ONE.layers[0].diff_id)
    with refusing(errno.EIO, path):
        own.remove("one:1")
    with ImageCache(own.home) as other:
        at("delete.decided", lambda: load(other, ONE))
        own.remove("two:1")
    assert path.exists()
    assert left(own) == []
    assert own.verify().sound
    assert own.verify().disk == []


def test_a_removal_is_not_taken_for_done_because_a_leftover_went(own: ImageCache) -> None:
    """The reference moves between plan and decision: the removal plans again, leftover or not."""
    path = Layout(own.home).vmdk(ONE.digest)
    with refusing(errno.EIO, path):
        own.remove("one:1")
    moved = image([layer([file("moved", b"m")])], "two:1")
    with ImageCache(own.home) as other:
        at("delete.planned", lambda: load(other, moved))
        report = own.remove("two:1")
    assert report.image_refs_removed == 1
    assert own.list() == []
    assert left(own) == []


def test_orphans_and_leftovers_are_counted_once(own: ImageCache) -> None:
    layout = Layout(own.home)
    path = layout.metadata(ONE_1)
    with refusing(errno.EIO, path):
        own.remove("one:1")
    stray = layout.fsmeta(f"sha256:{'ab' * 32}")
    stray.write_bytes(b"stray")
    own.hold("two:1", "sandbox:dev")
    shown = own.preview_prune(orphans=True)
    assert (shown.orphans, len(shown.leftovers), len(shown.artifacts)) == (2, 1, 2)
    assert own.prune().orphans_removed == 1
    assert own.prune(orphans=True).orphans_removed == 1
