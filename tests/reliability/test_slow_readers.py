"""Who takes a log slowly keeps no other process from anything, and gets it as it was at the beginning."""

from __future__ import annotations

import array
import fcntl
import json
import subprocess
import termios
import time
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache.eventstore.ids import uuid7
from msb_cache.home.connect import open_database
from msb_cache.home.ledger import Ledger
from tests.cli.support import PROGRAM
from tests.logs import new_ledger, some_events

COUNT = 150


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = new_ledger(tmp_path / "home", [])
    with ledger.write(uuid7()) as transaction:
        transaction.append(some_events()[:2] * (COUNT // 2))
    return ledger


@pytest.mark.parametrize(
    "command",
    ["export", "events --format json", "replay --format json", "replay --format json --log {database}"],
)
def test_the_write_ahead_log_is_begun_anew_meanwhile(ledger: Ledger, command: str) -> None:
    home, database = ledger.layout.home, ledger.layout.database
    arguments = command.format(database=database).split()
    with subprocess.Popen([PROGRAM, "--home", home, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
            wait_until_full(process)
            for event in some_events()[:2] * 10:
                with ledger.write(uuid7()) as transaction:
                    transaction.append([event])
            with closing(open_database(ledger.layout, ledger.note)) as connection:
                connection.execute("PRAGMA busy_timeout = 0")
                busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            assert not busy, "a read is held open"
            assert Path(f"{database}-wal").stat().st_size == 0
            out = process.stdout.read()
        finally:
            process.kill()
    rows = json.loads(out) if out.startswith(b"[") else [json.loads(line) for line in out.splitlines()]
    assert [row["seq"] for row in rows] == [*range(1, COUNT + 2)]


def wait_until_full(process: subprocess.Popen[bytes]) -> None:
    """Until the process waits to write."""
    assert process.stdout is not None
    waiting = array.array("i", [0])
    deadline = time.monotonic() + 60
    while waiting[0] < 2048:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
        fcntl.ioctl(process.stdout, termios.FIONREAD, waiting)
