"""Room for what comes: made by the policy before it is fetched, and looked at before it is published."""

from __future__ import annotations

import errno
import io
import os
import random
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest

from msb_cache import (
    BoundNotKeptError,
    BusyError,
    DataRequest,
    ImageCache,
    InvalidConfigError,
    failpoints,
)
from msb_cache.artifacts.layout import Layout
from msb_cache.artifacts.measured import MeasuredFiles
from msb_cache.care.make_room import RoomMaker
from msb_cache.engines.arriving import Arriving
from msb_cache.engines.own import journal, staging
from msb_cache.oci.registry.options import RegistryOptions
from msb_cache.projections.state import Coming
from msb_cache.retention.coming import Blob, Sizes
from tests.imagebuilder import BuiltImage, docker_archive, file, image, layer
from tests.registry_server import RegistryServer

DAY = 86400 * 10**9
FAST = RegistryOptions(timeout=2, retries=1, backoff=0.01)
KIB = 1024


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def built(name: str, size: int, *, compression: str = "none") -> BuiltImage:
    """An image of one layer that takes about so many bytes, whatever its compression."""
    return image([layer([file(name, noise(size, zlib.crc32(name.encode())))], compression)], f"{name}:1")


OLD = [built(f"old{number}", 300 * KIB) for number in range(4)]


@pytest.fixture
def home(own_home: Path) -> Path:
    """Four images of some 300 KiB that were last used 4 to 1 days ago."""
    for number, old in enumerate(OLD):
        days = len(OLD) - number
        with ImageCache(own_home, clock=lambda days=days: NOW - days * DAY) as cache:
            cache.load(io.BytesIO(docker_archive(old)))
    return own_home


NOW = 1_900_000_000 * 10**9


def opened(home: Path) -> ImageCache:
    return ImageCache(home, clock=lambda: NOW)


def policy(home: Path, text: str) -> None:
    (home / "cache-policy.toml").write_text(text)


def at_most(home: Path, more: int, **others: str) -> None:
    """A policy by which the cache may grow by so many bytes."""
    total = MeasuredFiles(Layout(home)).total_bytes
    policy(home, f'[[rule]]\nname = "size"\nmax-size = {total + more}\n')


def names(cache: ImageCache) -> list[str]:
    return sorted(handle.reference for handle in cache.list())


def load(cache: ImageCache, new: BuiltImage, **options: Any) -> list[str]:
    """Load with room made; what is noted."""
    said: list[str] = []
    cache.load(io.BytesIO(docker_archive(new)), make_room=True, note=said.append, **options)
    return said


def test_where_there_is_room_nothing_goes(home: Path) -> None:
    at_most(home, 1 << 20)
    with opened(home) as cache:
        assert load(cache, built("new", 300 * KIB)) == []
        assert names(cache) == ["new:1", "old0:1", "old1:1", "old2:1", "old3:1"]
        assert cache.prunes() == []


def test_no_more_goes_than_what_comes_needs(home: Path) -> None:
    at_most(home, 0)
    with opened(home) as cache:
        (said,) = load(cache, built("new", 300 * KIB))
        assert names(cache) == ["new:1", "old2:1", "old3:1"]
        assert said.startswith("makes room: 2 images, ")
        (done,) = cache.prunes()
        assert done.counters.kind == "prune"
        assert done.policy["room_for"] == ["new:1"]
        report = cache.prune_report(done.operation)
        assert {each.policy_rule for each in report.going} == {"size"}


def test_what_comes_keeps_its_layers_its_manifest_and_its_name(home: Path) -> None:
    shared = OLD[0].layers[0]
    new = image([shared, layer([file("new", noise(300 * KIB, 1))])], "old1:1")
    at_most(home, 0)
    with opened(home) as cache:
        load(cache, new)
        assert Layout(home).layer(shared.diff_id).exists()
        assert cache.get("old1:1").manifest_digest == new.digest
        assert "old1:1" in names(cache)
        assert cache.verify().sound


def test_too_little_may_go(home: Path) -> None:
    at_most(home, 0)
    with opened(home) as cache:
        for number in range(4):
            cache.pin(f"old{number}:1")
        before = names(cache)
        with pytest.raises(
            BoundNotKeptError, match=r"^new:1 needs about .* too little for its rule 'size'; nothing"
        ):
            load(cache, built("new", 300 * KIB))
        assert names(cache) == before
        assert cache.prunes() == []
        assert os.listdir(home / "cache/tmp") == []


def test_the_brake_holds(home: Path) -> None:
    total = MeasuredFiles(Layout(home)).total_bytes
    policy(home, f'max-delete = 1\n[[rule]]\nname = "size"\nmax-size = {total}\n')
    with opened(home) as cache, pytest.raises(BoundNotKeptError, match="at most 1 may"):
        load(cache, built("new", 300 * KIB))


def test_without_a_policy(home: Path) -> None:
    with opened(home) as cache, pytest.raises(InvalidConfigError, match="msb-cache policy init"):
        load(cache, built("new", 1000))


def test_a_rule_without_a_bound_takes_only_what_is_needed(home: Path) -> None:
    policy(home, '[[rule]]\nunused-for = "1h"\n')
    with opened(home) as cache:
        assert load(cache, built("new", 300 * KIB)) == []
        assert len(names(cache)) == 5


def test_what_takes_more_than_was_expected_makes_room_again(home: Path) -> None:
    """A layer of zeros: a thousandth of it comes, so only what lies there in the end tells."""
    zeros = image([layer([file("zeros", bytes(600 * KIB))], "gzip")], "zeros:1")
    at_most(home, 100 * KIB)
    with opened(home) as cache:
        (said,) = load(cache, zeros)
        assert said.startswith("makes room: ")
        assert names(cache) == ["old2:1", "old3:1", "zeros:1"]
        cache.verify()


