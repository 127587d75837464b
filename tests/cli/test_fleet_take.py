"""The command `fleet take`: exports of many hosts become a fleet that needs no server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.carrying import lived_in
from tests.cli.support import FAILED, USAGE, Call, execute
from tests.fleet.exports import exported

WITHOUT_PSYCOPG = "import sys; sys.modules['psycopg'] = None; from msb_cache.cli.main import main; main()"


@pytest.fixture
def exports(tmp_path: Path) -> Path:
    folder = tmp_path / "exports"
    folder.mkdir()
    for name in ("ci-1", "ci-2"):
        (folder / f"{name}.jsonl").write_bytes(exported(lived_in(tmp_path / name)))
    return folder


def test_it_takes_what_is_new(call: Call, exports: Path, tmp_path: Path) -> None:
    db = tmp_path / "fleet.db"
    took = call("fleet", "--db", db, "take", exports)
    assert (took.code, took.raw) == (0, b"")
    assert [line.split()[:4] for line in took.err.splitlines()] == [["✓", "Took", "30", "events"]] * 2
    again = call("fleet", "take", exports / "ci-2.jsonl", "--db", db)
    assert (again.code, again.err.split()[:5]) == (0, ["✓", "Took", "nothing", "new", "of"])


def test_what_is_refused_is_told_and_the_rest_taken(call: Call, exports: Path, tmp_path: Path) -> None:
    bad = exports / "ci-1.jsonl"
    bad.write_bytes(bad.read_bytes()[:-1])
    done = call("fleet", "--db", tmp_path / "fleet.db", "take", exports, "--format", "json")
    assert done.code == FAILED
    assert done.err == f"error: {bad} was not taken: line 30, the last, is cut off: it has no line feed\n"
    refused, taken = done.json
    assert [*taken] == ["path", "log_id", "host", "events", "new", "size", "problem"]
    assert (taken["events"], taken["new"], taken["size"], taken["problem"]) == (30, 30, 30, None)
    assert (refused["path"], refused["new"], refused["size"]) == (str(bad), 0, None)
    names = call("fleet", "--db", tmp_path / "fleet.db", "take", exports, "-q")
    assert (names.code, names.lines) == (FAILED, [refused["log_id"], taken["log_id"]])


def test_what_makes_no_sense(call: Call, exports: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none.db"
    for arguments, sentence in (
        (("--db", missing, "take", tmp_path / "none"), f"there is no {tmp_path / 'none'}; name exports"),
        (
            ("--db", missing, "events"),
            f"there is no fleet at {missing}; `msb-cache fleet --db FILE",
        ),
        (
            ("--db", exports / "ci-1.jsonl", "take", exports),
            "is no fleet of msb-cache; give --db",
        ),
        (("--dsn", "host=none", "take", exports), "exports are taken into a file, which --db names"),
        (("--db", missing, "take"), "Missing argument"),
    ):
        done = call("fleet", *arguments)
        assert (done.code, sentence in done.err) == (USAGE, True), done.err
    assert not missing.exists()


def test_it_needs_no_driver_of_a_server(exports: Path, tmp_path: Path) -> None:
    for arguments in (("take", exports), ("events", "--limit", "1")):
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_PSYCOPG, "fleet", "--db", tmp_path / "fleet.db", *arguments],
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout


def test_as_a_program(exports: Path, tmp_path: Path) -> None:
    done = execute("fleet", "--db", tmp_path / "fleet.db", "take", exports)
    assert done.code == 0
    found = execute("fleet", "--db", tmp_path / "fleet.db", "history", "app:1", "--format", "jsonl")
    assert (found.code, len({line.split('"log_id":"')[1][:32] for line in found.lines})) == (0, 2)
