"""The log in a file of its own."""

from __future__ import annotations

from pathlib import Path

from tests.cli.support import Call, sentence


class TestBackup:
    def test_text_and_json(self, home: Path, call: Call, tmp_path: Path) -> None:
        target = tmp_path / "log.db"
        done = call("backup", target)
        note = call("checkpoint", "--format", "json").json
        assert (done.code, done.out) == (0, "")
        assert f"{note['size']} events, head {note['head'][:12]}" in done.err
        found = call("backup", target, "--format", "json").json
        assert found == {
            "path": str(target),
            "log_id": note["log_id"],
            "events": note["size"],
            "head": note["head"],
            "bytes": target.stat().st_size,
        }

    def test_an_empty_home(self, own_home: Path, call: Call, tmp_path: Path) -> None:
        done = call("backup", tmp_path / "log.db")
        assert (done.code, done.raw) == (1, b"")
        assert "has no log yet" in sentence(done.err)
        assert not own_home.exists()
