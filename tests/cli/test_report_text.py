"""A report as text says what the page says, with nothing from outside in charge of the terminal."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from msb_cache.cli.report_text import print_report
from msb_cache.report.facts import Block, CacheReport, PersonLine
from msb_cache.wording import size
from tests.report import samples


def printed(report: CacheReport, capsys: pytest.CaptureFixture[str]) -> str:
    print_report(report)
    return capsys.readouterr().out


def test_every_part_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    report = samples.of(30)
    found = printed(report, capsys)
    assert "for 27 images" in found
    assert "note: cache/layers/x cannot be read" in found
    for title in ("Size of the cache", "What takes the disk", "Longest idle", "Last removals and prunes"):
        assert f"\n{title}" in found
    assert "shared by 30 images" in found
    assert "and 20 more" in found
    assert "user-39@host" not in found
    assert report.deletions[-1].operation in found
    assert report.deletions[0].operation not in found
    (line,) = (line for line in found.splitlines() if line.startswith(" ") and "deleted  " in line)
    assert line.strip().startswith("deleted")
    assert max(map(len, found.split("What takes")[0].splitlines())) <= 100


def test_a_deletion_is_marked_below_its_day(capsys: pytest.CaptureFixture[str]) -> None:
    report = samples.of(3)
    middle = replace(report.deletions[0], started_at_ns=(samples.BEGIN + samples.END) // 2)
    lines = printed(replace(report, deletions=(middle,)), capsys).splitlines()
    (marks,) = (line for line in lines if line.strip().startswith("deleted"))
    sparks = lines[lines.index(marks) - 1]
    assert (len(marks) - 12) / (len(sparks) - 12) == pytest.approx(0.5, abs=0.02)


def test_what_is_left_out_is_counted_with_its_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    report = samples.of(30)
    rest = sum(each.unique_bytes + each.flat_bytes for each in report.blocks[10:])
    assert f"\nand {len(report.blocks) - 10} more, {size(rest)}\n" in printed(report, capsys)


def test_bars_are_of_the_largest(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = (
        Block("image", "app:1", 500, 500, images=1, state="idle"),
        Block("shared", "layers", 500, images=2),
        Block("other", "folders", 0),
    )
    lines = printed(replace(samples.empty(), blocks=blocks), capsys).splitlines()
    bars = {line.split("   ")[0].strip(): line.rpartition("   ")[2] for line in lines if "   " in line}
    assert bars["app:1"] == "█" * 10 + "▓" * 10
    assert bars["shared by 2 images"] == "▒" * 10
    assert not {*"█▒▓"} & {*bars["folders"]}


def test_who_did_nothing_of_note_has_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    people = (PersonLine("bob@host", uses=3),)
    found = printed(replace(samples.empty(), people=people), capsys)
    assert found.splitlines()[-1].split() == ["bob@host", "3", *"-----"]
    assert "█ FETCHED" not in found


@pytest.mark.parametrize(("hours", "shown"), [(6, r"\d\d:\d\d"), (240, r"\d{4}")])
def test_a_short_time_has_its_hours(hours: int, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = samples.of(3)
    since = report.at_ns - hours * 3600 * 10**9
    found = printed(replace(report, since_ns=since), capsys)
    assert re.search(rf"\n {{12}}\d\d \w+ .*{shown}\n", found)
    assert bool(re.search(r"\n {12}\d\d .*\d\d:\d\d\n", found)) == (hours < 48)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(
    width: int, terminal: Callable[[int | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    terminal(width)
    for report in (samples.of(30), samples.hostile(), samples.empty()):
        assert max(map(len, printed(report, capsys).splitlines())) <= width


def test_an_empty_home(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(samples.empty(), capsys)
    assert "0 B for 0 images" in found
    assert "nothing was in the cache in this time" in found


def test_hostile_texts_are_texts(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(samples.hostile(), capsys)
    assert not {"\u202e", "\x07", "\u200b", "\x1b"} & {*found}
    assert "\\u202e\\x07" in found
