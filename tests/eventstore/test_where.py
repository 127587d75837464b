"""Conditions on events: each fits what it says, and characters that LIKE knows are ordinary ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import EventStore, NewEvent
from msb_cache.eventstore.where import ANYTHING, Where
from tests.logs import ACTOR, PYTHON, digest, new_ledger, pulled, some_events

ODD = 'sandbox:100%_a"b\\c'


@pytest.mark.parametrize(
    ("where", "positions"),
    [
        (ANYTHING, [1, 2, 3, 4, 5, 6, 7, 8]),
        (Where(actor="alice"), [1, 2, 3, 4, 5, 6, 7, 8]),
        (Where(actor="alice@host"), [1, 2, 3, 4, 5, 6, 7, 8]),
        (Where(actor="alice@other"), []),
        (Where(actor="ali"), []),
        (Where(host="host", holder="sandbox:dev"), [4, 5]),
        (Where(digest=digest(1)), [2, 3, 4, 5, 6, 7, 8]),
        (Where(text="PYTHON"), [2, 3, 6, 7]),
        (Where(text="%"), [8]),
        (Where(text="0%_A"), [8]),
        (Where(text='a"b\\c'), [8]),
        (Where(text="sandbox_dev"), []),
        (Where(occurred_from_ns=1_800_000_000 * 10**9), [1, 2, 3, 4, 5, 6, 7, 8]),
        (Where(occurred_until_ns=1_800_000_000 * 10**9 - 1), []),
    ],
    ids=repr,
)
def test_what_fits(tmp_path: Path, where: Where, positions: list[int]) -> None:
    ledger = new_ledger(tmp_path, [*some_events(), NewEvent(ev.ImageHeld(holder=ODD), digest(1))])
    with ledger.read() as connection:
        assert connection is not None
        assert [event.seq for event in ledger.store(connection).read(where=where)] == positions


_words = st.one_of(
    st.none(),
    st.sampled_from(["alice", "alice@host", "bob", "root@host", "ci_job=12", "12", "a.b=c", "host", ODD]),
    st.sampled_from(
        ["PYTHON", "%", "_", "\\", '"', "é", "É", "sandbox:dev", digest(1), digest(1)[7:20], "image"]
    ),
    st.text(
        min_size=1, max_size=3, alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    ),
)
_times = st.none() | st.integers(1_799_999_999, 1_800_000_012).map(lambda seconds: seconds * 10**9)
_wheres = st.builds(
    Where,
    actor=_words,
    host=_words,
    holder=_words,
    digest=_words,
    text=_words,
    occurred_from_ns=_times,
    occurred_until_ns=_times,
)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EventStore, list[tuple[Any, ...]]]]:
    """A log by several people, and its rows."""
    ledger = new_ledger(tmp_path_factory.mktemp("home"), some_events())
    sudo = replace(ACTOR, user="root", uid=0, login="bob", login_uid=7, claimed={"ci_job": "12", "a.b": "c"})
    with ledger.write("x", actor=sudo) as transaction:
        transaction.append([NewEvent(ev.ImageHeld(holder=ODD), digest(1)), NewEvent(pulled(digest(2)), "É")])
    with ledger.read() as connection:
        assert connection is not None
        rows = connection.execute("SELECT seq, subject, occurred_at, actor, data FROM events ORDER BY seq")
        yield ledger.store(connection), rows.fetchall()


@given(where=_wheres)
def test_the_same_is_asked_outside_of_the_database(told, where: Where) -> None:
    store, rows = told
    fits = where.test()
    assert [seq for seq, *columns in rows if fits(*columns)] == [
        event.seq for event in store.read(where=where)
    ]


@pytest.mark.parametrize("name", ["actor", "host", "holder", "digest", "text"])
@given(word=_words)
def test_each_condition_by_itself_is_the_same(told, name: str, word: str | None) -> None:
    store, rows = told
    where = Where(**{name: word})
    fits = where.test()
    assert [seq for seq, *columns in rows if fits(*columns)] == [
        event.seq for event in store.read(where=where)
    ]


def test_times_are_those_of_what_happened_and_inclusive(tmp_path: Path) -> None:
    late = [NewEvent(pulled(digest(1)), PYTHON, occurred_at_ns=at) for at in (50, 60, 70)]
    ledger = new_ledger(tmp_path, late)
    with ledger.read() as connection:
        assert connection is not None
        found = ledger.store(connection).read(where=Where(occurred_from_ns=50, occurred_until_ns=60))
        assert [event.occurred_at_ns for event in found] == [50, 60]


def test_an_actor_is_found_by_user_login_and_what_is_claimed(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events()[:1])
    sudo = replace(ACTOR, user="root", uid=0, login="bob", login_uid=7, claimed={"ci_job": "12", "a.b": "c"})
    with ledger.write("x", actor=sudo) as transaction:
        transaction.append([NewEvent(ev.ImageHeld(holder=ODD), digest(1))])

    def found(actor: str) -> list[int]:
        with ledger.read() as connection:
            assert connection is not None
            return [event.seq for event in ledger.store(connection).read(where=Where(actor=actor))]

    for actor in ("root", "root@host", "bob", "bob@host", "12", "ci_job=12", "a.b=c"):
        assert found(actor) == [3], actor
    for actor in ("bob@other", "7", "ci_job", "ci_job=", "=12", ""):
        assert found(actor) == [], actor
    assert found("alice") == [1, 2]