def test_what_takes_more_than_was_expected_is_taken_back(home: Path) -> None:
    zeros = image([layer([file("zeros", bytes(600 * KIB))], "gzip")], "zeros:1")
    at_most(home, 100 * KIB)
    with opened(home) as cache:
        for number in range(4):
            cache.pin(f"old{number}:1")
        with pytest.raises(
            BoundNotKeptError, match=r"^zeros:1 takes more than was expected: .*nothing was added$"
        ):
            load(cache, zeros)
        assert len(names(cache)) == 4
        assert os.listdir(home / "cache/tmp") == []
        assert cache.verify().sound


def test_what_lies_there_unpublished_is_safe_from_others(home: Path) -> None:
    """Another prune takes all that nothing uses and all files that no image names, between both looks."""
    shared = OLD[0].layers[0]
    new = image([shared, layer([file("new", noise(300 * KIB, 1))])], "new:1")
    at_most(home, 1 << 20)
    seen: list[str] = []

    def prune(step: str) -> None:
        if step in ("room.made", "add.staged") and step not in seen:
            seen.append(step)
            failpoints.observer = None
            with opened(home) as other:
                other.prune(orphans=True)
            failpoints.observer = prune

    failpoints.observer = prune
    try:
        with opened(home) as cache:
            load(cache, new)
    finally:
        failpoints.observer = None
    assert seen == ["room.made", "add.staged"]
    with opened(home) as cache:
        assert names(cache) == ["new:1"]
        found = cache.verify(data=DataRequest())
        assert found.sound
        assert found.disk == []


def test_two_make_room_at_once(home: Path) -> None:
    """Each waits for the other's deletion, and both come in, or one says that too little may go."""
    total = MeasuredFiles(Layout(home)).total_bytes
    policy(home, f'[[rule]]\nname = "size"\nmax-size = {total}\n')
    wrong: list[Exception] = []

    def add(name: str) -> None:
        try:
            with opened(home) as cache:
                load(cache, built(name, 300 * KIB))
        except BoundNotKeptError as error:
            wrong.append(error)

    threads = [threading.Thread(target=add, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with opened(home) as cache:
        came = {"one:1", "two:1"} & {*names(cache)}
        assert len(came) + len(wrong) == 2
        assert came
        assert cache.verify().disk == []
        assert all(each.counters.finished_at is not None for each in cache.prunes())
    assert os.listdir(home / "cache/tmp") == []


def test_a_pull_of_what_is_cached_makes_no_room(home: Path) -> None:
    at_most(home, -(1 << 20))
    with RegistryServer() as server, opened(home) as cache:
        reference = server.add(built("new", KIB))
        cache.pull(reference, options=FAST)
        before = names(cache)
        cache.pull(reference, options=FAST, make_room=True)
        assert names(cache) == before


def test_a_pull_anew_counts_what_it_replaces(home: Path) -> None:
    with RegistryServer() as server, opened(home) as cache:
        reference = server.add(built("new", 300 * KIB))
        cache.pull(reference, options=FAST)
        at_most(home, 200 * KIB)
        cache.pull(reference, options=FAST, make_room=True, force=True)
        assert len(names(cache)) == 5
        assert cache.prunes() == []


def test_nothing_is_fetched_by_the_policy_never(home: Path) -> None:
    at_most(home, 0)
    with opened(home) as cache, pytest.raises(InvalidConfigError, match="fetches nothing"):
        cache.pull("old0:1", policy="never", make_room=True)


@pytest.mark.parametrize("low", ["1KiB", "50MiB"])
def test_of_watermarks_the_high_one_is_the_bound(home: Path, low: str) -> None:
    """To come down to the low one is not what comes needs."""
    total = MeasuredFiles(Layout(home)).total_bytes
    high = total if low == "1KiB" else 100 << 20
    policy(home, f'[watermarks]\nhigh = {high}\nlow = "{low}"\n')
    with opened(home) as cache:
        load(cache, built("new", 300 * KIB))
        left = ["new:1", "old2:1", "old3:1"] if low == "1KiB" else ["new:1", *(f"old{n}:1" for n in range(4))]
        assert names(cache) == left


def test_the_log_names_some_of_very_many_references(home: Path) -> None:
    """Of an archive with any number of names one event could not have all."""
    at_most(home, 0)
    tags = [f"registry.example/{'x' * 120}:{'t' * 100}{number}" for number in range(20_000)]
    with opened(home) as cache:
        asked = RoomMaker(cache._session, cache.policy(), None)  # type: ignore[arg-type]
        asked(Arriving(names=tuple(tags), coming=Coming(), sizes=Sizes((Blob(300 * KIB, False),), images=1)))
        (done,) = cache.prunes()
        assert done.policy["room_for"] == tags[:100]
        assert done.policy["room_for_more"] == 19_900


def test_what_cannot_be_taken_back_is_not_tried_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its journal stays: by that the next command gives the image its metadata back that it has still."""
    policy(home, '[[rule]]\nname = "old"\nunused-for = "30d"\n')
    other = image([layer([file("other", b"other")])], "old0:1")
    full = [True]

    def undo(*arguments: Any) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        journal.undo(*arguments)

    def observer(step: str) -> None:
        if step == "add.published" and full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(staging, "undo", undo)
    failpoints.observer = observer
    try:
        with opened(home) as cache, pytest.raises(BusyError, match="could not be taken back yet"):
            load(cache, other)
    finally:
        failpoints.observer = None
        full[0] = False
    with opened(home) as cache:
        cache.pin("old1:1")  # whatever writes
        assert cache.get("old0:1").manifest_digest == OLD[0].digest
        assert cache.verify(data=DataRequest()).disk == []
    assert os.listdir(home / "cache/tmp") == []
