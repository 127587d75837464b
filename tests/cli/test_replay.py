"""The commands that prove and carry the log: checkpoint, verify --against, export, import, replay."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from msb_cache.eventstore import chain
from tests.cli.conftest import Call
from tests.cli.support import execute, fingerprint, sentence, sql


@pytest.fixture
def exported(home: Path, call: Call, tmp_path: Path) -> Path:
    """The home's log as a file."""
    path = tmp_path / "log.jsonl"
    assert call("export", "-o", path).code == 0
    return path


@pytest.fixture
def note(home: Path, call: Call, tmp_path: Path) -> Path:
    """A note of the home's log as a file."""
    path = tmp_path / "note"
    path.write_bytes(call("checkpoint").raw)
    return path


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


class TestVerify:
    def test_a_log_that_went_on(self, home: Path, call: Call, note: Path) -> None:
        call("rm", "app:latest")
        done = call("verify", "--against", note)
        assert done.code == 0
        assert "the log begins with the note of 6 events" in done.out
        found = call("verify", "--against", note, "--format", "json").json
        assert found["against"] == {"size": 6, "extended": True, "problem": None}
        assert call("verify", "--format", "json").json["against"] is None

    def test_from_stdin(self, home: Path, note: Path) -> None:
        assert execute("verify", "--against", "-", stdin=note.read_bytes()).code == 0
        done = execute("verify", "--against", "-")
        assert done.code == 1
        assert "no checkpoint" in sentence(done.err)

    def test_another_log(self, home: Path, call: Call, note: Path, tmp_path: Path) -> None:
        call("--home", tmp_path / "other", "load", "-q", tmp_path / "app.tar")
        done = call("--home", tmp_path / "other", "verify", "--against", note)
        assert done.code == 1
        assert "✗ note     this is another log" in done.out
        found = call("--home", tmp_path / "other", "verify", "--against", note, "--format", "json").json
        assert (found["sound"], found["against"]["extended"]) == (False, False)

    def test_an_empty_home(self, own_home: Path, call: Call, tmp_path: Path) -> None:
        (tmp_path / "note").write_text(
            f"msb-cache checkpoint 1\nlog {'0' * 32}\nsize 5\nhead {'0' * 64}\n"
            "time 2026-11-23T15:07:25.461360370Z\n"
        )
        done = call("verify", "--against", tmp_path / "note")
        assert done.code == 1
        assert "there is no log, and the note is of 5 events" in done.out
        assert not own_home.exists()

    def test_a_log_without_its_end(self, home: Path, call: Call, note: Path) -> None:
        sql(home, "DROP TRIGGER events_no_delete", "DELETE FROM events WHERE seq > 4")
        before = fingerprint(home)
        assert "its end is gone" in sentence(call("list").err)
        done = call("verify", "--against", note)
        assert (done.code, done.err) == (1, "")
        assert "✗ log      its end is gone: it ends at event 4, and the index has had 6" in done.out
        assert "✗ note     the log has only 4 events, and the note is of 6" in done.out
        found = call("verify", "--format", "json").json["chain"]
        assert found["kind"] == "truncated"
        assert found["broken_at"] == 5
        assert fingerprint(home) == before

    def test_a_changed_event(self, home: Path, call: Call) -> None:
        sql(home, "DROP TRIGGER events_no_update", "UPDATE events SET actor = actor || ' ' WHERE seq = 3")
        done = call("verify")
        assert done.code == 1
        assert "event 3 does not match its hash: a column of it was changed" in done.out
        found = call("verify", "--format", "json").json["chain"]
        assert (found["valid"], found["broken_at"], found["kind"]) == (False, 3, "changed")
        assert "event 3 does not match" in sentence(call("checkpoint").err)

    @pytest.mark.parametrize("column", chain.COLUMNS[1:])
    def test_a_column_of_another_type(self, home: Path, call: Call, column: str) -> None:
        """Whatever reads the event says so in a sentence; verify names the column."""
        sql(
            home,
            "DROP TRIGGER events_no_update",
            f"UPDATE events SET {column} = CAST(seq AS BLOB) WHERE type = 'image.pulled'",
        )
        for command in ("events", "replay", "history app:1", "why app:1", "last-used", "export", "rebuild"):
            done = call(*command.split())
            assert done.code in (0, 1, 3)
            if done.code:
                sentence(done.err)
        done = call("verify")
        assert done.code == 1
        assert "was changed: its " in done.out
        assert f"its {column} is no" in done.out

    @pytest.mark.parametrize("content", [b"", b"hello", bytes(1000), "µ".encode() * 5000])
    def test_what_is_no_note(self, home: Path, call: Call, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "note").write_bytes(content)
        done = call("verify", "--against", tmp_path / "note")
        assert (done.code, done.raw) == (1, b"")
        assert "the note is no checkpoint" in sentence(done.err)

    def test_no_such_note(self, home: Path, call: Call, tmp_path: Path) -> None:
        for path in (tmp_path / "nowhere", tmp_path):
            done = call("verify", "--against", path)
            assert (done.code, done.raw) == (1, b"")
            assert str(path) in sentence(done.err)


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
        call("rm", "app:latest")
        tail = call("export", "--since-seq", "6").raw
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


