"""Splitting long lists: nothing is lost, and each part fits."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.eventstore.events import Restoring
from msb_cache.eventstore.parts import in_parts

ITEMS = st.lists(
    st.builds(Restoring, manifest_digest=st.text(max_size=30), how=st.just("pull"), place=st.text(max_size=9))
)


@given(ITEMS, ITEMS, st.integers(200, 600))
def test_parts_are_the_whole_and_fit(one: list[Restoring], two: list[Restoring], room: int) -> None:
    parts = in_parts({"one": one, "two": two}, room)
    assert [item for part in parts for item in part["one"]] == one
    assert [item for part in parts for item in part["two"]] == two
    items = [[*part["one"], *part["two"]] for part in parts]
    for part in items:
        assert len(part) <= 1 or sum(len(msgspec.json.encode(item)) + 1 for item in part) <= room
    assert len(parts) == 1 or all(items)


def test_there_is_always_one_part() -> None:
    assert in_parts({"one": []}) == [{"one": ()}]
