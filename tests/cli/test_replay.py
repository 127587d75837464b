"""What each event does to the index, and where a state left the log."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import Call, fingerprint, sentence, sql


class TestReplay:
    def test_text(self, home: Path, call: Call) -> None:
        done = call("replay")
        assert (done.code, done.err) == (0, "")
        assert "log.created" in done.lines[0]
        assert any(line.strip().startswith("+ image docker.io/library/app:1") for line in done.lines)
        call("use", "app:1")
        last = call("replay", "--from", "17")
        assert "image.used" in last.lines[0]
        assert last.lines[1].split() == ["~", "image", "docker.io/library/app:1"]
        assert "last_used_at: " in last.lines[2]
        assert " → " in last.lines[2]

    def test_json(self, home: Path, call: Call) -> None:
        found = [json.loads(line) for line in call("replay", "--format", "json").lines]
        assert [{key: value for key, value in step.items() if key != "changes"} for step in found] == call(
            "events", "--format", "json"
        ).json
        pulled = next(step for step in found if step["type"] == "image.pulled")
        (added,) = [change for change in pulled["changes"] if change["table"] == "image"]
        assert added["before"] is None
        assert added["after"]["reference"] == added["key"][0] == pulled["subject"]

    def test_a_part(self, home: Path, call: Call) -> None:
        found = [
            json.loads(line)["seq"]
            for line in call("replay", "--from", "2", "--to", "4", "--format", "json").lines
        ]
        assert found == [2, 3, 4]
        done = call("replay", "--from", "100")
        assert (done.code, done.raw, done.err) == (0, b"", "No such events.\n")

    def test_another_log(self, home: Path, call: Call, exported: Path, tmp_path: Path) -> None:
        sql(home, "PRAGMA wal_checkpoint(TRUNCATE)")
        copy = shutil.copy(home / "db" / "msb-cache.db", tmp_path / "copy.db")
        mine = call("replay").raw
        for path in (exported, copy):
            assert call("--home", tmp_path / "none", "replay", "--log", path).raw == mine
        assert not (tmp_path / "none").exists()
        assert sorted(path.name for path in tmp_path.glob("copy.db*")) == ["copy.db"]

    def test_until_diff(self, home: Path, call: Call, tmp_path: Path) -> None:
        state = tmp_path / "state.json"
        state.write_bytes(call("replay", "--state").raw)
        done = call("replay", "--until-diff", state)
        assert (done.code, done.out) == (0, "At event 16 the state is exactly what the log says.\n")
        call("hold", "app:1", "sandbox:dev")
        sql(home, "DELETE FROM hold", "UPDATE layer SET erofs_bytes = 5")
        path = home / "db" / "msb-cache.db"
        done = call("replay", "--until-diff", path)
        assert (done.code, done.err) == (1, "")
        assert done.lines[0] == "The state went wrong at event 8, which does this:"
        assert "hold" in done.out
        assert "since event 17" in done.out
        assert "erofs_bytes: the log says" in done.out
        found = call("replay", "--until-diff", path, "--format", "json").json
        assert (found["seq"], found["first"]["seq"]) == (17, 8)
        assert [(each["since"], each["table"]) for each in found["differences"]][-1] == (17, "hold")
        assert found["differences"][-1]["state"] is None
        assert found["differences"][-1]["log"]["holder"] == "sandbox:dev"

    def test_the_state(self, home: Path, call: Call) -> None:
        found = call("replay", "--state", "--to", "9").json
        assert (found["kind"], found["seq"]) == ("msb-cache state", 9)
        assert [row[0] for row in found["tables"]["image"]] == ["docker.io/library/app:1"]
        assert found["hash"] == call("events", "--until", "@9", "--format", "json").json[-1]["hash"]

    def test_a_log_that_does_not_verify(self, home: Path, call: Call, exported: Path) -> None:
        lines = [json.loads(line) for line in exported.read_bytes().splitlines()]
        lines[9]["subject"] = "docker.io/library/other:1"
        written = (json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\n" for line in lines)
        exported.write_text("".join(written))
        done = call("replay", "--log", exported)
        assert done.code == 0
        assert done.err == "note: the log does not verify: the hash of event 10 does not match its contents\n"
        assert "+ image docker.io/library/other:1" in done.out

    def test_an_empty_home(self, own_home: Path, call: Call) -> None:
        for words in (["replay"], ["replay", "--state"]):
            done = call(*words)
            assert (done.code, done.raw) == (1, b"")
            assert "has no log yet" in sentence(done.err)
        assert not own_home.exists()

    @pytest.mark.parametrize("option", ["--log", "--until-diff"])
    def test_files_that_are_none(self, home: Path, call: Call, tmp_path: Path, option: str) -> None:
        bad: dict[str, Any] = {
            "empty": b"",
            "text": b"hello\n",
            "zeros": bytes(5000),
            "magic": b"SQLite format 3\0",
        }
        for name, content in bad.items():
            (tmp_path / name).write_bytes(content)
        before = fingerprint(home)
        for name in (*bad, "nowhere", "."):
            done = call("replay", option, tmp_path / name)
            assert (done.code, done.raw) == (1, b""), name
            sentence(done.err)
        assert fingerprint(home) == before
