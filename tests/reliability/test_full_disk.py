"""A real file system that is full: a clear sentence, the cache as before, and all goes on once there is room.

What lists and deletes works there all the same. Every single write is tried in ``test_killed.py``, where
strace lets it fail; here the kernel says it, and the space that is left varies. MSB_CACHE_TEST_ROOMS says
with how many amounts of room deletions are tried, on blocks of 1 KiB and of 4 KiB.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from msb_cache import DataRequest, ImageCache, failpoints
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import NewEvent
from msb_cache.home import reserve
from msb_cache.home.identity import current_actor
from msb_cache.home.ledger import Ledger
from tests import logs
from tests.cli.support import execute, sentence
from tests.fakemsb import FakeMsb
from tests.imagebuilder import docker_archive, file, image, layer
from tests.peers.realmsb import IMAGES as OF_MSB
from tests.peers.realmsb import Msb, short_home
from tests.reliability.scenarios import LONE, check_whole, index_of, write_archives
from tests.reliability.smalldisk import SmallDisk, ext4, in_child
from tests.trees import files_below

BIG = image([layer([file(f"file{n}", os.urandom(40_000)) for n in range(12)])], "big:1")
MOST = 8 << 20
ROOMS = [kib << 10 for kib in (0, 8, 40, 72, 160, 300, 600, 1000, 3000)]


@pytest.fixture
def small(tmp_path: Path, require_peer: Callable[[str], str]) -> Iterator[Path]:
    """Mount a file system of 8 MiB."""
    require_peer("root")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={MOST}", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def leave(folder: Path, room: int) -> Path:
    """Fill a file system up to so many bytes."""
    filler = folder / "filler"
    space = os.statvfs(folder)
    with filler.open("wb") as out:
        os.posix_fallocate(out.fileno(), 0, max(1, space.f_bavail * space.f_frsize - room))
    return filler


@pytest.mark.parametrize("command", ["load", "use", "import", "export"])
def test_full(small: Path, tmp_path: Path, command: str) -> None:
    home = small / "home"
    (tmp_path / "big.tar").write_bytes(docker_archive(BIG))
    (tmp_path / "lone.tar").write_bytes(docker_archive(LONE))
    with ImageCache(home) as cache:
        cache.load(tmp_path / "lone.tar")
        cache.export(tmp_path / "log.jsonl")
    arguments: dict[str, tuple[object, ...]] = {
        "load": ("--home", home, "load", tmp_path / "big.tar"),
        "use": ("--home", home, "use", "lone:1"),
        "import": ("--home", small / "other", "import", tmp_path / "log.jsonl"),
        "export": ("--home", home, "export", "-o", small / "out.jsonl"),
    }
    before = index_of(home)
    failures = 0
    for room in ROOMS:
        filler = leave(small, room)
        done = execute(*arguments[command])
        if done.code != 0:
            failures += 1
            assert done.code == 1
            said = sentence(done.err)
            assert "make room" in said or "has room" in said, said
            assert str(small) in said, said
        filler.unlink()
        if done.code != 0:
            assert index_of(home) == before
        with ImageCache(home) as cache:
            cache.release("sandbox:nobody")
        check_whole(home)
        if done.code == 0:
            break
    assert failures > 0
    assert done.code == 0, "it never had room enough"


# -- what must work on a full disk ---------------------------------------------------------------------------

LEFT = [0, 4 << 10, 64 << 10, 128 << 10]
"""Bytes that are left when a command begins."""

TRIED = int(os.environ.get("MSB_CACHE_TEST_ROOMS", "1"))


@pytest.fixture(params=[1024, 4096], ids=["1 KiB blocks", "4 KiB blocks"])
def disk(
    request: pytest.FixtureRequest, tmp_path: Path, require_peer: Callable[[str], str]
) -> Iterator[SmallDisk]:
    """Mount a small ext4."""
    require_peer("root")
    require_peer("mkfs.ext4")
    with ext4(tmp_path / "disk", request.param) as found:
        yield found


def rooms() -> list[int]:
    """Choose some of them by chance; other tests try with nothing at all."""
    return random.sample(LEFT, min(TRIED, len(LEFT)))


def prepared(home: Path, archives: Path) -> None:
    """Load one, two and lone; a sandbox holds two."""
    archives.mkdir(exist_ok=True)
    write_archives(archives)
    with ImageCache(home) as cache:
        for name in ("one", "two", "lone"):
            cache.load(archives / f"{name}.tar")
        cache.hold("two:1", "sandbox:dev")
    assert reserve.held(Layout(home)) == reserve.SMALLEST


def listed(home: Path) -> list[str]:
    """List in a process of its own: sorted references."""
    with ImageCache(home) as cache:
        return sorted(handle.reference for handle in cache.list())


def remove_one(home: Path) -> int:
    with ImageCache(home) as cache:
        return cache.remove("one:1").image_refs_removed


def prune(home: Path) -> list[int]:
    with ImageCache(home) as cache:
        report = cache.prune(orphans=True)
    return [report.image_refs_removed, report.artifacts_failed]


def check_home(home: Path, left: list[str]) -> None:
    """Nothing lost, nothing over, and the reserve is there again, once there was room for it."""
    check_whole(home)
    assert listed(home) == left
    assert reserve.held(Layout(home)) == reserve.SMALLEST


@pytest.mark.parametrize("elsewhere", [False, True], ids=["cache here", "cache on another disk"])
def test_images_are_listed_removed_and_pruned(disk: SmallDisk, tmp_path: Path, elsewhere: bool) -> None:
    for number, room in enumerate(rooms()):
        cache = tmp_path / f"cache{number}" if elsewhere else None
        cleaned_up(disk, disk.folder / f"home{number}", cache, tmp_path / "archives", room)


def cleaned_up(disk: SmallDisk, home: Path, cache: Path | None, archives: Path, room: int) -> None:
    if cache is not None:
        home.mkdir()
        cache.mkdir()
        (home / "cache").symlink_to(cache)
    prepared(home, archives)
    before = index_of(home)
    disk.fill(room)
    assert in_child(lambda: listed(home)) == ["lone:1", "one:1", "two:1"]
    assert in_child(lambda: remove_one(home)) == 1
    assert in_child(lambda: listed(home)) == ["lone:1", "two:1"]
    assert in_child(lambda: prune(home)) == [1, 0]
    assert in_child(lambda: listed(home)) == ["two:1"]
    if cache is None:
        assert reserve.held(Layout(home)) == reserve.SMALLEST, "made again of what came free"
    disk.empty()
    in_child(lambda: ImageCache(home).use("two:1").reference)
    check_home(home, ["two:1"])
    assert index_of(home)[1] == before[1]


@pytest.mark.parametrize("step", ["delete.decided", "delete.unlinked", "delete.recording", "log.committing"])
def test_what_was_cut_short_is_finished(disk: SmallDisk, tmp_path: Path, step: str) -> None:
    home = disk.folder / "home"
    prepared(home, tmp_path / "archives")
    disk.fill(rooms()[-1])

    def killed() -> None:
        def observe(reached: str) -> None:
            if reached == step:
                os._exit(0)

        failpoints.observer = observe
        prune(home)

    assert in_child(killed) is None
    disk.fill(0)
    assert "two:1" in in_child(lambda: listed(home))
    in_child(lambda: prune(home))
    assert in_child(lambda: listed(home)) == ["two:1"]
    disk.empty()
    in_child(lambda: ImageCache(home).use("two:1").reference)
    check_home(home, ["two:1"])


def test_many_images_are_pruned_at_once(disk: SmallDisk) -> None:
    """None of them has files, so nothing comes free by it."""
    many_pruned(disk, 300, {})


def test_many_images_are_pruned_by_a_caller_who_says_much(
    tmp_path: Path, require_peer: Callable[[str], str]
) -> None:
    """What the caller says stands in every event."""
    require_peer("root")
    require_peer("mkfs.ext4")
    with ext4(tmp_path / "disk", 4096, mib=64) as disk:
        many_pruned(disk, 150, {f"name{number}": "x" * 256 for number in range(16)})


def many_pruned(disk: SmallDisk, count: int, context: dict[str, str]) -> None:
    layout = Layout(disk.folder / "home")
    ledger = Ledger(layout, actor=current_actor(context=context))
    with ledger.write(uuid7()) as transaction:
        for number in range(count):
            manifest = logs.digest(number)
            transaction.append(
                [
                    NewEvent(
                        logs.manifest_added([logs.layer(-2 * number - 1), logs.layer(-2 * number - 2)]),
                        manifest,
                    ),
                    NewEvent(logs.pulled(manifest), f"docker.io/library/many:{number}"),
                ]
            )
    actor = len(msgspec.json.encode(ledger.actor))
    ledger.close()
    assert reserve.held(layout) == reserve.wanted(count, actor) > reserve.SMALLEST
    disk.fill(0)

    def pruned() -> int:
        with ImageCache(layout.home, context=context) as cache:
            return cache.prune(orphans=True).image_refs_removed

    assert in_child(pruned) == count
    assert in_child(lambda: listed(Path(layout.home))) == []
    disk.empty()
    check_whole(Path(layout.home))


def test_what_comes_free_is_taken_by_another_process(disk: SmallDisk, tmp_path: Path) -> None:
    home = disk.folder / "home"
    prepared(home, tmp_path / "archives")
    disk.fill(0)
    with disk.taken_up():
        assert in_child(lambda: listed(home)) == ["lone:1", "one:1", "two:1"]
        assert in_child(lambda: prune(home)) == [2, 0]
        assert in_child(lambda: listed(home)) == ["two:1"]
    disk.empty()
    in_child(lambda: ImageCache(home).use("two:1").reference)
    check_home(home, ["two:1"])


def test_others_have_the_home_open(disk: SmallDisk, tmp_path: Path) -> None:
    home = disk.folder / "home"
    prepared(home, tmp_path / "archives")
    with ImageCache(home) as other:
        other.use("two:1")
        disk.fill(0)
        assert in_child(lambda: listed(home)) == ["lone:1", "one:1", "two:1"]
        assert in_child(lambda: prune(home)) == [2, 0]
        assert [handle.reference for handle in other.list()] == ["two:1"]
    disk.empty()
    in_child(lambda: ImageCache(home).use("two:1").reference)
    check_home(home, ["two:1"])


def test_what_needs_room_fails_and_leaves_nothing(disk: SmallDisk, tmp_path: Path) -> None:
    home = disk.folder / "home"
    prepared(home, tmp_path / "archives")
    (tmp_path / "big.tar").write_bytes(docker_archive(BIG))
    for room in (0, 64 << 10):
        disk.fill(room)
        before = files_below(home)
        said = in_child(lambda: len(ImageCache(home).load(tmp_path / "big.tar")))
        assert "No space left" in said or "make room" in said, said
        assert files_below(home) == before
        disk.empty()
    disk.fill(0)
    for _ in range(2):
        said = in_child(lambda: ImageCache(home).use("two:1").reference)
        assert "make room and try again" in said, said
    disk.empty()
    check_home(home, ["lone:1", "one:1", "two:1"])


def test_an_open_home_fails_with_a_sentence_when_the_disk_is_full(disk: SmallDisk, tmp_path: Path) -> None:
    """SQLite's -shm grows with the log: what is not on the disk by then would be death by SIGBUS."""
    home = disk.folder / "home"
    prepared(home, tmp_path / "archives")

    def until_full() -> str:
        with ImageCache(home) as cache:
            cache.use("two:1")
            disk.fill(0)
            for _ in range(2000):
                cache.use("two:1")
        return "never"

    assert "make room and try again" in in_child(until_full)
    disk.empty()
    check_home(home, ["lone:1", "one:1", "two:1"])


