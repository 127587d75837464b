"""The log as JSON Lines, and what is wrong with where it goes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

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

    def test_formats_of_others(self, home: Path, call: Call, exported: Path, tmp_path: Path) -> None:
        events = call("events", "--format", "json").json
        lines = call("export", "--format", "cloudevents").lines
        assert [json.loads(line)["id"] for line in lines] == [each["id"] for each in events]
        batch = call("export", "--format", "cloudevents-batch", "--since-seq", "1").json
        assert [each["id"] for each in batch] == [each["id"] for each in events[1:]]
        assert len(call("export", "--format", "csv").raw.split(b"\r\n")) == len(events) + 2
        path = tmp_path / "log.parquet"
        done = call("export", "--format", "parquet", "--no-people", "-o", path)
        assert (done.code, done.raw) == (0, b"")
        assert f"{path}  {len(events)} events" in done.err
        assert call("export", "--format", "csv", "-q", "-o", path).out == f"{path}\n"

    def test_parquet_is_no_text(self, home: Path, call: Call, exported: Path) -> None:
        done = call("export", "--format", "parquet")
        assert done.code == 2
        assert "name one with -o FILE" in sentence(done.err)

    def test_a_terminal_is_not_driven(
        self, home: Path, call: Call, exported: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        call("pin", "app", "--reason", "\x1b[31m")
        assert "\x1b" in call("export", "--format", "csv").raw.decode()
        monkeypatch.setattr("msb_cache.cli.look.on_terminal", lambda stream: True)
        shown = call("export", "--format", "csv").raw.decode()
        assert "\x1b" not in shown
        assert "\\x1b[31m" in shown
