"""Looking at a database that SQLite has open here takes none of its locks; test_pairing tries two caches."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache.home import descriptors, readonly
from msb_cache.home.foreign_db import MAGIC, copy


def locks_of(path: Path) -> int:
    """How many POSIX locks this process has on a file."""
    inode = f":{path.stat().st_ino}"
    own = str(os.getpid())
    found = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return sum(inode in each[-3] and own in each for each in found)


def test_no_lock_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a)")
        before = locks_of(path)
        assert before
        assert descriptors.beginning(path, len(MAGIC)) == MAGIC
        assert locks_of(path) == before
        descriptor = descriptors.open_here(path)
        assert descriptor is not None
        assert os.path.samestat(os.fstat(descriptor), path.stat())
        assert readonly.in_wal_mode(path)
        copy(path, tmp_path / "copy.db")
        assert locks_of(path) == before
        assert (tmp_path / "copy.db").read_bytes() == path.read_bytes()
    assert descriptors.open_here(path) is None
    assert descriptors.beginning(path, len(MAGIC)) == MAGIC


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("none", "pipe", "."):
        with pytest.raises(OSError, match=r"No such file|no regular file"):
            descriptors.beginning(tmp_path / name, 4)
        with pytest.raises(OSError, match=r"No such file|no regular file"):
            copy(tmp_path / name, tmp_path / "copy")
    (tmp_path / "short").write_bytes(b"ab")
    assert descriptors.beginning(tmp_path / "short", 4) == b"ab"
