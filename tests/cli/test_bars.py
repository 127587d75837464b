"""Bars and sparklines have the lengths and heights that amounts ask for."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.cli.bars import ASCII, UNICODE, glyphs, legend, sparkline, spread, stacked


@pytest.mark.parametrize(
    ("parts", "whole", "bar"),
    [
        ((50, 25, 25), 100, "█████▒▒▒▓▓"),
        ((10, 0, 0), 100, "█"),
        ((0, 0, 100), 100, "▓▓▓▓▓▓▓▓▓▓"),
        ((1, 1, 1), 10**9, "█▒▓"),
        ((100, 1, 0), 101, "██████████"),
        ((0, 0, 0), 100, ""),
        ((0,), 0, ""),
    ],
)
def test_a_bar_of_parts(parts: tuple[int, ...], whole: int, bar: str) -> None:
    assert stacked(parts, whole, 10, UNICODE) == bar


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=3), st.integers(1, 60))
def test_no_bar_is_longer_than_its_width(parts: list[int], width: int) -> None:
    assert len(stacked(parts, sum(parts), width, ASCII)) <= width


def test_a_legend_has_the_characters_of_the_parts() -> None:
    assert legend(["own", "shared"], ASCII) == "# own - shared"


def test_a_sparkline_goes_from_nothing_to_the_greatest() -> None:
    assert sparkline([0, 1, 50, 100], UNICODE) == "▁▂▅█"
    assert sparkline([0, 0], ASCII) == "__"
    assert sparkline([], ASCII) == ""


def test_a_line_of_time_keeps_its_peaks() -> None:
    points = [(0, 5), (41, 90), (42, 7), (80, 1)]
    assert spread(points, 0, 100, 5) == [5, 5, 90, 7, 1]
    assert spread([(50, 3)], 0, 100, 2) == [0, 3]
    assert spread([(100, 3)], 0, 100, 2) == [0, 3]


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 99)), max_size=20), st.integers(1, 40))
def test_every_point_is_in_a_line_of_time(points: list[tuple[int, int]], width: int) -> None:
    points = sorted({at: (at, value) for at, value in points}.values())
    found = spread(points, 0, 1000, width)
    assert len(found) == width
    assert max(found) == max((value for _, value in points), default=0)


@pytest.mark.parametrize(
    ("encoding", "term", "shown"),
    [
        ("utf-8", "xterm", UNICODE),
        ("UTF8", "xterm", UNICODE),
        ("ascii", "xterm", ASCII),
        ("utf-8", "dumb", ASCII),
    ],
)
def test_what_a_terminal_can_show(
    encoding: str, term: str, shown: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert glyphs() is shown
