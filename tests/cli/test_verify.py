"""What verify finds in the log, the index and on the disk, and against a note."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest

from msb_cache.eventstore import chain
from tests.cli.support import APP, Call, execute, fingerprint, sentence, sql
from tests.flatroots import add


def _layer(home: Path) -> Path:
    return home / "cache" / "layers" / f"{APP.layers[1].diff_id.replace(':', '_')}.erofs"


class TestVerify:
    def test_sound(self, home: Path, call: Call) -> None:
        done = call("verify")
        assert (done.code, done.err) == (0, "")
        assert [line.split()[:2] for line in done.lines] == [
            *(["✓", "log"], ["✓", "schema"], ["✓", "index"], ["✓", "disk"])
        ]
        shown = call("verify", "--format", "json").json
        assert (shown["sound"], shown["chain"]["valid"]) == (True, True)
        assert (shown["differences"], shown["disk"]) == ([], [])
        # metadata of three references, fsmeta and VMDK of two images, three layers
        assert shown["files"] == 3 + 2 * 2 + 3

    def test_missing(self, home: Path, call: Call) -> None:
        for folder in ("layers", "fsmeta", "vmdk", "manifests"):
            files = sorted((home / "cache" / folder).iterdir())
            path = next(each for each in files if each.is_file() and each.suffix != ".lock")
            path.unlink()
            done = call("verify")
            assert done.code == 1
            assert f"{path.name} is missing" in done.out
        problems = call("verify", "--format", "json").json["disk"]
        assert [problem["problem"] for problem in problems] == ["missing"] * 4
        assert {problem["kind"] for problem in problems} == {"layer", "fsmeta", "vmdk", "metadata"}

    def test_truncated(self, home: Path, call: Call) -> None:
        size = _layer(home).stat().st_size
        os.truncate(_layer(home), 4096)
        done = call("verify")
        assert done.code == 1
        assert f"{_layer(home).name} has 4,096 bytes, not {size:,}" in done.out
        [problem] = call("verify", "--format", "json").json["disk"]
        assert (problem["problem"], problem["expected_bytes"], problem["found_bytes"]) == ("size", size, 4096)

    def test_extra(self, home: Path, call: Call) -> None:
        extra = home / "cache" / "fsmeta" / f"sha256_{'0' * 64}.erofs"
        extra.write_bytes(b"x")
        foreign = home / "cache" / "layers" / "notes.txt"
        foreign.touch()
        done = call("verify")
        assert done.code == 0
        assert f"{extra.name}: no image names it; `msb-cache prune --orphans-only` deletes it" in done.out
        assert f"{foreign.name}: not a file of the cache" in done.out
        found = {each["problem"] for each in call("verify", "--format", "json").json["disk"]}
        assert found == {"extra", "foreign"}

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE events SET data = replace(data, 'archive', 'registry') WHERE seq = 9",
            "UPDATE events SET occurred_at = occurred_at + 1 WHERE seq = 2",
            "UPDATE events SET actor = json_set(actor, '$.user', 'nobody') WHERE seq = 3",
            "UPDATE events SET hash = zeroblob(32) WHERE seq = 4",
            "DELETE FROM events WHERE seq = 3",
        ],
    )
    def test_a_changed_event(self, home: Path, call: Call, change: str) -> None:
        triggers = sql(home, "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'events'")
        sql(home, *(f'DROP TRIGGER "{name}"' for (name,) in triggers), change)
        done = call("verify", "--format", "json")
        assert done.code == 1
        assert done.json["sound"] is False
        assert done.json["chain"]["valid"] is False
        assert done.json["chain"]["broken_at"] in (2, 3, 4, 9)
        table = call("verify")
        assert table.code == 1
        assert "✗ log" in table.out

    @pytest.mark.parametrize("change", ["UPDATE events SET version = 2", "DELETE FROM events"])
    def test_the_log_refuses_changes(self, home: Path, change: str) -> None:
        with pytest.raises(sqlite3.IntegrityError):
            sql(home, change)

    def test_without_a_home(self, own_home: Path, call: Call) -> None:
        for words in ([], ["--format", "json"], ["--data"]):
            done = call("verify", *words)
            assert (done.code, done.out) == (3, "")
            assert sentence(done.err) == f"the home {own_home} does not exist, so nothing can be verified"
        assert not own_home.exists()
        own_home.mkdir()
        done = call("verify")
        assert done.code == 0
        assert "0 events" in done.out
        assert json.loads(call("verify", "--format", "json").raw)["sound"] is True


@pytest.fixture
def note(home: Path, call: Call, tmp_path: Path) -> Path:
    """A note of the home's log as a file."""
    path = tmp_path / "note"
    path.write_bytes(call("checkpoint").raw)
    return path


