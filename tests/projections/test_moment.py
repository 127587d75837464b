"""What time it is for a question: the clock's in the live index, and the one asked about in the past."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.clock import HOUR
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.projections import images
from msb_cache.projections.moment import LASTS, moment, set_moment
from msb_cache.projections.past import Past
from tests.logs import ACTOR, PYTHON, digest

M = digest("M")


@pytest.mark.parametrize(("now", "lasting"), [(99, [1, 2, 3]), (100, [1, 3]), (101, [1, 3]), (200, [1])])
def test_what_lasts(now: int, lasting: list[int]) -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE hold (id, until)")
    connection.executemany("INSERT INTO hold VALUES (?, ?)", [(1, None), (2, 100), (3, 200)])
    set_moment(connection, lambda: now)
    assert moment(connection) == now
    found = connection.execute(f"SELECT id FROM hold WHERE {LASTS} ORDER BY id")
    assert [each for (each,) in found] == lasting
    connection.close()


def test_the_moment_of_the_live_index_is_the_clock_whenever_it_is_asked(tmp_path: Path) -> None:
    now = 1000
    ledger = Ledger(Layout(tmp_path), actor=ACTOR, clock=lambda: now)
    with ledger.write("hold") as transaction:
        assert moment(transaction.connection) == 1000
        held = ev.ImageHeld(holder="sandbox:x", until_ns=2000)
        transaction.append([NewEvent(held, M), NewEvent(ev.ImagePinned(until_ns=3000), PYTHON)])
    found = []
    for now in (1999, 2000, 2999, 3000):
        with ledger.read() as connection:
            assert connection is not None
            assert moment(connection) == now
            held_by = images.holders(connection, M)
            assert [each.holder for each in images.holds(connection, None)] == held_by
            assert images.held_by(connection, "sandbox:x") == [M for _ in held_by]
            pins = [each.subject for each in images.pins(connection)]
            assert images.is_pinned(connection, PYTHON, M) == bool(pins)
            assert (images.pin(connection, PYTHON) is not None) == bool(pins)
            found.append((held_by, pins, images.ended_holds(connection)))
    assert found == [
        (["sandbox:x"], [PYTHON], {}),
        ([], [PYTHON], {M: (2000, 2)}),
        ([], [PYTHON], {M: (2000, 2)}),
        ([], [], {M: (2000, 2)}),
    ]
    ledger.close()


def test_of_holds_that_have_ended_the_last_end_counts(tmp_path: Path) -> None:
    now = 1000
    ledger = Ledger(Layout(tmp_path), actor=ACTOR, clock=lambda: now)
    for holder, until in (("sandbox:a", 1500), ("sandbox:b", 1800), ("sandbox:c", 1700), ("sandbox:d", 9000)):
        with ledger.write(holder) as transaction:
            transaction.append([NewEvent(ev.ImageHeld(holder=holder, until_ns=until), M)])
    now = 2000
    with ledger.read() as connection:
        assert connection is not None
        assert images.ended_holds(connection) == {M: (1800, 3)}
    ledger.close()


def test_a_clock_that_runs_ahead_ends_nothing(tmp_path: Path) -> None:
    now, elapsed = 10 * HOUR, 0
    ledger = Ledger(Layout(tmp_path), actor=ACTOR, clock=lambda: now)
    ledger._uptime = lambda: ("this start", elapsed)
    with ledger.write("begin") as transaction:
        transaction.append([NewEvent(ev.ImageHeld(holder="sandbox:x", until_ns=now + 5 * HOUR), M)])
    now, elapsed = now + 24 * HOUR, HOUR
    with ledger.read() as connection:
        assert connection is not None
        assert moment(connection) == 11 * HOUR
        assert images.holders(connection, M) == ["sandbox:x"]
    ledger.close()


def test_the_past_is_asked_about_a_moment_of_it(tmp_path: Path) -> None:
    now = 1000
    ledger = Ledger(Layout(tmp_path), actor=ACTOR, clock=lambda: now)
    with ledger.write("hold") as transaction:
        transaction.append([NewEvent(ev.ImageHeld(holder="sandbox:x", until_ns=2000), M)])
    now = 5000
    with ledger.read() as connection:
        assert connection is not None
        past = Past()
        past.advance(connection, ledger.store(connection), 2)
        for asked, holders in ((1999, ["sandbox:x"]), (2000, [])):
            past.asked_about(asked)
            assert images.holders(past.connection, M) == holders
        past.close()
    ledger.close()
