"""Parameters: which there are, what they take, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given as given_by
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from msb_cache.queries.events import Filters
from msb_cache.web.asked import AS_OF, FILTERS, LIMIT, Parameter, given
from msb_cache.web.problems import RefusedError

FLAG = Parameter("reverse", "…", "flag")
MANY = Parameter("types", "…", many=True)
NEEDED = Parameter("before", "a time", needed=True)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", {}),
        ("as_of=%405&limit=7", {"as_of": "@5", "limit": 7}),
        ("as_of=&limit=&types=", {}),
        ("types=a&types=b", {"types": ["a", "b"]}),
        ("reverse=true", {"reverse": True}),
        ("reverse=0", {"reverse": False}),
        ("limit=0", {"limit": 0}),
        ("limit=1000", {"limit": 1000}),
    ],
)
def test_what_was_given_is_read(query: str, found: object) -> None:
    assert given(QueryParams(query), (AS_OF, LIMIT, FLAG, MANY)) == found


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("as-of=1", "did you mean as_of"),
        ("x=1", "there are: as_of, limit, reverse, types"),
        ("limit=1001", "from 0 to 1000"),
        ("limit=-1", "from 0 to 1000"),
        ("limit=١", "from 0 to 1000"),
        ("limit=" + "9" * 900, "from 0 to 1000"),
        ("reverse=yes", "true or false"),
        ("as_of=1&as_of=2", "given twice"),
        ("as_of=" + "1" * 1001, "at most 1000 characters"),
        ("&".join(["types=a"] * 21), "more than 20 times"),
    ],
)
def test_what_makes_no_sense_is_refused(query: str, said: str) -> None:
    with pytest.raises(RefusedError, match=said) as raised:
        given(QueryParams(query), (AS_OF, LIMIT, FLAG, MANY))
    assert raised.value.status == 400


def test_what_is_needed_is_asked_for() -> None:
    with pytest.raises(RefusedError, match="say before: a time"):
        given(QueryParams("before="), (NEEDED,))


@given_by(st.text(max_size=300))
def test_any_query_is_read_or_refused(query: str) -> None:
    try:
        found = given(QueryParams(query), FILTERS)
    except RefusedError:
        return
    assert found.keys() <= {each.name for each in FILTERS}


def test_every_filter_can_be_asked_for() -> None:
    older = {"occurred_since", "occurred_until"}
    assert {each.name for each in FILTERS} == Filters.__annotations__.keys() - older
