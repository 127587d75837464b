"""What changed between two moments agrees with what was listed then, and with the disk."""

from __future__ import annotations

from pathlib import Path

from tests.cli.support import APP, APP_NEXT, TOOL, Call


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
    assert text.lines[0].split() == ["-", "image", "example.org/team/tool:2", TOOL.digest]
    assert text.lines[-1].endswith(" KiB)")
    assert "(-" in text.lines[-1]


def test_diff_in_words(recorded: list[tuple[int, str, dict[str, object]]], call: Call) -> None:
    text = call("diff", f"@{recorded[3][0]}", f"@{recorded[5][0]}")
    assert [line.split()[:3] for line in text.lines[:-1]] == [
        ["~", "image", "app:1"],
        ["+", "hold", "snapshot:nightly"],
    ]
    assert f"{APP.digest} → {APP_NEXT.digest}" in text.out
    names = call("diff", f"@{recorded[3][0]}", f"@{recorded[5][0]}", "-q")
    assert names.lines == ["app:1"]
    same = call("diff", f"@{recorded[3][0]}", f"@{recorded[3][0]}")
    assert same.err == "Nothing has changed.\n"
    assert same.lines == [line for line in same.lines if line.endswith("(+0 B)")]


def test_pins_that_came_and_went(home: Path, call: Call) -> None:
    def last() -> str:
        (event,) = call("events", "--reverse", "-n", "1", "--format", "json").json
        return f"@{event['seq']}"

    before = last()
    call("pin", "app:1")
    call("pin", TOOL.digest)
    call("pin", "docker.io/library/later:1")
    between = last()
    names = ["app:1", "docker.io/library/later:1", TOOL.digest]
    found = call("diff", before, "--format", "json").json
    assert (found["pinned"], found["unpinned"], found["held"], found["added"]) == (names, [], [], [])
    call("unpin", "app:1")
    call("pin", TOOL.digest, "--until", "2099-01-01")  # pinned before and after
    assert [line.split() for line in call("diff", between).lines[:-1]] == [["-", "pin", "app:1"]]
    assert [line.split() for line in call("diff", before).lines[:-1]] == [
        ["+", "pin", "docker.io/library/later:1"],
        ["+", "pin", TOOL.digest],
    ]
    assert call("diff", between, before, "--format", "json").json["unpinned"] == names


class TestLayers:
    def test_text_and_json(self, home: Path, call: Call, tmp_path: Path) -> None:
        log = tmp_path / "log.jsonl"
        log.write_bytes(call("export").raw)
        done = call("diff", "--log", log)
        assert (done.code, done.out) == (0, "3 layers in both logs, 0 of other bytes\n")
        digest = call("inspect", "app:1", "--format", "json").json["layers"][1]["erofs_digest"]
        other = tmp_path / "other.jsonl"
        changed = f"sha256:{'0' * 64}"
        other.write_bytes(log.read_bytes().replace(digest.encode(), changed.encode()))
        done = call("diff", "--log", log, "--log", other)
        assert done.lines[1].split()[:2] == [APP.layers[1].diff_id, digest]
        assert "the log does not verify" in done.err
        assert done.err.endswith("3 layers in both logs, 1 of other bytes\n")
        assert call("diff", "--log", log, "--log", other, "-q").lines == [APP.layers[1].diff_id]
        found = call("diff", "--log", other, "--format", "json").json
        assert found["layers"] == 3
        (layer,) = found["differing"]
        assert layer["diff_id"] == APP.layers[1].diff_id
        assert (layer["here"]["digest"], layer["there"]["digest"]) == (digest, changed)
        assert (layer["here"]["how"], layer["here"]["seq"]) == ("made", layer["there"]["seq"])

    def test_one_thing_at_a_time(self, call: Call) -> None:
        for arguments in (("@1", "--log", "a"), ("--log", "a", "--log", "b", "--log", "c")):
            done = call("diff", *arguments)
            assert (done.code, done.out) == (2, "")
            assert "--log compares two logs" in done.err
        assert "say since when" in call("diff").err
