"""What a person says about the log itself: that it was put back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.support import Call


@pytest.fixture
def put_back(home: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a note of the home's log, and put that back to an earlier one."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    shutil.copytree(home, tmp_path / "older")
    assert call("use", "app:1").code == 0
    shutil.rmtree(home)
    shutil.copytree(tmp_path / "older", home)


@pytest.mark.usefixtures("put_back")
class TestAcknowledge:
    def test_commands_say_so_until_it_is_known(self, call: Call) -> None:
        listed = call("list")
        assert listed.code == 0
        assert "was put back" in listed.err
        assert listed.err.count("\n") == 1
        verified = call("verify")
        assert verified.code == 1
        assert "log acknowledge" in verified.out
        assert call("verify", "--format", "json").json["head_note"]["problem"] == "behind"
        done = call("log", "acknowledge")
        assert done.code == 0
        assert "Acknowledged" in done.out + done.err
        assert call("list").err == ""
        assert call("verify").code == 0
        assert "log.acknowledged" in call("events", "-n", "1", "--reverse").out

    def test_json(self, call: Call) -> None:
        found = call("log", "acknowledge", "--format", "json")
        assert found.code == 0
        assert found.json["acknowledged"] is True
        assert found.json["problem"] == "behind"
        again = call("log", "acknowledge", "--format", "json")
        assert again.code == 1
        assert again.json == {"acknowledged": False, "problem": None, "events": None}