# -- in a home of msb ----------------------------------------------------------------------------------------


def test_msb_is_given_room(disk: SmallDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, room in enumerate(rooms()):
        home = disk.folder / f"home{number}"
        fake = FakeMsb(tmp_path / f"msb{number}", home)
        monkeypatch.setenv("MSB_PATH", str(fake.program))
        for name in ("app", "two", "alone"):
            fake.load(OF_MSB[name])
        fake("create", "app:1", "--name", "dev")
        _pruned_by_msb(disk, home, room, "alone:1")


def test_the_real_msb_is_given_room(
    disk: SmallDisk, tmp_path: Path, msb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSB_PATH", msb)
    for name, built in OF_MSB.items():
        (tmp_path / f"{name}.tar").write_bytes(docker_archive(built))
    with short_home() as link:
        home = disk.folder / "h"
        home.mkdir()
        link.symlink_to(home)
        program = Msb(msb, link, tmp_path)
        for name in ("app", "two", "alone"):
            program.load(name)
        _pruned_by_msb(disk, link, 0, "alone:1")


def _pruned_by_msb(disk: SmallDisk, home: Path, room: int, removed: str) -> None:
    with ImageCache(home) as cache:
        cache.sync()
        held = sorted(handle.reference for handle in cache.list() if cache.holders(handle.reference))
    disk.fill(room)
    in_child(lambda: listed(home))
    with ImageCache(home) as cache:
        assert cache.remove(removed).image_refs_removed == 1
    assert prune(home)[1] == 0
    assert in_child(lambda: listed(home)) == held
    disk.empty()
    with ImageCache(home) as cache:
        cache.sync(force=True)
        cache.release("sandbox:nobody")
        found = cache.verify(data=DataRequest())
    assert (found.differences, found.disk) == ([], [])
    assert listed(home) == held
