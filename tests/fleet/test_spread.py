from __future__ import annotations

from pathlib import Path

from msb_cache.fleet.spread import Spread, together
from tests.fleet.filled import Filled
from tests.fleet.random_lives import Life


def test_images_by_how_many_hosts_have_them(filled: Filled, tmp_path: Path) -> None:
    one, two = Life(tmp_path / "one", "spread-one"), Life(tmp_path / "two", "spread-two")
    one.step(("load", "tool:1", 0))
    two.step(("load", "app:2", 1))
    two.step(("load", "app:1", 3))  # which is another manifest than the first host's
    for each in (one, two):
        filled.add(each.home)
    fleet = filled.fleet()
    found = {each.reference: each for each in fleet.spread()}
    assert (found["app:1"].hosts, len(found["app:1"].digests)) == (2, 2)
    assert found["app:1"].names == ("spread-two", "spread-one")
    with two.cache() as cache:
        handle = cache.get("app:1")
    assert found["app:1"].last_used_at_ns == handle.last_used_at_ns
    assert (found["tool:1"].hosts, found["tool:1"].names) == (1, ("spread-one",))
    assert found["app:2"].names == ("spread-two",)
    assert [each.reference for each in fleet.spread(limit=1)] == ["app:1"]


def test_what_several_servers_have_is_counted_together() -> None:
    found = [
        Spread("a", 2, ("x", "y"), ("1",), 10, 5, 1),
        Spread("b", 1, ("x",), ("3",), 7, 1, 0),
        Spread("a", 3, ("z",), ("1", "2"), 30, 9, 0),
    ]
    assert together(found, 10) == [
        Spread("a", 5, ("z", "x", "y"), ("1", "2"), 40, 9, 1),
        Spread("b", 1, ("x",), ("3",), 7, 1, 0),
    ]
    assert together(found, 1) == [Spread("a", 5, ("z", "x", "y"), ("1", "2"), 40, 9, 1)]
