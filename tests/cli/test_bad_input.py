"""Bad input to every command: one sentence on stderr, the right exit code, and nothing changed."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import sqlite3
from pathlib import Path

import pytest

from tests.cli.support import FAILED, NOT_FOUND, TOOL, USAGE, Call, fingerprint, rows, sentence, sql, written

WRITING = {
    "load": "load -i {archive}",
    "remove": "remove app:1",
    "remove by force": "rm -f app:1",
    "prune": "prune -y",
    "prune orphans": "prune -y --orphans",
    "use": "use app:1",
    "hold": "hold app:1 sandbox:dev",
    "release": "release sandbox:dev",
    "rebuild": "rebuild",
    "import": "import {archive}",
}
READING = {
    "list": "list",
    "list as JSON": "list --format json",
    "inspect": "inspect app:1",
    "save": "save app:1 -o {tmp}/saved.tar",
    "history": "history app:1",
    "events": "events",
    "prunes": "prunes",
    "prunes show": "prunes show 0190",
    "verify": "verify",
    "prune --dry-run": "prune -n",
    "why": "why app:1",
    "why a digest": "why sha256:0123456789ab",
    "last-used": "last-used",
    "restore-plan": "prunes restore-plan 0190",
    "restore --dry-run": "restore 0190 --dry-run",
    "checkpoint": "checkpoint",
    "prove": "prove @2",
    "export": "export",
    "export to a file": "export -o {tmp}/exported.jsonl",
    "replay": "replay",
    "replay --state": "replay --state",
}


class TestArguments:
    """What is wrong with the words of the command."""

    @pytest.mark.parametrize(
        ("code", "command", "says"),
        [
            (USAGE, ["bogus"], "bogus"),
            (USAGE, ["list", "--bogus"], "--bogus"),
            (USAGE, ["--bogus", "list"], "--bogus"),
            (USAGE, ["list", "--as-of"], "--as-of"),
            (USAGE, ["list", "--format", "xml"], "table, json, jsonl"),
            (USAGE, ["list", "--format", "xml"], "'xml' is no format"),
            (USAGE, ["completion"], "Missing argument 'bash|zsh|fish'; see `"),
            (USAGE, ["prune", "--unused-for", "10"], "'10' is no duration"),
            (USAGE, ["inspect"], "REF"),
            (USAGE, ["remove"], "REF"),
            (USAGE, ["save"], "REF"),
            (USAGE, ["hold", "app:1"], "HOLDER"),
            (USAGE, ["release"], "HOLDER"),
            (USAGE, ["prunes", "show"], "ID"),
            (USAGE, ["prunes", "bogus"], "bogus"),
            (USAGE, ["save", "app:1", "--format", "zip"], "zip"),
            (USAGE, ["--log-level", "loud", "list"], "loud"),
            (USAGE, ["--home", "", "list"], "--home"),
            (USAGE, ["events", "--type", "nope"], "image.pulled"),
            (USAGE, ["events", "-n", "0"], "0"),
            (USAGE, ["events", "-n", "many"], "many"),
            (USAGE, ["prunes", "-n", "-3"], "-3"),
            *((USAGE, [name, "-n", "9" * 30], "9" * 30) for name in ("events", "prunes")),
            (USAGE, ["why"], "REF|DIGEST"),
            (USAGE, ["prunes", "restore-plan"], "ID"),
            (USAGE, ["restore"], "ID"),
            (USAGE, ["restore", "0190", "-j", "0"], "1<=x<=32"),
            (USAGE, ["restore", "0190", "--ca-certs", "/none"], "--ca-certs"),
            (USAGE, ["pull", "app:1", "--digest", "sha256:12"], "sha256"),
            (USAGE, ["load", "a.tar", "--digest", "12"], "sha256"),
            (USAGE, ["last-used", "--idle-for", "ages"], "30 days"),
            (USAGE, ["last-used", "--idle-for", ""], "30 days"),
            (USAGE, ["last-used", "--idle-for", "99999999999 days"], "30 days"),
            (USAGE, ["export", "--since-seq", "-1"], "-1"),
            (USAGE, ["export", "-o", ""], "--output"),
            (USAGE, ["import"], "FILE"),
            (USAGE, ["prove"], "SEQ|EVENT|REF"),
            (USAGE, ["prove", "app:1", "-o", ""], "--output"),
            (USAGE, ["prove", "app:1", "--size", "0"], "0"),
            (USAGE, ["prove", "@99"], "the log has no event 99"),
            (USAGE, ["check-proof"], "FILE|-"),
            (USAGE, ["check-proof", "-"], "with --key, or a --policy"),
            (USAGE, ["check-proof", "-", "--key", "example.com/log"], "is no verifier key"),
            (USAGE, ["replay", "--from", "0"], "0"),
            (USAGE, ["replay", "--state", "--from", "2"], "--to"),
            (USAGE, ["replay", "--until-diff", "x", "--to", "2"], "--until-diff"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else None,
    )
    def test_usage(self, home: Path, call: Call, code: int, command: list[str], says: str) -> None:
        before = fingerprint(home)
        done = call(*command)
        assert (done.code, done.raw) == (code, b"")
        assert says in sentence(done.err)
        assert fingerprint(home) == before

    @pytest.mark.parametrize(
        ("reference", "says"),
        [
            ("", "empty"),
            ("UPPER:1", "lower case"),
            ("../../etc/passwd", "../../etc/passwd"),
            ("app\x1b[31m:1", "control"),
        ],
        ids=lambda value: ascii(value[:20]),
    )
    @pytest.mark.parametrize(
        "command", ["inspect", "history", "why", "remove", "use", "save", "hold", "load"]
    )
    def test_no_reference(
        self, home: Path, call: Call, tmp_path: Path, command: str, reference: str, says: str
    ) -> None:
        before = fingerprint(home)
        words = {
            "hold": ["hold", reference, "sandbox:dev"],
            "load": ["load", "-i", str(tmp_path / "app.tar"), "--tag", reference],
            "save": ["save", reference, "-o", str(tmp_path / "out.tar")],
        }
        done = call(*words.get(command, [command, reference]))
        assert (done.code, done.raw) == (USAGE, b"")
        assert "\x1b" not in done.err
        assert says in sentence(done.err)
        assert not (tmp_path / "out.tar").exists()
        assert fingerprint(home) == before

    @pytest.mark.parametrize("command", ["inspect", "history", "why", "remove", "use", "save", "hold"])
    def test_not_in_the_cache(self, home: Path, call: Call, tmp_path: Path, command: str) -> None:
        before = fingerprint(home)
        more = {"hold": ["sandbox:dev"], "save": ["-o", str(tmp_path / "out.tar")]}
        done = call(command, "app:2", *more.get(command, []))
        assert (done.code, done.raw) == (NOT_FOUND, b"")
        assert "app:2" in sentence(done.err)
        assert not (tmp_path / "out.tar").exists()
        assert fingerprint(home) == before

    @pytest.mark.parametrize(
        "holder",
        ["", "sandbox", "Sandbox:x", "sandbox:a\nb"],
        ids=lambda value: ascii(value[:20]),
    )
    @pytest.mark.parametrize("command", [["hold", "app:1"], ["release"], ["use", "app:1", "--holder"]])
    def test_no_holder(self, home: Path, call: Call, command: list[str], holder: str) -> None:
        before = fingerprint(home)
        done = call(*command, holder)
        assert (done.code, done.raw) == (USAGE, b"")
        assert "sandbox:NAME" in sentence(done.err)
        assert fingerprint(home) == before

    def test_unknown_operation_of_events(self, home: Path, call: Call) -> None:
        done = call("events", "--operation", "nope")
        assert (done.code, done.raw) == (NOT_FOUND, b"")
        assert "nope" in sentence(done.err)

    @pytest.mark.parametrize("platform", ["x/y/z/w", "linux amd64"])
    def test_no_platform(self, home: Path, call: Call, tmp_path: Path, platform: str) -> None:
        before = fingerprint(home)
        done = call("load", "-i", tmp_path / "app.tar", "--platform", platform)
        assert (done.code, done.raw) == (USAGE, b"")
        assert "platform" in sentence(done.err)
        assert fingerprint(home) == before


def _words(command: str, tmp_path: Path) -> list[str]:
    return command.format(archive=tmp_path / "tool.tar", tmp=tmp_path).split()


class TestHomes:
    """What is wrong with the home."""

    @pytest.mark.parametrize("command", [*WRITING, *READING])
    def test_a_file(self, call: Call, tmp_path: Path, command: str) -> None:
        place = tmp_path / "file"
        place.write_text("a file")
        written(tmp_path / "tool.tar", TOOL)
        for home in (place, place / "below"):
            done = call("--home", home, *_words({**WRITING, **READING}[command], tmp_path))
            assert (done.code, done.raw) == (FAILED, b"")
            assert str(home) in sentence(done.err)
        assert place.read_text() == "a file"

    @pytest.mark.parametrize("command", ["remove", "use", "hold"])
    def test_a_failure_makes_no_home(self, own_home: Path, call: Call, command: str, tmp_path: Path) -> None:
        done = call(*_words(WRITING[command], tmp_path))
        assert (done.code, done.raw) == (NOT_FOUND, b"")
        sentence(done.err)
        assert not [path for path in own_home.rglob("*") if path.suffix == ".db"]

    @pytest.mark.parametrize("command", READING)
    def test_reading_makes_no_home(self, own_home: Path, call: Call, command: str, tmp_path: Path) -> None:
        done = call(*_words(READING[command], tmp_path))
        assert "Traceback" not in done.err
        assert not own_home.exists()

    @pytest.mark.parametrize("command", ["load", "remove", "remove by force", "prune", "prune orphans"])
    def test_msb_keeps_it_and_is_not_there(
        self, home: Path, call: Call, command: str, tmp_path: Path, no_msb: None
    ) -> None:
        (home / "db" / "msb.db").touch()
        before = fingerprint(home)
        done = call("--no-sync", *_words(WRITING[command], tmp_path))
        assert (done.code, done.raw) == (FAILED, b"")
        assert "kept by msb, which is not installed here" in sentence(done.err)
        assert fingerprint(home) == before

    @pytest.mark.parametrize("command", READING)
    def test_msb_owns_it_and_we_read(self, own_home: Path, call: Call, command: str, tmp_path: Path) -> None:
        (own_home / "db").mkdir(parents=True)
        (own_home / "db" / "msb.db").touch()
        done = call(*_words(READING[command], tmp_path))
        assert "Traceback" not in done.err
        assert [path.name for path in own_home.rglob("*")] == ["db", "msb.db"]
        # "No cached images" would be false: msb has its own index of them.
        assert "msb" in done.err.replace("msb-cache", "")

    @pytest.mark.parametrize(
        ("kind", "command"),
        [
            *(("newer", command) for command in (*WRITING, *READING)),
            *itertools.product(("foreign", "garbage", "folder"), ("load", "import", "list", "verify")),
        ],
    )
    def test_the_database_is_not_ours(
        self, home: Path, call: Call, kind: str, command: str, tmp_path: Path
    ) -> None:
        path = home / "db" / "msb-cache.db"
        if kind == "newer":
            sql(home, "PRAGMA user_version = 99")
        else:
            for file in (home / "db").glob("msb-cache.db*"):
                file.unlink()
        if kind == "foreign":
            with contextlib.closing(sqlite3.connect(path)) as connection:
                connection.execute("CREATE TABLE recipes (name)")
                connection.commit()
        elif kind == "garbage":
            path.write_bytes(b"no database " * 1000)
        elif kind == "folder":
            path.mkdir()
        before = fingerprint(home)
        done = call(*_words({**WRITING, **READING}[command], tmp_path))
        assert (done.code, done.raw) == (FAILED, b"")
        assert str(path) in sentence(done.err)
        if kind == "newer":
            assert "upgrade msb-cache" in done.err
        assert fingerprint(home) == before

    @pytest.mark.parametrize("command", [*WRITING, *READING])
    def test_the_database_is_damaged(self, home: Path, call: Call, command: str, tmp_path: Path) -> None:
        sql(home, "PRAGMA wal_checkpoint(TRUNCATE)")
        path = home / "db" / "msb-cache.db"
        data = path.read_bytes()
        # Everything but the first page, so that whatever the command asks for lies in the damage.
        path.write_bytes(data[:4096] + b"\xaa" * (len(data) - 4096))
        before = fingerprint(home)
        done = call(*_words({**WRITING, **READING}[command], tmp_path))
        assert (done.code, done.raw) == (FAILED, b"")
        assert str(path) in sentence(done.err)
        assert fingerprint(home) == before

    @pytest.mark.parametrize("command", [*WRITING, *READING])
    def test_an_event_of_a_later_release(self, home: Path, call: Call, command: str, tmp_path: Path) -> None:
        """Whatever a command does with an event it does not know, it is no traceback."""
        sql(
            home,
            "INSERT INTO events SELECT seq + 1, 'later', 'image.frozen', 1, subject, operation, occurred_at, "
            "recorded_at, actor, '{}', hash FROM events ORDER BY seq DESC LIMIT 1",
        )
        before = fingerprint(home)
        done = call(*_words({**WRITING, **READING}[command], tmp_path))
        if command == "verify":
            assert done.code == FAILED
            assert "image.frozen" in done.out + done.err
        else:
            assert done.code in (FAILED, NOT_FOUND)
            sentence(done.err)
        assert fingerprint(home) == before

    def test_a_copied_home_needs_nothing_else(self, home: Path, call: Call, tmp_path: Path) -> None:
        shutil.copytree(home, tmp_path / "copy")
        done = call("--home", tmp_path / "copy", "verify", "--format", "json").json
        # But before it boots one: a disk descriptor has the paths of its files.
        assert [(each["problem"], each["kind"]) for each in done["disk"]] == [("moved", "vmdk")] * 2
        assert rows(tmp_path / "copy") == rows(home)
