"""What verify finds in the log, the index and on the disk, and against a note."""

from __future__ import annotations

import json
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache.eventstore import chain
from msb_cache.eventstore.merkle import Frontier, leaf_hash
from msb_cache.proof import kept
from msb_cache.proof.chain_note import ChainNote
from msb_cache.proof.note import Note
from msb_cache.proof.note_file import append
from msb_cache.proof.tree_head import TreeHead
from tests.cli.support import APP, Call, execute, fingerprint, sentence, sql
from tests.flatroots import add
from tests.proof.signing import checkpoint as signed_checkpoint
from tests.proof.signing import cosign, new_log_key, new_witness_key, sign


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


@pytest.fixture
def old_note(home: Path, call: Call, tmp_path: Path) -> Path:
    """The note that an older release made, as a file."""
    path = tmp_path / "old"
    now = call("checkpoint", "--format", "json").json
    [(recorded_at,)] = sql(home, f"SELECT recorded_at FROM events WHERE seq = {now['size']}")
    path.write_text(ChainNote(now["log_id"], now["size"], bytes.fromhex(now["head"]), recorded_at).note)
    return path


class TestAgainst:
    def test_a_log_that_went_on(self, home: Path, call: Call, note: Path) -> None:
        call("rm", "app:latest")
        done = call("verify", "--against", note)
        assert done.code == 0
        assert "the log begins with the note of 16 events" in done.out
        found = call("verify", "--against", note, "--format", "json").json
        log_id = found["chain"]["log_id"]
        assert found["against"] == {
            "kind": "checkpoint",
            "origin": f"msb-cache/{log_id}",
            "size": 16,
            "notes": 1,
            "extended": True,
            "problem": None,
            "signed_by": None,
            "cosigned_by": [],
        }
        assert call("verify", "--format", "json").json["against"] is None

    def test_the_note_of_an_older_release(self, home: Path, call: Call, old_note: Path) -> None:
        done = call("verify", "--against", old_note)
        assert (done.code, done.err) == (0, "")
        assert "the log begins with the note of 16 events" in done.out
        found = call("verify", "--against", old_note, "--format", "json").json
        assert found["against"] == {
            "kind": "chain-note",
            "origin": None,
            "size": 16,
            "notes": 1,
            "extended": True,
            "problem": None,
            "signed_by": None,
            "cosigned_by": [],
        }
        done = call("verify", "--against", old_note, "--key", new_log_key().key)
        assert done.code == 1
        assert "✗ note     the note is of an older release" in done.out
        old_note.write_text(old_note.read_text().replace("head ", "head 0", 1)[:-1])
        assert "the note is no checkpoint" in sentence(call("verify", "--against", old_note).err)

    def test_from_stdin(self, home: Path, note: Path) -> None:
        assert execute("verify", "--against", "-", stdin=note.read_bytes()).code == 0
        done = execute("verify", "--against", "-")
        assert done.code == 1
        assert "the note is empty" in sentence(done.err)

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

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"", "the note is empty"),
            (b"hello", "the note is cut off"),
            (b"hello\n", "the note is no checkpoint"),
            (bytes(1000), "the note has control characters"),
            ("µ".encode() * 5000, "the note is cut off"),
            ("µ\n".encode() * 40_000, "the note has more than 65,536 bytes"),
            (b"\xff\xfe\n", "the note is no UTF-8 text"),
            (b"log\r\n1\r\n" + b"A" * 43 + b"=\r\n", "line ends of Windows"),
            (b"msb-cache checkpoint 1\nlog\n", "the note is no checkpoint"),
            (b"msb-cache checkpoint 7\n", "of a version that this msb-cache does not know"),
            (b"log\n007\n" + b"A" * 43 + b"=\n", "its second line is no number of events"),
            (b"log\n7\n" + b"A" * 43 + b"=\n\nsomebody\n", "that is no signature"),
        ],
    )
    def test_what_is_no_note(self, home: Path, call: Call, tmp_path: Path, content: bytes, says: str) -> None:
        (tmp_path / "note").write_bytes(content)
        done = call("verify", "--against", tmp_path / "note")
        assert (done.code, done.raw) == (1, b"")
        assert says in sentence(done.err)

    def test_what_never_ends(self, home: Path, call: Call, tmp_path: Path) -> None:
        with (tmp_path / "note").open("wb") as sparse:
            sparse.truncate(4 << 30)
        for path in (tmp_path / "note", "/dev/zero"):
            for option in ("--against", "--policy"):
                done = call("verify", option, path)
                assert done.code in (1, 2)
                assert done.raw == b""
                assert "has more than 65,536 bytes" in sentence(done.err)

    def test_from_a_pipe(self, home: Path, call: Call, note: Path, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with ThreadPoolExecutor() as pool:
            pool.submit((tmp_path / "pipe").write_bytes, note.read_bytes())
            assert call("verify", "--against", tmp_path / "pipe").code == 0

    def test_no_such_note(self, home: Path, call: Call, tmp_path: Path) -> None:
        for path in (tmp_path / "nowhere", tmp_path):
            done = call("verify", "--against", path)
            assert (done.code, done.raw) == (1, b"")
            assert str(path) in sentence(done.err)


def _root(home: Path, size: int) -> bytes:
    tree = Frontier()
    rows = sql(home, f"SELECT hash FROM events WHERE seq <= {size} ORDER BY seq")
    tree.extend(leaf_hash(stored) for (stored,) in rows)
    return tree.root()


class TestSigned:
    KEY = new_log_key()
    WITNESS = new_witness_key("witness.example/one")

    def note(self, home: Path, size: int, root: bytes | None = None) -> Note:
        return signed_checkpoint(size, root or _root(home, size), self.KEY)

    def keep(self, home: Path, note: Note) -> None:
        with closing(sqlite3.connect(home / "db" / "msb-cache.db", isolation_level=None)) as connection:
            kept.keep(connection, note, 1)

    def test_a_file_of_several(self, home: Path, call: Call, tmp_path: Path) -> None:
        path = tmp_path / "notes"
        for size in (4, 10, 7):
            append(
                str(path),
                str(cosign(self.note(home, size), self.WITNESS) if size == 4 else self.note(home, size)),
            )
        with path.open("ab") as file:
            file.write(b"\n" + str(self.note(home, 11)).encode()[:-30])  # what a crash leaves
        append(str(path), str(self.note(home, 8)))
        done = call("verify", "--against", path)
        assert (done.code, done.err) == (0, "")
        assert "✓ note     the log begins with each of 4 notes, such as that of 10 events" in done.out
        # The largest that is signed as it must be counts: not all in a file were cosigned yet.
        keys = ("--key", self.KEY.key, "--key", self.WITNESS.key, "--format", "json")
        found = call("verify", "--against", path, *keys).json["against"]
        assert (found["size"], found["notes"], found["problem"]) == (4, 4, None)
        append(str(path), str(self.note(home, 9, bytes(32))))
        done = call("verify", "--against", path)
        assert done.code == 1
        assert "the first 9 events are not those of the note" in done.out.replace("\n", " ")

    def test_one_that_fits(self, home: Path, call: Call, tmp_path: Path) -> None:
        note = cosign(self.note(home, 10), self.WITNESS)
        (tmp_path / "note").write_text(str(note))
        done = call("verify", "--against", tmp_path / "note")
        assert (done.code, done.err) == (0, "")
        assert "✓ note     the log begins with the note of 10 events" in done.out
        assert "who signed it was not checked" in done.out
        keys = ("--key", self.KEY.key, "--key", self.WITNESS.key)
        done = call("verify", "--against", tmp_path / "note", *keys)
        assert (done.code, done.err) == (0, "")
        names = f"signed by {self.KEY.key.name}, cosigned by {self.WITNESS.key.name}"
        assert f"✓ note     {names}" in done.out
        (tmp_path / "policy").write_text(f"log {self.KEY.key}\nwitness one {self.WITNESS.key}\nquorum one\n")
        found = call(
            *("verify", "--against", tmp_path / "note", "--policy", tmp_path / "policy", "--format", "json")
        ).json
        (cosigned,) = found["against"].pop("cosigned_by")
        assert (cosigned["name"], cosigned["cosigned_at"][:4]) == (self.WITNESS.key.name, "2026")
        assert found["against"] == {
            "kind": "checkpoint",
            "origin": self.KEY.key.name,
            "size": 10,
            "notes": 1,
            "extended": True,
            "problem": None,
            "signed_by": self.KEY.key.name,
        }

    def test_one_that_is_not_signed_as_it_must_be(self, home: Path, call: Call, tmp_path: Path) -> None:
        note = self.note(home, 10)
        (tmp_path / "note").write_text(str(note))
        keys = ("--key", self.KEY.key, "--key", self.WITNESS.key)
        done = call("verify", "--against", tmp_path / "note", *keys)
        assert done.code == 1
        assert "✓ note     the log begins with the note of 10 events" in done.out
        assert f"{self.WITNESS.key.name} has not cosigned" in done.out
        assert call("verify", "--against", tmp_path / "note", *keys, "-q").out == "note\n"
        other = signed_checkpoint(9, _root(home, 9), self.KEY)
        (tmp_path / "note").write_text(str(Note(note.text, other.signatures)))
        done = call("verify", "--against", tmp_path / "note", "--key", self.KEY.key)
        assert done.code == 1
        assert "is not of that key over this text" in done.out

    def test_bad_keys_and_policies(self, home: Path, call: Call, note: Path, tmp_path: Path) -> None:
        (tmp_path / "policy").write_text("quorum nobody\n")
        for words in (
            ("--key", "x"),
            ("--key", str(self.KEY.key).replace("+", "+0", 1)),
            ("--key", self.WITNESS.key),
            ("--policy", tmp_path / "policy"),
        ):
            done = call("verify", "--against", note, *words)
            assert (done.code, done.raw) == (2, b"")
            sentence(done.err)

    def test_what_the_home_keeps(self, home: Path, call: Call) -> None:
        done = call("verify", "--key", self.KEY.key)
        assert done.code == 1
        assert "✗ note     this home keeps no signed checkpoint" in done.out
        self.keep(home, self.note(home, 5))
        self.keep(home, self.note(home, 12))
        done = call("verify", "--key", self.KEY.key)
        assert (done.code, done.err) == (0, "")
        assert "the log begins with the note of 12 events" in done.out
        assert "✓ signed   2 signed checkpoints, and the log goes on from each" in done.out
        self.keep(home, self.note(home, 13, bytes(32)))
        self.keep(home, self.note(home, 99))
        done = call("verify")
        assert done.code == 1
        assert "✗ signed   4 signed checkpoints, 2 not of this log:" in done.out
        assert "13 events were signed as log.example/cache, and they are not those of the log" in done.out
        assert "and the log has only 16 events" in done.out
        assert call("verify", "-q").lines == ["signed log.example/cache 13", "signed log.example/cache 99"]
        found = call("verify", "--format", "json").json
        assert (found["checkpoints"], found["sound"]) == (4, False)
        assert [each["problem"] for each in found["bad_checkpoints"]] == ["rewritten", "cut-off"]

    def test_a_name_that_turns_text_around(self, home: Path, call: Call, tmp_path: Path) -> None:
        """A name comes from outside: of a note, and of what anybody could write into the database."""
        head = TreeHead("log\u202e\x9b31m", 20, bytes(32))
        key = new_log_key(head.origin)
        (tmp_path / "note").write_text(str(sign(head.text, self.KEY)))
        self.keep(home, sign(head.text, self.KEY))
        for words in (["-q"], ["--key", self.KEY.key], ["--format", "json"]):
            done = call("verify", "--against", tmp_path / "note", *words)
            assert done.code == 1
            assert "\u202e" not in done.out + done.err
            assert "\x9b" not in done.out + done.err
        assert call("verify", "--key", key.key).code == 2

    def test_one_of_a_log_that_is_no_more(self, home: Path, call: Call, tmp_path: Path) -> None:
        (tmp_path / "note").write_text(str(self.note(home, 99)))
        done = call("verify", "--against", tmp_path / "note")
        assert done.code == 1
        assert "its end was cut off, or the note is of another log" in " ".join(done.out.split())


class TestTree:
    def test_a_forged_hash(self, home: Path, call: Call) -> None:
        sql(home, "INSERT INTO subtree VALUES (8, 0, zeroblob(32)), (16, 0, zeroblob(32))")
        done = call("verify")
        assert done.code == 1
        assert "✗ tree     2 kept hashes, 2 not of the log's events" in done.out
        assert call("verify", "-q").lines == ["tree 8 0", "tree 16 0"]
        found = call("verify", "--format", "json").json
        wrong = [{"level": 8, "position": 0}, {"level": 16, "position": 0}]
        assert (found["subtrees"], found["bad_subtrees"]) == (2, wrong)
        done = call("rebuild")
        assert (done.code, done.out) == (1, "")
        assert done.err == "2 kept hashes of the log's tree differed and are now as its events make them.\n"
        assert call("verify").code == 0
        assert call("rebuild").code == 0


class TestWhatChanged:
    def test_a_changed_event(self, home: Path, call: Call) -> None:
        sql(home, "DROP TRIGGER events_no_update", "UPDATE events SET actor = actor || ' ' WHERE seq = 3")
        done = call("verify")
        assert done.code == 1
        assert "event 3 does not match its hash: a column of it was changed" in done.out
        found = call("verify", "--format", "json").json["chain"]
        assert (found["valid"], found["broken_at"], found["kind"]) == (False, 3, "changed")

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
