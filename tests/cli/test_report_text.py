"""A report as text says what the page says, with nothing from outside in charge of the terminal."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from msb_cache.cli.report_text import print_report
from msb_cache.report.facts import CacheReport
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


def test_an_empty_home(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(samples.empty(), capsys)
    assert "0 B for 0 images" in found
    assert "nothing was in the cache in this time" in found


def test_hostile_texts_are_texts(capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(samples.hostile(), capsys)
    assert not {"\u202e", "\x07", "\u200b", "\x1b"} & {*found}
    assert "\\u202e\\x07" in found
