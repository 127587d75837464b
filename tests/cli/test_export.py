"""The log as JSON Lines, and what is wrong with where it goes."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.cli.support import Call, sentence


class TestExport:
    def test_to_stdout_and_a_file(self, home: Path, call: Call, exported: Path) -> None:
        done = call("export")
        assert (done.code, done.err) == (0, "")
        assert done.raw == exported.read_bytes()
        told = [json.loads(line) for line in done.lines]
        events = call("events", "--format", "json").json
        assert [(line["seq"], line["hash"]) for line in told] == [
            (each["seq"], each["hash"]) for each in events
        ]
        assert [json.loads(line["data"]) for line in told] == [each["data"] for each in events]

    def test_the_tail(self, home: Path, call: Call, exported: Path) -> None:
        end = json.loads(call("export").lines[-1])["seq"]
        call("rm", "app:latest")
        tail = call("export", "--since-seq", str(end)).raw
        assert exported.read_bytes() + tail == call("export").raw
        done = call("export", "--since-seq", "1000")
        assert (done.code, done.raw) == (1, b"")
        assert "the log ends at event" in sentence(done.err)

    def test_where_nothing_can_be_written(self, home: Path, call: Call, tmp_path: Path) -> None:
        before = sorted(os.listdir(tmp_path))
        for path in (tmp_path, tmp_path / "no" / "folder", tmp_path / "app.tar" / "x"):
            done = call("export", "-o", path)
            assert (done.code, done.raw) == (1, b"")
            assert ".part" not in sentence(done.err)
        assert sorted(os.listdir(tmp_path)) == before

    def test_an_empty_home(self, own_home: Path, call: Call, tmp_path: Path) -> None:
        done = call("export", "-o", tmp_path / "out")
        assert done.code == 1
        assert "nothing to export" in sentence(done.err)
        assert not (tmp_path / "out").exists()
