"""The log put back to a backup."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.support import Call, sentence


class TestRestoreBackup:
    def test_there_and_back(self, home: Path, call: Call, tmp_path: Path) -> None:
        backup = tmp_path / "log.db"
        events = call("backup", backup, "--format", "json").json["events"]
        for _ in range(2):
            call("use", "app:1")
        refused = call("restore-backup", backup)
        assert refused.code == 1
        assert "say --discard-events 2" in sentence(refused.err)
        done = call("restore-backup", backup, "--discard-events", 2)
        assert (done.code, done.out) == (0, "")
        assert f"{events} events; 2 events lost" in done.err
        (kept,) = (home / "db" / "set-aside").iterdir()
        assert str(kept) in done.err
        assert "Restored:" in call("info").out
        orphans = call("prune", "--orphans", "--yes")
        assert orphans.code == 1
        assert "restore-backup --confirm" in sentence(orphans.err)
        confirmed = call("restore-backup", "--confirm")
        assert (confirmed.code, confirmed.out) == (0, "")
        assert call("restore-backup", "--confirm").code == 1
        assert "Restored:" not in call("info").out
        told = call("events", "--type", "log.restored").out
        assert f"to a backup of {events} events, 2 events lost" in told

    def test_json(self, home: Path, call: Call, tmp_path: Path) -> None:
        backup = tmp_path / "log.db"
        report = call("backup", backup, "--format", "json").json
        found = call("restore-backup", backup, "--format", "json").json
        assert found["events"] == report["events"]
        assert found["events_lost"] == 0
        assert (Path(found["set_aside"]) / "msb-cache.db").is_file()
        assert call("restore-backup", "--confirm", "--format", "json").json == {"confirmed": True}
        assert call("restore-backup", "--confirm", "--format", "json").json == {"confirmed": False}

    @pytest.mark.parametrize(
        "arguments",
        [[], ["--confirm", "log.db"], ["--confirm", "--discard-events", "1"], ["--discard-events", "0"]],
    )
    def test_what_makes_no_sense(self, home: Path, call: Call, arguments: list[str]) -> None:
        assert call("restore-backup", *arguments).code == 2