class TestImport:
    def test_text_and_json(self, home: Path, call: Call, exported: Path, tmp_path: Path) -> None:
        done = call("--home", tmp_path / "one", "import", exported)
        assert (done.code, done.raw) == (0, b"")
        assert "Imported" in done.err
        assert "10 of the 10 files that the log names are not in" in done.err
        found = call("--home", tmp_path / "two", "import", exported, "--format", "json").json
        chain = call("verify", "--format", "json").json["chain"]
        assert found == {
            "log_id": chain["log_id"],
            "events": 6,
            "head": chain["head"],
            "files": 10,
            "files_missing": 10,
        }
        assert call("--home", tmp_path / "one", "list", "-q").lines == call("list", "-q").lines
        assert call("--home", tmp_path / "one", "rebuild").code == 0
        assert call("--home", tmp_path / "one", "verify").code == 1

    def test_from_stdin(self, home: Path, exported: Path, tmp_path: Path) -> None:
        done = execute("--home", tmp_path / "one", "import", "-", stdin=exported.read_bytes())
        assert done.code == 0
        done = execute("--home", tmp_path / "two", "import", "-")
        assert done.code == 1
        assert "no event in it" in sentence(done.err)
        assert not (tmp_path / "two").exists()

    def test_where_there_is_a_log(self, home: Path, call: Call, exported: Path) -> None:
        before = fingerprint(home)
        done = call("import", exported)
        assert (done.code, done.raw) == (1, b"")
        assert "has a log already; import into another --home" in sentence(done.err)
        assert fingerprint(home) == before

    @pytest.mark.parametrize(
        "content", [b"", b"hello\n", b"{}\n", b"\x00" * 100, b"SQLite format 3\0" + bytes(84)]
    )
    def test_what_is_no_export(self, own_home: Path, call: Call, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "log").write_bytes(content)
        done = call("import", tmp_path / "log")
        assert (done.code, done.raw) == (1, b"")
        sentence(done.err)
        assert not own_home.exists()

    def test_no_such_file(self, own_home: Path, call: Call, tmp_path: Path) -> None:
        for path in (tmp_path / "nowhere", tmp_path):
            done = call("import", path)
            assert (done.code, done.raw) == (1, b"")
            assert str(path) in sentence(done.err)
        assert not own_home.exists()

    def test_a_later_release(self, home: Path, call: Call, exported: Path, tmp_path: Path) -> None:
        exported.write_bytes(
            exported.read_bytes().replace(b'"image.pulled","version":1', b'"image.pulled","version":2')
        )
        done = call("--home", tmp_path / "one", "import", exported)
        assert done.code == 1
        assert "does not verify" in sentence(done.err)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_where_nothing_can_be_written(self, call: Call, exported: Path, tmp_path: Path) -> None:
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o500)
        done = call("--home", folder / "home", "import", exported)
        assert (done.code, done.raw) == (1, b"")
        assert "Permission denied" in sentence(done.err)


class TestReplay:
    def test_text(self, home: Path, call: Call) -> None:
        done = call("replay")
        assert (done.code, done.err) == (0, "")
        assert "log.created" in done.lines[0]
        assert any(line.strip().startswith("+ image docker.io/library/app:1") for line in done.lines)
        call("use", "app:1")
        last = call("replay", "--from", "7")
        assert "image.used" in last.lines[0]
        assert last.lines[1].split() == ["~", "image", "docker.io/library/app:1"]
        assert "last_used_at: " in last.lines[2]
        assert " → " in last.lines[2]

    def test_json(self, home: Path, call: Call) -> None:
        found = [json.loads(line) for line in call("replay", "--format", "json").lines]
        assert [{key: value for key, value in step.items() if key != "changes"} for step in found] == call(
            "events", "--format", "json"
        ).json
        (added,) = [change for change in found[2]["changes"] if change["table"] == "image"]
        assert added["before"] is None
        assert added["after"]["reference"] == added["key"][0] == found[2]["subject"]

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
        assert (done.code, done.out) == (0, "At event 6 the state is exactly what the log says.\n")
        call("hold", "app:1", "sandbox:dev")
        sql(home, "DELETE FROM hold", "UPDATE layer SET erofs_bytes = 5")
        path = home / "db" / "msb-cache.db"
        done = call("replay", "--until-diff", path)
        assert (done.code, done.err) == (1, "")
        assert done.lines[0] == "The state went wrong at event 2, which does this:"
        assert "hold" in done.out
        assert "since event 7" in done.out
        assert "erofs_bytes: the log says" in done.out
        found = call("replay", "--until-diff", path, "--format", "json").json
        assert (found["seq"], found["first"]["seq"]) == (7, 2)
        assert [(each["since"], each["table"]) for each in found["differences"]][-1] == (7, "hold")
        assert found["differences"][-1]["state"] is None
        assert found["differences"][-1]["log"]["holder"] == "sandbox:dev"

    def test_the_state(self, home: Path, call: Call) -> None:
        found = call("replay", "--state", "--to", "3").json
        assert (found["kind"], found["seq"]) == ("msb-cache state", 3)
        assert [row[0] for row in found["tables"]["image"]] == ["docker.io/library/app:1"]
        assert found["hash"] == call("events", "-n", "3", "--format", "json").json[-1]["hash"]

    def test_a_log_that_does_not_verify(self, home: Path, call: Call, exported: Path) -> None:
        lines = [json.loads(line) for line in exported.read_bytes().splitlines()]
        lines[3]["subject"] = "docker.io/library/other:1"
        exported.write_text("".join(json.dumps(line) + "\n" for line in lines))
        done = call("replay", "--log", exported)
        assert done.code == 0
        assert done.err == "note: the log does not verify: the hash of event 4 does not match its contents\n"
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
