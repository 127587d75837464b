"""The cache as it was: what was printed then is printed again, whatever happened since."""

from __future__ import annotations

import re
import shutil
import time
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache.home import index_cache
from tests.cli.support import NOT_FOUND, USAGE, Call, answer, fingerprint, sentence
from tests.msbhome import MsbHome


def test_answers_are_what_was_printed_then(
    recorded: list[tuple[int, str, dict[str, object]]],
    own_home: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = fingerprint(own_home)
    for seq, recorded_at, answers in recorded:
        for words, expected in answers.items():
            assert answer(call(*words.split(), "--as-of", f"@{seq}")) == expected, (seq, words)
            assert answer(call(*words.split(), "--as-of", recorded_at)) == expected, (recorded_at, words)
    assert fingerprint(own_home) == before
    monkeypatch.setattr(index_cache, "STEP", 3)
    for _ in range(2):  # while snapshots are made, and with them
        for seq, _, answers in recorded:
            assert answer(call("list", "--as-of", f"@{seq}")) == answers["list"]
    assert any((own_home / "db" / "snapshots").iterdir())
    shutil.rmtree(own_home / "db" / "snapshots")
    seq, _, answers = recorded[3]
    assert answer(call("list", "--as-of", f"@{seq}")) == answers["list"]


def test_before_the_log(home: Path, call: Call) -> None:
    for moment in ("2001-01-01", "@0"):
        done = call("list", "--as-of", moment)
        assert (done.code, done.raw) == (0, b"")
        (note,) = done.err.splitlines()
        assert re.fullmatch(r"note: the log begins \d.{24}; of what was here before, it knows nothing", note)
        assert call("list", "--as-of", moment, "--format", "json").json == []
        done = call("inspect", "app:1", "--as-of", moment)
        assert done.code == NOT_FOUND
        assert sentence(done.err).startswith("image not found: app:1; the log begins ")
        found = call("diff", moment, "--format", "json").json
        assert [each["reference"] for each in found["added"]] == [
            "app:1",
            "app:latest",
            "example.org/team/tool:2",
        ]
    now = call("list").raw
    assert call("list", "--as-of", "now").raw == now


def test_what_msb_had_before_the_first_sync_is_not_known(own_home: Path, call: Call) -> None:
    with closing(MsbHome(own_home)) as theirs:
        theirs.load("app:1", "one")
        theirs.create("app:1", "dev")
    assert call("sync").code == 0
    for words in ("list", "holders", "diff 2001-01-01 --format json"):
        moment = () if words.startswith("diff") else ("--as-of", "2001-01-01")
        done = call(*words.split(), *moment)
        assert done.code == 0
        assert re.match(
            r"note: what msb had here before \d.{24} is not known; msb-cache has recorded it", done.err
        )
        assert "nothing" not in done.err
    assert call("list", "--as-of", "2001-01-01", "--format", "json").json == []
    for command in ("inspect", "holders"):
        done = call(command, "app:1", "--as-of", "2001-01-01")
        assert done.code == NOT_FOUND
        assert re.match("image not found: .*; what msb had here before .* is not known", sentence(done.err))
    assert call("list", "--as-of", "now").err == ""
    assert call("info", "--format", "json").json["known_since"] is not None


def test_a_home_without_a_log(own_home: Path, call: Call) -> None:
    for words in ("list --as-of 2001-01-01", "holders", "holders --as-of @0", "diff yesterday now"):
        done = call(*words.split())
        assert (done.code, done.out.count("\n")) == (0, 1 if words.startswith("diff") else 0), words
    done = call("list", "--as-of", "@1")
    assert (done.code, sentence(done.err)) == (USAGE, "the log has no event 1; its last is 0")
    assert not own_home.exists()


@pytest.mark.parametrize(
    ("moment", "says"),
    [
        ("", "is no time"),
        ("@99999", r"the log has no event 99999; its last is \d+"),
        ("@9999999999999999999", r"the log has no event 9999999999999999999"),
        ("2200-01-01", "is in the future"),
        ("yesterday\n", "is no time"),
    ],
)
@pytest.mark.parametrize("command", ["list", "inspect app:1", "holders", "diff", "diff now"])
def test_no_moment(home: Path, call: Call, command: str, moment: str, says: str) -> None:
    words = command.split()
    done = call(*words, moment) if words[0] == "diff" else call(*words, "--as-of", moment)
    if moment == "yesterday\n":
        assert done.code in (0, NOT_FOUND)  # white space around a time does not matter
        return
    assert (done.code, done.raw) == (USAGE, b"")
    assert re.search(says, sentence(done.err))


def test_a_bare_number_is_a_year(home: Path, call: Call) -> None:
    year = time.localtime().tm_year
    assert call("list", "--as-of", str(year)).err.startswith("note: the log begins ")
    assert "is in the future" in sentence(call("list", "--as-of", str(year + 1)).err)
    assert "is no time" in sentence(call("list", "--as-of", "3").err)
