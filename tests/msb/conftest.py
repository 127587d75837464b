"""Processes beside the tests: what the kernel tells of them needs root."""

from __future__ import annotations

import functools
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msb_cache.artifacts.layout import Layout
from msb_cache.msb.fanotify import Listener


@functools.cache
def _tells() -> bool:
    try:
        Listener().close()
    except OSError:
        return False
    return os.geteuid() == 0


needs_fanotify = pytest.mark.skipif(
    not _tells() and os.environ.get("MSB_CACHE_REQUIRE_PEERS") != "1",
    reason="the kernel tells only root who writes",
)

_PROGRAM = """
import mmap, os, sqlite3, sys
uid, path = int(sys.argv[1]), sys.argv[2]
os.setgroups([]); os.setgid(uid); os.setuid(uid)
found = {}
def open_(path=path):
    found["it"] = sqlite3.connect(path, isolation_level=None, timeout=10)
    found["it"].execute("SELECT count(*) FROM t").fetchone()
def run(text):
    found["it"].execute(text)
def close():
    found.pop("it").close()
def leave_mapped():
    found["file"] = open(path, "r+b")
    found["map"] = mmap.mmap(found["file"].fileno(), 0)
    if os.fork():
        os._exit(0)
for line in sys.stdin:
    exec(line)
    print(os.getpid(), flush=True)
"""


class Other:
    """Another process, of a user without an account, that uses a database as it is told."""

    def __init__(self, uid: int, path: Path) -> None:
        self.uid = uid
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(uid), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self("pass")

    def __call__(self, line: str) -> None:
        """Have it run a line of Python, and wait until that is done."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline()

    def write(self) -> None:
        self("run('INSERT INTO t VALUES (1)')")

    def end(self) -> None:
        """End it, and what it left behind."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.stdin.closed:
            return
        self._process.stdin.close()
        self._process.wait(10)
        assert self._process.stdout.read() == ""  # until the last one has closed its end
        self._process.stdout.close()


Start = Callable[[int], Other]


@pytest.fixture
def layout() -> Iterator[Layout]:
    """A home in which everybody may write, with a database as msb leaves it: with a log beside it."""
    with tempfile.TemporaryDirectory(prefix="msb-cache-test-") as folder:
        layout = Layout(Path(folder) / "home")
        layout.db.mkdir(parents=True)
        make_database(layout)
        yield layout


def make_database(layout: Layout) -> None:
    path = layout.msb_database
    keeper = sqlite3.connect(path, isolation_level=None)
    keeper.execute("PRAGMA journal_mode = WAL")
    keeper.execute("CREATE TABLE t (x)")
    left = {name: Path(f"{path}{name}").read_bytes() for name in ("-wal", "-shm")}
    keeper.close()
    for name, content in left.items():
        Path(f"{path}{name}").write_bytes(content)
    for each in (layout.db.parent.parent, layout.db.parent, layout.db, *layout.db.iterdir()):
        each.chmod(0o777)


@pytest.fixture
def start(layout: Layout) -> Iterator[Start]:
    """Starts other processes, which end with the test."""
    started: list[Other] = []

    def start(uid: int) -> Other:
        started.append(Other(uid, layout.msb_database))
        return started[-1]

    yield start
    for each in started:
        each.end()
