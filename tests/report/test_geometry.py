"""Where things stand in pictures."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.report.geometry import DAY, Rect, Scale, size_ticks, squarified, time_ticks

SIZES = st.lists(st.integers(0, 10**12), max_size=30).map(lambda found: sorted(found, reverse=True))


@given(SIZES, st.integers(1, 2000), st.integers(1, 2000))
def test_areas_are_in_proportion_and_lie_side_by_side(sizes: list[int], width: int, height: int) -> None:
    rects = squarified(sizes, Rect(3, 5, width, height))
    assert len(rects) == len(sizes)
    total = sum(sizes)
    for size, rect in zip(sizes, rects, strict=True):
        wanted = size / total * width * height if total else 0
        assert rect.width * rect.height == pytest.approx(wanted, abs=1e-3 * width * height)
        assert rect.x >= 3 - 1e-6
        assert rect.x + rect.width <= 3 + width + 1e-6
        assert rect.y + rect.height <= 5 + height + 1e-6
    for one, other in combinations(rects, 2):
        across = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
        down = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
        assert min(across, down) < 1e-6


def test_rectangles_are_nearly_square() -> None:
    found = squarified([6, 6, 4, 3, 2, 2, 1], Rect(0, 0, 6, 4))
    assert max(max(each.width / each.height, each.height / each.width) for each in found) < 3.2


@given(st.integers(0, 2**50))
def test_ticks_of_sizes_reach_the_largest(largest: int) -> None:
    ticks = size_ticks(largest)
    assert ticks[0][0] == 0
    assert ticks[-1][0] >= largest
    assert [at for at, _ in ticks] == sorted({at for at, _ in ticks})
    assert len(ticks) <= 6


@pytest.mark.parametrize(
    ("largest", "said"),
    [
        (23_500_000, ["0 MiB", "10 MiB", "20 MiB", "30 MiB"]),
        (1_500, ["0 KiB", "0.5 KiB", "1 KiB", "1.5 KiB"]),
        (900, ["0 B", "500 B", "1000 B"]),
        (0, ["0 B", "1 B"]),
    ],
)
def test_ticks_of_sizes_are_round(largest: int, said: list[str]) -> None:
    assert [text for _, text in size_ticks(largest)] == said


@given(st.integers(0, 2 * 10**9), st.integers(0, 10 * 365 * DAY))
def test_ticks_of_times_are_within_and_few(since: int, length: int) -> None:
    ticks = time_ticks(since * 10**9, (since + length) * 10**9)
    assert len(ticks) <= 8
    assert all(since <= at // 10**9 <= since + length for at, _ in ticks)


def test_ticks_of_times_say_what_is_needed() -> None:
    begin = 1_795_910_400 * 10**9  # 2026-11-29 00:00 UTC
    assert [text for _, text in time_ticks(begin, begin + 30 * DAY * 10**9)][:2] == ["03 Dec", "10 Dec"]
    assert [text for _, text in time_ticks(begin, begin + 3600 * 10**9)][:2] == ["00:00", "00:15"]


def test_a_scale_keeps_within_its_ends() -> None:
    scale = Scale(10, 20, 100, 200)
    assert [scale(value) for value in (0, 10, 15, 20, 99)] == [100, 100, 150, 200, 200]
    assert Scale(5, 5, 1, 2)(5) == 1
