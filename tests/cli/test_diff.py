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
