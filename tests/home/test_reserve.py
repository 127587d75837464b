"""The reserve: made, given up in steps, drawn on by a transaction, made again; and what lies in its place."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.home import reserve
from msb_cache.home.connect import open_database
from tests.imagebuilder import docker_archive, sample
from tests.reliability.smalldisk import SmallDisk, ext4


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(tmp_path / "home")
    found.db.mkdir(parents=True)
    return found


def test_it_grows_with_the_number_of_images() -> None:
    assert reserve.wanted(0) == reserve.wanted(100) == reserve.SMALLEST
    assert reserve.wanted(10_000) > 10_000 * 5500, "of the log and the database, as measured"
    # All of them pruned at once: a decision of two events and three artifacts for each image, at least.
    assert reserve.needed(5 * 1000) > 3_534_992


def test_the_first_command_that_writes_makes_it_and_reading_does_not(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "home")
    (tmp_path / "a.tar").write_bytes(docker_archive(sample("hello:1")))
    with ImageCache(tmp_path / "home") as cache:
        assert cache.list() == []
        assert not layout.reserve.exists()
        cache.load(tmp_path / "a.tar")
        assert cache.info().reserve == reserve.SMALLEST
        assert stat.S_IMODE(layout.reserve.stat().st_mode) == 0o600
        layout.reserve.unlink()
        assert cache.info().reserve == 0
    with ImageCache(tmp_path / "home") as cache:
        cache.use("hello:1")
        assert cache.info().reserve == reserve.SMALLEST
        layout.reserve.unlink()
        cache.remove("hello:1")
        assert cache.info().reserve == reserve.SMALLEST
        assert cache.verify().disk == []


def test_a_reserve_that_was_copied_with_holes_keeps_nothing(layout: Layout) -> None:
    with layout.reserve.open("wb") as file:
        file.truncate(reserve.SMALLEST)
    assert reserve.held(layout) == 0
    reserve.keep(layout, reserve.SMALLEST)
    assert reserve.held(layout) == reserve.SMALLEST


@pytest.mark.parametrize("put", [lambda path: path.mkdir(), lambda path: path.symlink_to("other")])
def test_something_else_in_its_place_is_left_alone(layout: Layout, put: Callable[[Path], None]) -> None:
    put(layout.reserve)
    (layout.db / "other").write_bytes(b"theirs")
    reserve.keep(layout, reserve.SMALLEST)
    reserve.restore(layout, reserve.SMALLEST)
    assert not reserve.give_up(layout, reserve.STEP)
    assert (layout.db / "other").read_bytes() == b"theirs"
    with ImageCache(layout.home) as cache:
        cache.release("sandbox:nobody")
        assert cache.prune().image_refs_removed == 0


def test_it_is_made_only_of_room_to_spare(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reserve, "free", lambda layout: 2 * reserve.SMALLEST - 1)
    reserve.keep(layout, reserve.SMALLEST)
    assert reserve.held(layout) == 0
    monkeypatch.setattr(reserve, "free", lambda layout: 2 * reserve.SMALLEST)
    reserve.keep(layout, reserve.SMALLEST)
    assert reserve.held(layout) == reserve.SMALLEST


def test_it_is_given_up_step_by_step_and_shrinks_with_the_index(layout: Layout) -> None:
    reserve.restore(layout, reserve.SMALLEST)
    assert reserve.give_up(layout, reserve.STEP)
    assert reserve.held(layout) == reserve.SMALLEST - reserve.STEP
    assert reserve.give_up(layout, 2 * reserve.SMALLEST)
    assert reserve.held(layout) == 0
    assert not reserve.give_up(layout, reserve.STEP)
    reserve.restore(layout, 3 * reserve.SMALLEST)
    reserve.restore(layout, reserve.SMALLEST)
    assert reserve.held(layout) == reserve.SMALLEST


@pytest.mark.parametrize("refusal", [errno.ENOSPC, errno.EDQUOT])
def test_a_transaction_draws_on_it_where_disk_or_quota_refuse(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    reserve.restore(layout, reserve.SMALLEST)
    allocate = os.posix_fallocate
    room = [3 * reserve.STEP // 2]  # the rest is what comes free of the reserve

    def limited(descriptor: int, offset: int, size: int) -> None:
        freed = reserve.SMALLEST - os.stat(layout.reserve).st_size
        if size > room[0] + freed:
            raise OSError(refusal, "refused")
        room[0] -= size
        allocate(descriptor, offset, size)

    with closing(open_database(layout, pytest.fail)) as connection:
        monkeypatch.setattr(reserve, "free", lambda layout: 0)
        monkeypatch.setattr(os, "posix_fallocate", limited)
        connection.execute("BEGIN IMMEDIATE")
        log = Path(f"{layout.database}-wal")
        before = log.stat().st_size
        assert reserve.draw(layout, 8 * reserve.STEP)
        assert log.stat().st_size == before + 8 * reserve.STEP
        connection.execute("CREATE TABLE later (x)")
        connection.execute("COMMIT")
        reserve.trim(layout, connection)
        assert before < log.stat().st_size < before + 8 * reserve.STEP
        assert (log.stat().st_size - 32) % (4096 + 24) == 0
        monkeypatch.undo()
    assert 0 < reserve.held(layout) < reserve.SMALLEST
    with closing(sqlite3.connect(layout.database)) as connection:
        assert connection.execute("SELECT count(*) FROM later").fetchone() == (0,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_file_system_that_cannot_allocate_has_no_reserve(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with ImageCache(layout.home) as cache:
        cache.release("sandbox:nobody")
        assert cache.prune().image_refs_removed == 0
        assert cache.info().reserve == 0
        assert cache.verify().disk == []


def test_it_takes_what_there_is_after_a_deletion(tmp_path: Path, require_peer: Callable[[str], str]) -> None:
    require_peer("root")
    require_peer("mkfs.ext4")
    with ext4(tmp_path / "disk", 4096, mib=4) as disk:
        layout = Layout(disk.folder / "home")
        layout.db.mkdir(parents=True)
        disk.fill(reserve.SMALLEST // 2)
        reserve.keep(layout, reserve.SMALLEST)
        assert reserve.held(layout) == 0
        reserve.restore(layout, reserve.SMALLEST)
        assert reserve.SMALLEST // 4 <= reserve.held(layout) <= reserve.SMALLEST // 2
        _in_use(disk)


def _in_use(disk: SmallDisk) -> None:
    with pytest.raises(OSError, match="No space left"):
        (disk.folder / "more").write_bytes(bytes(reserve.SMALLEST // 2))
