"""Things where others should be, missing folders, and clocks that go wrong."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout, lock_path
from msb_cache.errors import InvalidConfigError
from msb_cache.eventstore.chain import Verified
from tests.cli.support import execute, sentence
from tests.imagebuilder import docker_archive
from tests.reliability.scenarios import LONE, ONE, SHARED, TWO, check_whole, index_of


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with one:1."""
    with ImageCache(tmp_path / "home") as cache:
        cache.load(io.BytesIO(docker_archive(ONE)))
    return tmp_path / "home"


def folder_at(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir(parents=True)


def file_at(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("not what should be here")


DISTURBANCES: dict[str, Callable[[Layout], None]] = {
    "a folder for a lock": lambda layout: folder_at(lock_path(layout.layer(TWO.layers[1].diff_id))),
    "a folder for a layer": lambda layout: folder_at(layout.layer(TWO.layers[1].diff_id)),
    "a folder for fsmeta": lambda layout: folder_at(layout.fsmeta(TWO.digest)),
    "a folder for a VMDK": lambda layout: folder_at(layout.vmdk(TWO.digest)),
    "a folder for metadata": lambda layout: folder_at(layout.metadata("docker.io/library/two:1")),
    "a file for the staging folder": lambda layout: file_at(layout.staging_root),
    "a file for the operations": lambda layout: file_at(layout.operations),
    "a file for the VMDKs": lambda layout: file_at(layout.folders["vmdk"]),
    "a folder for the migration's lock": lambda layout: folder_at(layout.migrate_lock),
}


@pytest.mark.parametrize("name", list(DISTURBANCES))
def test_a_load_says_what_is_in_its_way_and_changes_nothing(home: Path, tmp_path: Path, name: str) -> None:
    layout = Layout(home)
    before = index_of(home)
    DISTURBANCES[name](layout)
    (tmp_path / "two.tar").write_bytes(docker_archive(TWO))
    done = execute("--home", home, "load", tmp_path / "two.tar")
    if name == "a folder for the migration's lock":
        assert done.code == 0  # nothing has to be migrated
        return
    assert done.code == 1
    assert str(home) in sentence(done.err)
    assert index_of(home) == before
    for path in (*home.rglob("*.lock"), *home.rglob("*.erofs"), *home.rglob("*.vmdk"), *home.rglob("*.json")):
        if path.is_dir():
            path.rmdir()
    for path in (layout.staging_root, layout.operations, layout.folders["vmdk"]):
        if path.is_file():
            path.unlink()
    with ImageCache(home) as cache:
        cache.load(tmp_path / "two.tar")
        cache.load(io.BytesIO(docker_archive(ONE)))  # its VMDK may have gone
    check_whole(home)


def test_a_deletion_keeps_what_it_cannot_delete(home: Path) -> None:
    layout = Layout(home)
    folder_at(layout.layer(SHARED.diff_id))
    with ImageCache(home) as cache:
        report = cache.prune()
        assert report.artifacts_failed == 1
        (failed,) = cache.events(types=["artifact.delete_failed"])
        assert failed.subject == SHARED.diff_id
        assert cache.list() == []
    layout.layer(SHARED.diff_id).rmdir()
    check_whole(home)


def test_without_its_cache_folder(home: Path) -> None:
    shutil.rmtree(home / "cache")
    with ImageCache(home) as cache:
        assert [handle.reference for handle in cache.list()] == ["one:1"]
        assert {problem.problem for problem in cache.verify().disk} == {"missing"}
        cache.load(io.BytesIO(docker_archive(ONE)))  # makes the files anew
    check_whole(home)
    shutil.rmtree(home / "cache")
    with ImageCache(home) as cache:
        report = cache.remove("one:1")
        assert (report.image_refs_removed, report.bytes_reclaimed) == (1, None)
        assert cache.prune().operation is None
    check_whole(home)


def test_the_cache_lies_on_another_disk(home: Path, tmp_path: Path) -> None:
    here = os.stat(tmp_path).st_dev
    others = [
        path for path in ("/dev/shm", "/var/tmp") if os.path.isdir(path) and os.stat(path).st_dev != here
    ]
    if not others:
        pytest.skip("/dev/shm, /var/tmp and the temporary folder are one disk")
    with tempfile.TemporaryDirectory(dir=others[0]) as disk:
        there = tmp_path / "there"
        there.mkdir()
        (there / "cache").symlink_to(disk)
        with ImageCache(home) as cache:
            log = io.BytesIO()
            cache.export(log)
            log.seek(0)
        with ImageCache(there) as cache:
            assert cache.import_log(log).files_missing == 5
            cache.load(io.BytesIO(docker_archive(ONE, TWO)))
        check_whole(there)
        with ImageCache(there) as cache:
            assert cache.prune().image_refs_removed == 2
        check_whole(there)
        assert (there / "cache").is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another_owner(home: Path) -> None:
    """Who may read and write them uses them; whose they are is not asked."""
    for path in (home, *home.rglob("*")):
        os.chown(path, 12345, 12345)
    with ImageCache(home) as cache:
        cache.use("one:1")
        cache.load(io.BytesIO(docker_archive(LONE)))
        cache.remove("one:1")
    check_whole(home)


DAY = 86_400 * 10**9
NOW = 1_800_000_000 * 10**9


@pytest.mark.parametrize(
    "times",
    [
        (1_800_000_000 * 10**9, 1_700_000_000 * 10**9, 1_800_000_000 * 10**9 + 1),
        (1_800_000_000 * 10**9, 4_000_000_000 * 10**9, 1_800_000_000 * 10**9 + DAY),
        (1_800_000_000 * 10**9, 2**63 - 1, 1_800_000_000 * 10**9),
        (0, 0, 0),
        (-5, -(2**62), 1_800_000_000 * 10**9),
        (NOW, NOW + 3652 * DAY, NOW + DAY, NOW + 1000 * DAY, NOW + 2 * DAY, NOW + 3 * DAY),
        (NOW, 0, NOW + DAY, 946_684_800 * 10**9, NOW + 2 * DAY),
    ],
    ids=[
        *("backwards", "far forwards and back", "as far as it goes", "the epoch", "before the epoch"),
        *("forwards and back twice", "twice in 1970 and right again"),
    ],
)
def test_clocks_that_go_wrong(tmp_path: Path, times: tuple[int, ...]) -> None:
    home = tmp_path / "home"
    for number, now in enumerate(times):
        with ImageCache(home, clock=lambda now=now: now) as cache:
            cache.load(io.BytesIO(docker_archive(ONE)))
            cache.use("one:1")
            cache.hold("one:1", f"sandbox:{number}")
            cache.list()
            cache.history("one:1")
    with ImageCache(home) as cache:
        recorded = [event.recorded_at_ns for event in cache.events()]
        assert recorded == sorted(recorded)
        assert min(recorded) >= 0
        assert isinstance(cache.verify().chain, Verified)
        for number in range(len(times)):
            cache.release(f"sandbox:{number}")
        cache.export(tmp_path / "log.jsonl")
        states = [cache.list(as_of=event.seq) for event in cache.events()]
        assert cache.rebuild() == []
    with ImageCache(tmp_path / "other") as other, (tmp_path / "log.jsonl").open("rb") as export:
        other.import_log(export)
        assert [other.list(as_of=event.seq) for event in other.events()] == states
        assert [step.event for step in other.replay()] == other.events()
        assert other.rebuild() == []
    for command in (
        ("list",),
        ("history", "one:1"),
        ("events", "--format", "json"),
        ("list", "--as-of", "today"),
    ):
        done = execute("--home", home, *command)
        assert (done.code, "error" in done.err) == (0, False), done
    with ImageCache(home) as cache:
        cache.prune()
    check_whole(home)


def test_after_a_jump_forward_and_back_everything_has_the_time_it_happened(tmp_path: Path) -> None:
    """As of a time, too, and if the log stays behind a time of 2036 for years."""
    home, notes = tmp_path / "home", list[str]()

    def at(time: int) -> ImageCache:
        return ImageCache(home, clock=lambda: time, note=notes.append)

    with at(NOW) as cache:
        cache.load(io.BytesIO(docker_archive(ONE)))
    with at(NOW + 3652 * DAY) as cache:
        cache.load(io.BytesIO(docker_archive(TWO)))
        cache.hold("two:1", "sandbox:ahead")
        assert [idle.reference for idle in cache.last_used(at_least=timedelta(days=3652))] == ["one:1"]
    for day in (1, 2, 800):
        with at(NOW + day * DAY) as cache:
            cache.use("one:1")
    assert notes[1:] == [  # the first is of the new home
        "the computer's clock jumped back by 3,651 days, it was ahead before; the log has that as event "
        f"{jump_of(home)}"
    ]
    with at(NOW + 801 * DAY) as cache:
        one, two = cache.get("one:1"), cache.get("two:1")
        assert (one.created_at_ns, one.last_used_at_ns) == (NOW, NOW + 800 * DAY)
        assert (two.created_at_ns, two.last_used_at_ns) == (NOW + DAY, NOW + DAY)
        assert [hold.since_ns for hold in cache.holds()] == [NOW + DAY]
        assert [(idle.reference, idle.idle_ns) for idle in cache.last_used()] == [
            ("two:1", 800 * DAY),
            ("one:1", DAY),
        ]
        uses = cache.events(types=["image.used"])
        for use, after in zip(uses, (1, 2, 800), strict=True):
            assert use.occurred_at_ns == NOW + after * DAY
            moment = datetime.fromtimestamp(use.occurred_at_ns / 10**9, UTC)
            assert cache.list(as_of=moment) == cache.list(as_of=use.seq)
            assert cache.events(recorded_until=moment)[-1] == use
            assert use in cache.events(recorded_since=moment)
            assert use in cache.events(since=moment, until=moment)
        with pytest.raises(InvalidConfigError, match="in the future"):
            cache.list(as_of=datetime.fromtimestamp(NOW / 10**9 + 802 * 86_400, UTC))
    check_whole(home)


def jump_of(home: Path) -> int:
    with ImageCache(home) as cache:
        (jump,) = cache.events(types=["clock.jumped"])
    return jump.seq
