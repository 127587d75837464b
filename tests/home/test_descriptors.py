"""Looking at a database that SQLite has open here takes none of its locks; test_pairing tries two caches."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache.home import descriptors, readonly
from msb_cache.home.foreign_db import MAGIC, copy

_ASK = """
import fcntl, os, struct, sys
wanted = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
with open(sys.argv[1], "r+b") as file:
    kind, _, start, length, holder = struct.unpack("hhqqi", fcntl.fcntl(file, fcntl.F_GETLK, wanted))
print(kind == fcntl.F_UNLCK and "none" or f"{start} {length} {holder}")
"""


def lock_of(path: Path) -> str:
    """The POSIX lock that another process meets on a file: where, how long and whose.

    /proc/locks would name the locks of every file of this machine, and a file's number may begin another's.
    """
    return subprocess.check_output([sys.executable, "-c", _ASK, path], text=True).strip()


def test_no_lock_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a)")
        before = lock_of(path)
        assert before.endswith(f" {os.getpid()}")
        assert descriptors.beginning(path, len(MAGIC)) == MAGIC
        assert lock_of(path) == before
        descriptor = descriptors.open_here(path)
        assert descriptor is not None
        assert os.path.samestat(os.fstat(descriptor), path.stat())
        assert readonly.in_wal_mode(path)
        copy(path, tmp_path / "copy.db")
        assert lock_of(path) == before
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