class TestAgainst:
    def test_a_log_that_went_on(self, home: Path, call: Call, note: Path) -> None:
        call("rm", "app:latest")
        done = call("verify", "--against", note)
        assert done.code == 0
        assert "the log begins with the note of 16 events" in done.out
        found = call("verify", "--against", note, "--format", "json").json
        assert found["against"] == {"size": 16, "extended": True, "problem": None}
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
        assert call("verify", "--against", tmp_path / "note").code == 3
        own_home.mkdir()
        done = call("verify", "--against", tmp_path / "note")
        assert done.code == 1
        assert "there is no log, and the note is of 5 events" in done.out

    def test_a_log_without_its_end(self, home: Path, call: Call, note: Path) -> None:
        sql(home, "DROP TRIGGER events_no_delete", "DELETE FROM events WHERE seq > 10")
        before = fingerprint(home)
        assert "its end is gone" in sentence(call("list").err)
        done = call("verify", "--against", note)
        assert (done.code, done.err) == (1, "")
        assert "✗ log      its end is gone: it ends at event 10, and the index has had 16" in done.out
        assert "✗ note     the log has only 10 events, and the note is of 16" in done.out
        found = call("verify", "--format", "json").json["chain"]
        assert found["kind"] == "truncated"
        assert found["broken_at"] == 11
        assert fingerprint(home) == before

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


class TestWhatChanged:
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
        [(trigger,)] = sql(home, "SELECT sql FROM sqlite_master WHERE name = 'events_no_update'")
        sql(
            home,
            "DROP TRIGGER events_no_update",
            f"UPDATE events SET {column} = CAST(seq AS BLOB) WHERE type = 'image.pulled'",
            trigger,
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


class TestInAHomeThatMsbKeeps:
    def test_verify_does_not_call_the_files_of_msb_orphans(self, home: Path, call: Call) -> None:
        (home / "db" / "msb-cache.db").unlink()
        (home / "db" / "msb.db").touch()
        assert "--orphans" not in call("verify").out


class TestFlatRoots:
    def test_what_is_wrong_with_one(self, home: Path, call: Call) -> None:
        ref = add(home, APP.digest)
        assert call("verify").code == 0
        blob = next((home / "cache" / "flat" / "blobs").iterdir())
        os.truncate(blob, 5)
        done = call("verify")
        assert done.code == 1
        assert (
            f"flat/blobs/{blob.name} has 5 bytes, not 1,048,576; delete the file, and `msb pull " in done.out
        )
        ref.write_bytes(b'{"uuid":"\x1b[2J"}')
        done = call("verify")
        assert f"flat/refs/{ref.name} is damaged; delete the file" in done.out
        assert "\x1b" not in done.out


class TestData:
    @pytest.fixture(autouse=True)
    def home(self, loaded: Path) -> Path:
        """A home that lies where it was made: the VMDKs of a copy are others."""
        return loaded

    def test_sound(self, home: Path, call: Call) -> None:
        done = call("verify", "--data")
        assert (done.code, done.err) == (0, "")
        files = [path for path in (home / "cache").rglob("*") if path.suffix in (".json", ".erofs", ".vmdk")]
        assert done.lines[-1].startswith(f"  ✓ data     {len(files)} files read, ")
        assert done.lines[-1].endswith(", 0 altered")
        data = call("verify", "--data", "--format", "json").json["data"]
        assert (data["files"], data["bytes"]) == (len(files), sum(path.stat().st_size for path in files))
        assert (data["left_out"], data["digested"], data["rewritten"]) == (0, [], [])
        assert data["oldest"] is not None
        assert call("verify", "--format", "json").json["data"] is None

    def test_altered(self, home: Path, call: Call) -> None:
        content = _layer(home).read_bytes()
        at = len(content) // 2
        _layer(home).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        done = call("verify", "--data")
        assert done.code == 1
        (line,) = [line for line in done.lines if "is not as it was" in line]
        assert _layer(home).name in line
        assert "`msb-cache pull --policy always app:" in line
        assert done.lines[-1].startswith("  ✗ data  ")
        assert done.lines[-1].endswith(", 1 altered")
        [problem] = call("verify", "--data", "--format", "json").json["disk"]
        assert (problem["problem"], problem["kind"]) == ("altered", "layer")

    def test_a_part(self, call: Call) -> None:
        call("verify", "--data")
        done = call("verify", "--data", "--max-age", "1h")
        assert "0 files read" in done.lines[-1]
        assert "files left out" in done.lines[-1]
        data = call("verify", "--data", "--sample", "10%", "--format", "json").json["data"]
        assert 0 < data["files"] < data["files"] + data["left_out"]

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--sample", "5%"), "say what --data reads"),
            (("--max-age", "5d"), "say what --data reads"),
            *(
                (("--data", "--sample", part), "write a part of 100")
                for part in ("0", "101", "x", "-1", "", "5%%")
            ),
            (("--data", "--max-age", "x"), "is no duration"),
        ],
    )
    def test_bad_input(self, call: Call, arguments: tuple[str, ...], says: str) -> None:
        done = call("verify", *arguments)
        assert (done.code, done.out) == (2, "")
        assert says in sentence(done.err)
