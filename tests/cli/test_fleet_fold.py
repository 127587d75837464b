"""`fleet fold`: what it says, and how it ends."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache.eventstore.chain import link
from tests.cli.support import FAILED, NOT_FOUND, PROGRAM, Done, execute
from tests.fleet.randomlogs import new_file, random_log, ship

LOGS = [random_log(seed, 40) for seed in range(2)]


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A fleet in a file, of which nothing is folded."""
    path = tmp_path / "fleet.db"
    file = new_file(path)
    for rows in LOGS:
        ship(file, rows)
    return path


def said(done: Done) -> list[str]:
    """Return what was said, without how it is set."""
    return [" ".join(line.removeprefix("  ✓").split()) for line in done.err.splitlines()]


def test_what_was_shipped_is_folded_once(db: Path) -> None:
    done = execute("fleet", "fold", "--db", db)
    assert (done.code, done.out, said(done)) == (0, "", ["Folded 80 events of 2 logs"])
    done = execute("fleet", "--db", db, "fold")
    assert (done.code, said(done)) == (0, ["Folded nothing: all that was shipped is folded"])
    done = execute("fleet", "fold", "--db", db, "--rebuild", "host-1", "--format", "json")
    assert done.json == {"events": 40, "logs": 1, "stopped": []}
    assert execute("fleet", "fold", "--db", db, "--rebuild", "--quiet").out == "80\n"
    done = execute("fleet", "fold", "--db", db, "--rebuild", "nobody")
    assert done.code == NOT_FOUND
    assert "no host of the fleet is 'nobody'" in done.err


def test_a_log_that_stops_is_named_and_the_others_are_folded(db: Path) -> None:
    row = LOGS[0][20]
    row = (*row[:3], "image.teleported", *row[4:])
    changed = (row[3], link(LOGS[0][19][-1], row[1:-1]), row[0], row[1])
    with closing(sqlite3.connect(db)) as connection:
        connection.execute("UPDATE events SET type = ?, hash = ? WHERE log_id = ? AND seq = ?", changed)
        connection.commit()
    done = execute("fleet", "fold", "--db", db)
    assert done.code == FAILED
    assert said(done)[0] == "Folded 60 events of 2 logs"
    assert f"host-0 ({row[0][:12]}) is folded up to event 20: " in done.err
    assert "unknown type 'image.teleported'; a newer msb-cache can read it" in done.err
    again = execute("fleet", "fold", "--db", db, "--format", "json")
    assert again.code == FAILED
    (stopped,) = again.json["stopped"]
    assert {name: stopped[name] for name in ("host", "log_id", "folded_seq")} == {
        "host": "host-0",
        "log_id": row[0],
        "folded_seq": 20,
    }


def test_it_follows_until_it_is_stopped(db: Path) -> None:
    command = [PROGRAM, "fleet", "fold", "--follow", "--quiet", "--db", db]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        deadline = time.monotonic() + 30
        with closing(sqlite3.connect(db)) as connection:
            while connection.execute("SELECT sum(seq) FROM fold_state").fetchone() != (80,):
                assert time.monotonic() < deadline
                time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        out, _ = process.communicate(timeout=20)
    assert time.monotonic() - begun < 2
    assert (process.returncode, out) == (0, b"80\n")
