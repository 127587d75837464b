"""What is told of long work: its beginning, how far it is, and its end, whatever that is."""

from __future__ import annotations

from contextlib import suppress

import pytest

from msb_cache import activity
from msb_cache.activity import Activities, Activity


def test_beginning_counts_and_end_are_told() -> None:
    told: list[Activity] = []
    with Activities(told.append)("reading", "bytes", 10) as count:
        count(4)
        count(9, 12)
    assert told == [
        Activity("reading", "bytes", 0, 10),
        Activity("reading", "bytes", 4, 10),
        Activity("reading", "bytes", 9, 12),
        Activity("reading", "bytes", 0, 10, over=True),
    ]


def test_the_end_of_what_fails_is_told() -> None:
    told: list[Activity] = []
    with suppress(KeyboardInterrupt), Activities(told.append)("reading"):
        raise KeyboardInterrupt
    assert told[-1].over


def test_items_are_counted_as_they_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "_EVERY", 2)
    told: list[Activity] = []
    with Activities(told.append)("checking", "files") as count:
        count(4)
        assert [*count.each("abcde")] == [*"abcde"]
    assert [each.done for each in told[1:-1]] == [4, 6, 8, 9]


def test_nothing_is_counted_where_nothing_is_told() -> None:
    with Activities()("checking", "files") as count:
        items = [1, 2]
        assert count.each(items) is items
        count(2)
