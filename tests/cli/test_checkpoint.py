"""The note that fixes the log as it is."""

from __future__ import annotations

from pathlib import Path

from tests.cli.support import Call, sentence


class TestCheckpoint:
    def test_text_and_json(self, home: Path, call: Call) -> None:
        done = call("checkpoint")
        assert (done.code, done.err) == (0, "")
        found = call("checkpoint", "--format", "json").json
        chain = call("verify", "--format", "json").json["chain"]
        assert done.out == found["note"]
        assert (found["log_id"], found["size"], found["head"]) == (
            chain["log_id"],
            chain["events"],
            chain["head"],
        )
        last = call("events", "--reverse", "-n", "1", "--format", "json").json[0]
        assert found["recorded_at"] == last["recorded_at"]

    def test_an_empty_home(self, own_home: Path, call: Call) -> None:
        done = call("checkpoint")
        assert (done.code, done.raw) == (1, b"")
        assert "has no log yet" in sentence(done.err)
        assert not own_home.exists()
