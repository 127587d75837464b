"""The cache as it was: what was printed then is printed again, whatever happened since; and differences."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

import pytest

from msb_cache.home import index_cache
from tests.cli.conftest import Call
from tests.cli.support import APP, APP_NEXT, TOOL, Done, fingerprint, sentence, written

USAGE, NOT_FOUND = 2, 3
QUESTIONS = (
    "list",
    "list --quiet",
    "list --format json",
    "list app:*",
    "inspect app:1",
    "inspect app:1 --format json",
    f"inspect {TOOL.digest} --format json",
    "holders",
    "holders --format json",
    "holders app:latest",
    f"holders {APP.digest[7:19]} --format json",
)
SESSION = (
    "load -q -i {tmp}/app.tar",
    "use app:1",
    "hold app:1 sandbox:dev",
    "load -q -i {tmp}/tool.tar",
    "load -q -i {tmp}/next.tar",
    "hold app:1 snapshot:nightly",
    "use example.org/team/tool:2 --holder sandbox:dev",
    "rm -q -f app:latest",
    "release sandbox:dev",
    "prune -y",
    "load -q -i {tmp}/app.tar",
    "hold app:1 sandbox:again",
    "rm -q -f app:1",
    "load -q -i {tmp}/tool.tar",
    "release snapshot:nightly",
    "prune -y",
)


def answer(done: Done) -> tuple[int, bytes, str]:
    return done.code, done.raw, done.err


@pytest.fixture
def recorded(own_home: Path, call: Call, tmp_path: Path) -> list[tuple[int, str, dict[str, object]]]:
    """A session: after each operation the position, the time it was recorded, and all answers then."""
    for name, image in (("app", APP), ("tool", TOOL), ("next", APP_NEXT)):
        written(tmp_path / f"{name}.tar", image)
    found = []
    for command in SESSION:
        assert call(*command.format(tmp=tmp_path).split()).code == 0
        (last,) = call("events", "--reverse", "-n", "1", "--format", "json").json
        answers: dict[str, object] = {words: answer(call(*words.split())) for words in QUESTIONS}
        found.append((last["seq"], last["recorded_at"], answers))
    return found


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


def test_diff_agrees_with_what_was_listed(
    recorded: list[tuple[int, str, dict[str, object]]], call: Call
) -> None:
    def shown(seq: int) -> tuple[dict[str, str], set[tuple[str, str]]]:
        images = call("list", "--format", "json", "--as-of", f"@{seq}").json
        holds = call("holders", "--format", "json", "--as-of", f"@{seq}").json
        return {image["reference"]: image["digest"] for image in images}, {
            (hold["holder"], hold["digest"]) for hold in holds
        }

    for first, last in ((0, -1), (2, 4), (4, 9), (9, 2), (3, 3), (7, 12)):
        (old, _, _), (new, at, _) = recorded[first], recorded[last]
        found = call("diff", f"@{old}", at, "--format", "json").json
        (before, held_before), (after, held_after) = shown(old), shown(new)
        assert (found["from_seq"], found["to_seq"]) == (old, new)
        assert {each["reference"]: each["digest"] for each in found["added"]} == {
            name: after[name] for name in after.keys() - before.keys()
        }
        assert {each["reference"]: each["digest"] for each in found["removed"]} == {
            name: before[name] for name in before.keys() - after.keys()
        }
        assert {(each["reference"], each["previous_digest"], each["digest"]) for each in found["moved"]} == {
            (name, before[name], after[name])
            for name in before.keys() & after.keys()
            if before[name] != after[name]
        }
        assert {(each["holder"], each["digest"]) for each in found["held"]} == held_after - held_before
        assert {(each["holder"], each["digest"]) for each in found["released"]} == held_before - held_after
        assert found["bytes_changed"] == found["bytes_after"] - found["bytes_before"]


def test_diff_counts_what_lies_on_disk(home: Path, call: Call) -> None:
    def on_disk() -> int:
        folders = ("layers", "fsmeta", "vmdk")
        paths = [path for name in folders for path in (home / "cache" / name).iterdir()]
        return sum(path.stat().st_size for path in paths if path.suffix != ".lock")

    (last,) = call("events", "--reverse", "-n", "1", "--format", "json").json
    before = on_disk()
    call("rm", "-q", "example.org/team/tool:2")
    found = call("diff", f"@{last['seq']}", "--format", "json").json
    assert (found["bytes_before"], found["bytes_after"]) == (before, on_disk())
    text = call("diff", f"@{last['seq']}")
    assert text.lines[0].split() == ["-", "image", "example.org/team/tool:2", TOOL.digest[:19]]
    assert text.lines[-1].endswith(" KiB)")
    assert "(-" in text.lines[-1]


def test_diff_in_words(recorded: list[tuple[int, str, dict[str, object]]], call: Call) -> None:
    text = call("diff", f"@{recorded[3][0]}", f"@{recorded[5][0]}")
    assert [line.split()[:3] for line in text.lines[:-1]] == [
        ["~", "image", "app:1"],
        ["+", "hold", "snapshot:nightly"],
    ]
    assert f"{APP.digest[:19]} → {APP_NEXT.digest[:19]}" in text.out
    same = call("diff", f"@{recorded[3][0]}", f"@{recorded[3][0]}")
    assert same.err == "Nothing has changed.\n"
    assert same.lines == [line for line in same.lines if line.endswith("(+0 B)")]


def test_before_the_log(home: Path, call: Call) -> None:
    for moment in ("2001-01-01", "@0"):
        done = call("list", "--as-of", moment)
        assert (done.code, done.raw) == (0, b"")
        assert done.err.splitlines() == [
            "note: the log begins later than that; there was nothing",
            "No cached images.",
        ]
        assert call("list", "--as-of", moment, "--format", "json").json == []
        assert call("inspect", "app:1", "--as-of", moment).code == NOT_FOUND
        found = call("diff", moment, "--format", "json").json
        assert [each["reference"] for each in found["added"]] == [
            "app:1",
            "app:latest",
            "example.org/team/tool:2",
        ]
    now = call("list").raw
    assert call("list", "--as-of", "now").raw == now


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
        ("soon", "is no time"),
        ("1 day", "is no time"),
        ("@-1", "is no time"),
        ("@", "is no time"),
        ("@99999", r"the log has no event 99999; its last is \d+"),
        ("@9999999999999999999", r"the log has no event 9999999999999999999"),
        ("@" + "9" * 50, "is no time"),
        ("2200-01-01", "is in the future"),
        ("2999-01-01", "is in the future"),
        ("2026-99-99", "is no time"),
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
    assert call("list", "--as-of", str(year)).err.startswith("note: the log begins later")
    assert "is in the future" in sentence(call("list", "--as-of", str(year + 1)).err)
    assert "is no time" in sentence(call("list", "--as-of", "3").err)


def test_holders(home: Path, call: Call, tmp_path: Path) -> None:
    call("hold", "-q", "app:1", "sandbox:dev")
    call("hold", "-q", "example.org/team/tool:2", "snapshot:/a b")
    call("rm", "-q", "-f", "app:1", "app:latest")
    table = call("holders")
    assert table.lines[0].split() == ["HOLDER", "DIGEST", "REFERENCE", "SINCE"]
    assert [line.split("  ")[0] for line in table.lines[1:]] == ["sandbox:dev", "snapshot:/a b"]
    assert "app:1" in table.lines[1]
    # By its digest, though no reference points there any more.
    for text in (APP.digest, APP.digest[7:], APP.digest[:12], APP.digest[7:11]):
        (hold,) = call("holders", text, "--format", "json").json
        assert (hold["holder"], hold["digest"], hold["reference"]) == ("sandbox:dev", APP.digest, "app:1")
    call("release", "-q", "sandbox:dev")
    assert call("holders", APP.digest).err == "Nobody holds it.\n"
