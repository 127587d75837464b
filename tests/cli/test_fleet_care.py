"""fleet verify and fleet archive, through the installed command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from msb_cache.fleet.enrolment import enrol
from tests.cli.support import Call, sentence
from tests.fleet.conftest import postgres as postgres
from tests.fleet.copies import copied, with_a_log
from tests.fleet.postgres import Server
from tests.fleet.sent import Row, log_of
from tests.reporthome import make


@pytest.fixture(scope="module")
def home_of_it(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("homes") / "one"
    make(home, scale=100)
    return home


@pytest.fixture(scope="module")
def rows(home_of_it: Path) -> list[Row]:
    return log_of(home_of_it)


@pytest.fixture(scope="module")
def sent(postgres: Server, rows: list[Row]) -> str:
    return with_a_log(postgres, "seen-to", rows[:320], then=20)


@pytest.fixture
def dsn(postgres: Server, sent: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with copied(postgres, sent) as copy:
        monkeypatch.setenv("MSB_CACHE_FLEET", copy)
        yield copy


def run(dsn: str, statement: str) -> None:
    import psycopg

    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ALTER TABLE msb_cache.events DISABLE TRIGGER USER")
        connection.execute(statement)


class TestVerify:
    def test_what_is_sound(self, dsn: str, rows: list[Row], home_of_it: Path, call: Call) -> None:
        done = call("fleet", "verify")
        assert (done.code, done.err) == (0, "")
        assert f"✓ build-1 ({rows[0][0][:12]}): 320 events, head {rows[319][-1].hex()[:12]}" in done.out
        (found,) = call("fleet", "verify", rows[0][0][:6], "--format", "json").json
        assert found == {
            "host": "build-1",
            "log_id": rows[0][0],
            "folded_seq": 300,
            "sound": True,
            "events": 320,
            "head": rows[319][-1].hex(),
            "archived_seq": 0,
            "archive_read": False,
            **dict.fromkeys(["broken_at", "kind", "problem", "unreadable", "against"]),
            "problems": [],
            "differences": [],
            "checkpoints": 0,
            "bad_checkpoints": [],
        }
        assert call("fleet", "verify", "-q").out == ""
        beside = call("fleet", "verify", "--against", home_of_it / "db" / "msb-cache.db")
        assert beside.code == 0
        assert f"320 events compared, the file has {len(rows) - 320} more" in beside.out

    def test_what_is_not(self, dsn: str, rows: list[Row], home_of_it: Path, call: Call) -> None:
        run(dsn, "UPDATE msb_cache.events SET subject = subject || '!' WHERE seq = 310")
        run(dsn, "UPDATE msb_cache.fold_state SET host = 'ghost'")
        run(dsn, "DELETE FROM msb_cache.pin")
        done = call("fleet", "verify", "--against", home_of_it / "db" / "msb-cache.db")
        assert done.code == 1
        assert "✗ ghost" in done.out
        assert "event 310 does not match its hash" in done.out
        assert "calls the host 'ghost', and the log 'build-1'" in done.out
        assert "event 310 is another in" in done.out
        assert "its subject differs" in done.out
        assert call("fleet", "verify", "-q").out.split() == [rows[0][0]]
        assert call("fleet", "verify", "--format", "jsonl").code == 1

    def test_rows_that_differ_are_shown(self, dsn: str, call: Call) -> None:
        run(dsn, "UPDATE msb_cache.image SET last_used_at = 1 WHERE reference LIKE '%redis:8'")
        done = call("fleet", "verify")
        assert done.code == 1
        assert "1 row of what is folded not as the log says" in done.out
        assert "image docker.io/library/redis:8" in done.out

    def test_whom_it_does_not_know(self, dsn: str, call: Call) -> None:
        done = call("fleet", "verify", "nobody")
        assert (done.code, done.out) == (3, "")
        assert "no host of the fleet is 'nobody'" in sentence(done.err)

    def test_a_reader_may_not(self, dsn: str, call: Call) -> None:
        made = enrol(dsn, "only-reads", kind="reader", password="its own")
        done = call("fleet", "verify", "--dsn", f"{made.dsn} password='its own'")
        assert done.code == 1
        assert "this role may not read the events themselves" in sentence(done.err)


class TestArchive:
    def test_it_says_what_went(
        self, dsn: str, rows: list[Row], home_of_it: Path, call: Call, tmp_path: Path
    ) -> None:
        folder = tmp_path / "archive"
        planned = call("fleet", "archive", "--before", "now", "--to", folder, "--dry-run")
        assert planned.code == 0
        assert not folder.exists()
        assert "build-1" in planned.out
        assert "20 events more stay until they are folded" in planned.err
        (done,) = call(
            "fleet", "archive", "--before", "now", "--to", folder, "--yes", "--format", "json"
        ).json
        (path,) = folder.iterdir()
        assert done == {
            "host": "build-1",
            "log_id": rows[0][0],
            "first": 1,
            "last": 300,
            "events": 300,
            "path": str(path),
            "bytes": path.stat().st_size,
            "not_folded": 20,
            "problem": None,
        }
        again = call("fleet", "archive", "--before", "2020-01-01", "--to", folder, "--yes")
        assert (again.code, again.err.strip()) == (0, "Nothing is that old.")
        found = call("fleet", "verify", "--archive", folder)
        assert found.code == 0
        assert "320 events" in found.out
        assert "the first 300 in the archive" in found.out
        assert "the first 300 in the archive not read" in call("fleet", "verify").out
        against = ("fleet", "verify", "--against", home_of_it / "db" / "msb-cache.db")
        beside = " ".join(call(*against).out.split())
        assert "20 events compared" in beside
        assert "the first 300 are in the archive: with --archive they are compared, too" in beside
        whole = call(*against, "--archive", folder).out
        assert "320 events compared" in whole
        assert "with --archive" not in whole
        told = " ".join(call("fleet", "events").err.split())
        assert "events of 1 log are in an archive and not told: build-1 (up to @300)" in told

    def test_nobody_is_asked_without_a_terminal(self, dsn: str, call: Call, tmp_path: Path) -> None:
        done = call("fleet", "archive", "--before", "now", "--to", tmp_path / "archive")
        assert done.code == 2
        assert "nobody to ask" in sentence(done.err)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            (["--before", "now"], "--to FOLDER"),
            (["--to", "archive"], "--before TIME"),
            (["--refold", "archive", "--before", "now"], "--refold moves nothing"),
            (["--before", "whenever", "--to", "archive", "--yes"], "whenever"),
            (["--before", "now", "--to", "archive", "--yes", "--db", "fleet.db"], "--db"),
        ],
    )
    def test_what_cannot_be_meant(
        self,
        dsn: str,
        call: Call,
        options: list[str],
        said: str,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        done = call("fleet", "archive", *options)
        assert done.code == 2
        assert said in sentence(done.err)
        assert not (tmp_path / "archive").exists()

    def test_a_log_that_is_not_sound_stays(self, dsn: str, call: Call, tmp_path: Path) -> None:
        run(dsn, "UPDATE msb_cache.events SET subject = subject || '!' WHERE seq = 50")
        done = call("fleet", "archive", "--before", "now", "--to", tmp_path / "archive", "--yes")
        assert done.code == 1
        assert "the hash of event 50 does not match its contents" in done.err

    def test_archived_events_are_folded_anew(self, dsn: str, call: Call, tmp_path: Path) -> None:
        folder = tmp_path / "archive"
        assert call("fleet", "archive", "--before", "now", "--to", folder, "--yes").code == 0
        done = call("fleet", "archive", "--refold", folder)
        assert (done.code, done.err.strip()) == (0, "Nothing has to be folded anew.")
        run(dsn, "UPDATE msb_cache.anchor SET fold_version = 1")
        done = call("fleet", "verify")
        assert done.code == 1
        assert "--refold FOLDER" in " ".join(done.out.split())
        done = call("fleet", "archive", "--refold", folder)
        assert done.code == 0
        assert "folded anew up to event 300" in done.out
        assert call("fleet", "verify").code == 0


def test_the_help_has_examples(call: Call) -> None:
    for command in ("verify", "archive"):
        assert f"msb-cache fleet {command} " in call("fleet", command, "--help").out
