"""A home in which this user may not write: everything is read, nothing is written, and writing says so."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from msb_cache import ImageCache
from msb_cache.home import readonly
from tests.imagebuilder import docker_archive, sample
from tests.logs import new_ledger, some_events
from tests.trees import files_below

READING = {
    "list": "hello:1",
    "inspect hello:1": "Held by:         sandbox:dev",
    "history hello:1": "loaded",
    "events": "log.created",
    "holders": "sandbox:dev",
    "prunes": "remove",
    "prune --dry-run": "Keeps 1",
    "list --as-of @13": "hello:1",
    "why hello:1": "is here",
    "info": "Events",
    "sql select(image)from(v_images)": "hello:1",
    "verify": "0 missing or damaged",
    "export": "log.created",
    "checkpoint": "msb-cache/",
}
WRITING = (
    "load {archive}",
    "use hello:1",
    "hold hello:1 sandbox:x",
    "rm -f hello:1",
    "release sandbox:dev",
    "rebuild",
)


@pytest.fixture(params=["at rest", "with a write-ahead log"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Yield a home that only reading is allowed in, for everybody but root."""
    path = tmp_path / "home"
    (tmp_path / "archive.tar").write_bytes(docker_archive(sample("hello:1"), sample("gone:1", seed="x")))
    cache = ImageCache(path)
    cache.load(tmp_path / "archive.tar")
    cache.hold("hello:1", "sandbox:dev")
    cache.remove("gone:1")
    if request.param == "at rest":
        cache.close()
    else:
        shutil.copytree(path, tmp_path / "copy")  # as it is while somebody writes
        cache.close()
        shutil.rmtree(path)
        (tmp_path / "copy").rename(path)
        (path / "db" / "msb-cache.db-shm").unlink()
        assert (path / "db" / "msb-cache.db-wal").stat().st_size
    for found in [path, *path.rglob("*")]:
        found.chmod(0o555 if found.is_dir() else 0o444)
    tmp_path.chmod(0o755)
    yield path
    for found in [path, *path.rglob("*")]:
        found.chmod(found.stat().st_mode | stat.S_IWUSR)


@pytest.fixture
def call(home: Path, tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Return what runs the command as somebody who is not root."""

    def run(words: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("msb-cache")), "--home", str(home)]
        command += words.format(archive=tmp_path / "archive.tar").split()
        if os.geteuid() == 0:
            # Root may write anywhere because of these capabilities.
            without = "-dac_override,-dac_read_search,-fowner"
            command = ["setpriv", f"--bounding-set={without}", f"--inh-caps={without}", "--", *command]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)

    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root may write anywhere, and there is no setpriv to become less than that")
    return run


def test_a_copy_that_cannot_be_used_is_closed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    open_connections: Callable[[], list[sqlite3.Connection]],
) -> None:
    """Such as on a full disk: bringing the write-ahead log into the copy's file takes room."""

    class OnAFullDisk(sqlite3.Connection):
        def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
            if sql == "PRAGMA journal_mode = DELETE":
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(sql, parameters)

    ledger = new_ledger(tmp_path, some_events())  # open, so that there is a write-ahead log
    before = open_connections()
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=OnAFullDisk))
    with pytest.raises(sqlite3.OperationalError, match="full"):
        readonly.connect(ledger.layout.database)
    assert open_connections() == before


def test_all_of_it_is_read(home: Path, call: Callable[[str], subprocess.CompletedProcess[str]]) -> None:
    before = files_below(home, locks=True)
    for words, expected in READING.items():
        done = call(words)
        assert (done.returncode, done.stderr) == (0, ""), (words, done.stderr)
        assert expected in done.stdout, words
    assert files_below(home, locks=True) == before


@pytest.mark.parametrize("words", WRITING)
def test_writing_says_so(
    home: Path, call: Callable[[str], subprocess.CompletedProcess[str]], words: str
) -> None:
    before = files_below(home, locks=True)
    done = call(words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "cannot be written to" in done.stderr or "Permission denied" in done.stderr
    assert files_below(home, locks=True) == before
