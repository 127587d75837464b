"""What a person says about the log itself: that it was put back; and that it goes on under another id."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.support import Call, execute, fingerprint, on_terminal, sentence
from tests.proof.signing import keep_signed, new_log_key


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


class TestAnew:
    def test_it_goes_on_under_a_new_id(self, home: Path, call: Call) -> None:
        before = call("info", "--format", "json").json
        listed = call("list", "--format", "json").json
        done = call("log", "anew", "--yes", "--reason", "cloned")
        assert done.code == 0
        after = call("info", "--format", "json").json
        assert after["log_id"] != before["log_id"]
        assert after["events"] == before["events"]
        assert "Begun anew" in done.out + done.err
        assert f"log {after['log_id']}" in done.out + done.err
        assert f"the log before, {before['log_id']}, is in {home}/db/set-aside/" in done.err
        assert "signed" not in done.err
        assert call("list", "--format", "json").json == listed
        first = call("events", "--type", "log.created", "--format", "json").json[0]
        assert first["data"]["previous_log_id"] == before["log_id"]
        assert first["actor"]["reason"] == "cloned"
        assert f"from the {before['events']} events of log" in call("events", "--type", "log.created").out

    def test_json(self, home: Path, call: Call) -> None:
        keep_signed(home / "db" / "msb-cache.db", new_log_key())
        before = call("info", "--format", "json").json
        found = call("log", "anew", "-y", "--format", "json")
        assert found.code == 0
        after = call("info", "--format", "json").json
        assert found.json["log_id"] == after["log_id"]
        assert found.json["previous_log_id"] == before["log_id"]
        assert found.json["checkpoints"] == 1
        assert Path(found.json["set_aside"], "msb-cache.db").is_file()

    def test_signed_checkpoints_are_told_of(self, home: Path, call: Call) -> None:
        keep_signed(home / "db" / "msb-cache.db", new_log_key())
        done = call("log", "anew", "-y")
        assert "1 signed checkpoint of the log before went with it; sign the new one with a key" in done.err
        assert call("verify").code == 0

    def test_it_asks(self, home: Path, call: Call) -> None:
        before = fingerprint(home)
        done = execute("log", "anew")
        assert (done.code, done.out) == (2, "")
        assert "nobody to ask: stdin is no terminal; use --yes" in sentence(done.err)
        assert fingerprint(home) == before

    @pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 1), (b"\x03", 130)])
    def test_the_answer(self, home: Path, answer: bytes, code: int) -> None:
        before = fingerprint(home)
        asked = b"under a new id? [y/N]: "
        talk = on_terminal(["log", "anew"], [(asked.decode(), answer)])
        assert talk.code == code
        assert (fingerprint(home) == before) == (code != 0)
