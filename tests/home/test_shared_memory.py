"""The -shm where blocks are smaller than SQLite thinks: allocated through SQLite's own descriptor."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache.home import shared_memory
from tests.reliability.smalldisk import SmallDisk, ext4, in_child


@pytest.fixture
def disk(tmp_path: Path, require_peer: Callable[[str], str]) -> Iterator[SmallDisk]:
    require_peer("root")
    require_peer("mkfs.ext4")
    with ext4(tmp_path / "disk", 1024) as found:
        yield found


def opened(disk: SmallDisk) -> tuple[str, sqlite3.Connection]:
    path = str(disk.folder / "a.db")
    connection = sqlite3.connect(path, isolation_level=None, timeout=0)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS t (x)")
    return path, connection


def test_whether_it_fits_depends_on_the_room_and_on_the_blocks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def room(size: int, block: int) -> bool:
        values = [block, block, 0, 0, size // block, 0, 0, 0, 0, 255]
        monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(values))
        return shared_memory.fits(tmp_path / "a.db")

    assert room(128 << 10, 4096)
    assert not room(127 << 10, 4096)
    assert not room(128 << 10, 1024)
    assert room(1 << 20, 1024)


def test_a_quota_is_found_by_trying(disk: SmallDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    assert shared_memory.fits(disk.folder / "a.db")
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert not shared_memory.fits(disk.folder / "a.db")
    assert not [*disk.folder.glob("*.db*")]


def test_all_of_it_is_allocated_and_the_locks_stay(disk: SmallDisk) -> None:
    path, connection = opened(disk)
    with closing(connection):
        assert shared_memory.is_left_with_holes(path)
        connection.execute("BEGIN IMMEDIATE")
        assert shared_memory.allocate(path, connection)
        after = os.stat(f"{path}-shm")
        assert after.st_blocks * 512 >= after.st_size == 64 << 10

        def write() -> str:
            with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
                try:
                    other.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError as error:
                    return str(error)
            return "it could write"

        assert in_child(write) == "database is locked"
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute("COMMIT")
        assert in_child(write) == "it could write"


def test_it_is_allocated_ahead_of_a_long_log(disk: SmallDisk) -> None:
    path, connection = opened(disk)
    with closing(connection):
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute("INSERT INTO t VALUES (randomblob(4000))")
        with open(f"{path}-wal", "ab") as log:
            log.truncate(9000 * (4096 + 24))  # only its size is looked at
        connection.execute("BEGIN IMMEDIATE")
        assert shared_memory.allocate(path, connection)
        assert os.stat(f"{path}-shm").st_size == 4 * 32 << 10
        connection.execute("COMMIT")


def test_there_is_no_room_for_it(disk: SmallDisk) -> None:
    path, connection = opened(disk)
    with closing(connection):
        disk.fill(0)
        connection.execute("BEGIN IMMEDIATE")
        assert not shared_memory.allocate(path, connection)
        connection.execute("ROLLBACK")


def test_a_home_without_it_is_not_mistaken_for_another(disk: SmallDisk) -> None:
    path, connection = opened(disk)
    with closing(connection):
        connection.execute("BEGIN IMMEDIATE")
        os.rename(f"{path}-shm", f"{path}-gone")
        Path(f"{path}-shm").write_bytes(bytes(10))
        with pytest.raises(FileNotFoundError, match="taken away"):
            shared_memory.allocate(path, connection)
        connection.execute("ROLLBACK")
