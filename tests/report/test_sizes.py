"""A line of sizes keeps its peaks, and what deletions did."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from msb_cache.report.chronicle import Chronicle, Deletion
from msb_cache.report.cut import Cut
from msb_cache.report.sizes import kept, sizes
from tests.logs import ACTOR

amounts = st.lists(st.integers(0, 50), min_size=1, max_size=300)


@given(
    amounts, st.integers(10, 40), st.lists(st.tuples(st.integers(-2, 310), st.integers(-2, 310)), max_size=40)
)
def test_what_stays(found: list[int], most: int, drops: list[tuple[int, int]]) -> None:
    stay = kept(found, drops, most)
    assert stay == sorted({*stay})
    assert len(stay) <= most
    assert {0, len(found) - 1} <= {*stay}
    shown = [found[at] for at in stay]
    assert (max(shown), min(shown)) == (max(found), min(found))
    if len(found) <= most:
        assert stay == [*range(len(found))]


def test_what_deletions_did_stays() -> None:
    """A sawtooth with small teeth: two drops hardly show in it, and are asked for."""
    found = [1000 + at % 7 for at in range(5000)]
    assert {4321, 4322, 17, 19} <= {*kept(found, [(4321, 4322), (17, 19)])}
    assert not {4321, 4322} <= {*kept(found, most=100)}


def test_the_largest_drops_stay_of_too_many() -> None:
    found = [10**9 - at * at for at in range(5000)]
    drops = [(at, at + 1) for at in range(0, 4998, 2)]
    stay = {*kept(found, drops)}
    assert len(stay) <= 1000
    assert {*range(4800, 4998)} <= stay


def cut(after: int, until: int) -> Cut:
    """Positions 1 to 9, each at ten times that; at 2, 4, 6 and 8 the size changes; 6 to 8 is a deletion."""
    chronicle = Chronicle()
    chronicle.times.extend(range(10, 100, 10))
    chronicle.point_seqs.extend([2, 4, 6, 8])
    chronicle.point_bytes.extend([20, 40, 30, 10])
    chronicle.point_images.extend([1, 2, 2, 1])
    deletion = chronicle.deletions["x"] = Deletion("x", "prune", 6, ACTOR)
    deletion.last_seq = 8
    return Cut(chronicle, until, after, after * 10 + 5, until * 10)


def test_the_time_shown_begins_with_what_was_there() -> None:
    assert [(each.at_ns, each.seq, each.bytes, each.images) for each in sizes(cut(4, 7))] == [
        (45, 4, 40, 2),
        (60, 6, 30, 2),
    ]
    assert [each.seq for each in sizes(cut(0, 9))] == [2, 4, 6, 8]
    assert [each.at_ns for each in sizes(cut(8, 9))] == [85]
    assert sizes(cut(0, 1)) == ()
