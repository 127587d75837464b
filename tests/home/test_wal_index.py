"""A database whose ``-shm`` another process is making."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache.home.wal_index import is_short, may_be_half_made, wait_for
from msb_cache.waiting import is_busy
from tests.reliability.killing import stopped_at


@pytest.fixture
def database(tmp_path: Path) -> str:
    path = str(tmp_path / "db")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (a)")
    return path


def test_which_files_are_half_made(database: str) -> None:
    assert not is_short(database)
    assert not may_be_half_made(database)
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("SELECT * FROM t")
        assert may_be_half_made(database)  # nothing has been written yet, so there is no telling
        assert not is_short(database)
        connection.execute("INSERT INTO t VALUES (1)")
        assert not may_be_half_made(database)
    Path(f"{database}-shm").write_bytes(bytes(3))
    assert is_short(database)
    assert may_be_half_made(database)


def test_what_a_killed_process_left_is_not_waited_for(database: str) -> None:
    Path(f"{database}-shm").write_bytes(bytes(3))
    wait_for(database, pytest.fail, 5)
    assert not Path(f"{database}-shm").exists()


def test_what_cannot_be_opened_is_left_to_who_opens_it(tmp_path: Path) -> None:
    path = tmp_path / "db"
    path.write_bytes(b"no database" * 1000)
    Path(f"{path}-shm").write_bytes(bytes(3))
    wait_for(str(path), pytest.fail, 5)


def test_a_process_that_makes_it_is_waited_for(database: str, require_peer: Callable[[str], str]) -> None:
    program = f"import sqlite3; sqlite3.connect({database!r}).execute('SELECT * FROM t')"
    with stopped_at(require_peer("strace"), "ftruncate", 1, [sys.executable, "-c", program]) as maker:
        with pytest.raises(sqlite3.OperationalError) as caught:
            wait_for(database, pytest.fail, 0.1)
        assert is_busy(caught.value)
        wait_for(database, lambda: os.kill(maker, signal.SIGCONT), 30)
