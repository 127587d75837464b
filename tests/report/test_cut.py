"""Times of what lasts go by the positions that say so, and names are told as far as they may."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from msb_cache.report.chronicle import Chronicle, Lasting
from msb_cache.report.cut import Cut, person, shortened, spread
from tests.logs import ACTOR


def cut(until: int = 3) -> Cut:
    chronicle = Chronicle()
    chronicle.times.extend([10, 20, 30])
    return Cut(chronicle, until, 0, 0, 30)


def test_a_clock_that_was_ahead_says_nothing_later_than_the_position() -> None:
    lasting = Lasting(2, 999, 0, end_seq=3, end_ns=998)
    assert (cut().began_ns(lasting), cut().ended_ns(lasting)) == (20, 30)
    assert cut().told(1, 99) == 10
    assert cut().told(1, 9) == 9


def test_what_ends_later_lasts_and_an_end_is_never_before_the_beginning() -> None:
    assert cut(2).ended_ns(Lasting(1, 10, 0, end_seq=3, end_ns=30)) is None
    assert cut().ended_ns(Lasting(2, 20, 0, end_seq=3, end_ns=5)) == 20
    assert cut().ended_ns(Lasting(1, 10, 0, until_ns=77)) == 77
    assert cut().ended_ns(Lasting(1, 10, 0, until_ns=77, end_seq=3, end_ns=25)) == 25
    assert cut().ended_ns(Lasting(1, 10, 0, until_ns=15, end_seq=3, end_ns=25)) == 15


def test_who_it_was() -> None:
    assert person(ACTOR) == "alice@host"
    assert person(replace(ACTOR, login="bob", reason="why")) == "bob@host"
    assert person(ACTOR, people=False) == "test"
    assert person(replace(ACTOR, observed=True)) == "seen by alice@host"
    assert person(replace(ACTOR, observed=True, seen_by="root@host (x)")) == "alice@host"
    assert cut().person(-1) == ""


def test_texts_have_an_end() -> None:
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd", 3) == "ab…"


@given(st.lists(st.integers()), st.integers(2, 20))
def test_numbers_are_spread(found: list[int], most: int) -> None:
    spreaded = spread(found, most)
    assert len(spreaded) == min(len(found), most)
    assert spreaded[:1] == found[:1]
    assert spreaded[-1:] == found[-1:]
