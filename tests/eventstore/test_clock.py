"""Jumps of the clock: which are seen, what is noted of them, and that each is noted once."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlite_utils import Database

from msb_cache.eventstore import clock
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.clock import HOUR
from msb_cache.eventstore.store import EventStore, NewEvent
from msb_cache.migrations.schema import migrations
from msb_cache.projections import images, live, schema
from msb_cache.projections.moment import set_moment
from msb_cache.projections.past import Past
from tests.logs import ACTOR, PYTHON, digest, pulled

NOW = 1_800_000_000 * 10**9
DAY = 24 * HOUR
YEARS = 3652 * DAY


class Machine:
    """A log on a machine whose clock and whose own time a test moves."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        set_moment(self.connection, time.time_ns)
        migrations.apply(Database(self.connection))
        schema.create(self.connection)
        self.now, self.start, self.elapsed = NOW, "one", 50 * HOUR
        self.store = EventStore(
            self.connection, clock=lambda: self.now, uptime=lambda: (self.start, self.elapsed)
        )

    def goes_on(self, ns: int) -> None:
        self.now += ns
        self.elapsed += ns

    def restarts(self, name: str) -> None:
        self.start, self.elapsed = name, 0

    def append(self, *events: NewEvent) -> list[ev.ClockJumped]:
        self.connection.execute("BEGIN")
        stored = self.store.append(events or [NewEvent(used(), PYTHON)], operation="x", actor=ACTOR)
        live.apply(self.connection, stored)
        self.connection.execute("COMMIT")
        assert live.compare(self.connection, live.fold_until(self.store)) == []
        return [event.data for event in stored if isinstance(event.data, ev.ClockJumped)]

    def ahead(self) -> int:
        return clock.ahead(self.connection, self.now, lambda: (self.start, self.elapsed))

    def times(self) -> tuple[int, int]:
        (row,) = images.handles(self.connection)
        return row.created_at - NOW, row.last_used_at - NOW


def used() -> ev.ImageUsed:
    return ev.ImageUsed(manifest_digest=digest(1))


@pytest.fixture
def machine() -> Iterator[Machine]:
    """Has an image that came an hour ago."""
    machine = Machine()
    machine.append(NewEvent(pulled(digest(1)), PYTHON))
    machine.goes_on(HOUR)
    yield machine
    machine.connection.close()


def test_a_jump_forward_and_back_is_noted_twice_and_leaves_nothing_in_the_future(machine: Machine) -> None:
    machine.now += YEARS
    assert machine.ahead() == YEARS
    (forward,) = machine.append()
    assert (forward.direction, forward.by_ns, forward.from_ns) == ("forward", YEARS, NOW + HOUR)
    machine.goes_on(HOUR)
    other = "docker.io/library/other:1"
    held = NewEvent(ev.ImageHeld(holder="sandbox:x"), digest(1))
    assert machine.append(NewEvent(pulled(digest(1)), other), held) == []
    assert machine.ahead() == YEARS
    machine.now -= YEARS
    (back,) = machine.append(NewEvent(ev.ImageUsed(manifest_digest=digest(1)), other))
    assert (back.direction, back.to_ns, back.was_ahead) == ("back", NOW + 2 * HOUR, True)
    assert back.from_ns == NOW + YEARS + 2 * HOUR
    assert machine.ahead() == 0
    rows = {row.reference: (row.created_at, row.last_used_at) for row in images.handles(machine.connection)}
    assert rows == {PYTHON: (NOW, NOW + 2 * HOUR), other: (NOW + 2 * HOUR, NOW + 2 * HOUR)}
    (hold,) = images.holds(machine.connection, None)
    assert hold.since == NOW + 2 * HOUR
    for _ in range(3):
        machine.goes_on(DAY)
        assert machine.append() == []
    assert {event.recorded_at_ns for event in machine.store.read(after=6)} == {NOW + YEARS + 2 * HOUR}


def test_a_quiet_weekend_and_a_suspended_machine_are_no_jumps(machine: Machine) -> None:
    machine.goes_on(3 * DAY)
    assert machine.append() == []
    machine.restarts("two")
    machine.now += 300 * DAY
    assert machine.append() == []
    machine.now += HOUR  # just set, by so little
    assert machine.append() == []
    assert machine.ahead() == 0


def test_a_clock_that_goes_wrong_while_the_machine_is_off_is_seen_when_it_is_right_again(
    machine: Machine,
) -> None:
    machine.goes_on(DAY)
    machine.restarts("two")
    machine.now += YEARS
    assert machine.append() == []  # it may have been off for ten years
    machine.goes_on(HOUR)
    machine.append()
    machine.now -= YEARS
    (back,) = machine.append()
    assert back.was_ahead
    assert machine.times() == (0, machine.now - NOW)


@pytest.mark.parametrize("wrong", [0, 946_684_800 * 10**9, NOW - DAY, NOW + DAY // 2])
def test_a_clock_that_is_behind_makes_no_image_older(machine: Machine, wrong: int) -> None:
    """A machine without a battery begins in 1970, until it has reached a time server."""
    for _ in range(48):
        machine.goes_on(HOUR)
        machine.append()
    right, before = machine.now, machine.times()
    machine.restarts("two")
    machine.now = wrong
    (back,) = machine.append(NewEvent(ev.ImageUsed(manifest_digest=digest(1)), "docker.io/library/none:1"))
    assert (back.direction, back.was_ahead) == ("back", False)
    assert machine.times() == before
    machine.goes_on(HOUR // 2)
    assert machine.append() == []
    machine.now = right + HOUR
    (forward,) = machine.append()
    assert forward.direction == "forward"
    assert machine.ahead() == 0  # it was behind, and is right again
    assert machine.times() == (0, machine.now - NOW)


def test_jumps_while_recording_times_are_held_back_are_noted_too(machine: Machine) -> None:
    machine.now += YEARS
    machine.append()
    noted = []
    for move in (-YEARS, YEARS // 2, -YEARS // 2):
        machine.now += move
        machine.goes_on(10**9)
        noted += machine.append()
        assert machine.append() == []
    assert [(jump.direction, jump.was_ahead) for jump in noted] == [
        ("back", True),
        ("forward", False),
        ("back", True),
    ]
    assert machine.times() == (0, machine.now - NOW)


def test_what_an_older_release_left_is_put_right(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It appended for years behind a time of 2036, noted nothing, and said of all that it was in 2036."""
    with monkeypatch.context() as older:
        older.setattr(clock, "jump", lambda *_: None)
        machine.now += YEARS
        machine.append()
        machine.now -= YEARS
        for _ in range(3):
            machine.goes_on(DAY)
            machine.append(NewEvent(used(), PYTHON, NOW + YEARS + HOUR))
    machine.goes_on(DAY)
    (back,) = machine.append()
    assert (back.from_ns, back.was_ahead) == (NOW + YEARS + HOUR, True)
    assert machine.times() == (0, machine.now - NOW)
    assert machine.append() == []


def test_without_the_machines_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock._start.cache_clear()
    monkeypatch.setattr("builtins.open", _refuse)
    assert clock.since_start() is None
    clock._start.cache_clear()


def _refuse(*_: object, **__: object) -> None:
    raise FileNotFoundError


def test_this_machines_own_time() -> None:
    clock._start.cache_clear()
    one, two = clock.since_start(), clock.since_start()
    if one is not None and two is not None:
        assert one[0] == two[0]
        assert one[1] <= two[1]


moves = st.lists(
    st.tuples(
        st.sampled_from([0, HOUR, -2 * HOUR, DAY, -DAY, YEARS, -YEARS, -10 * YEARS]),  # a jump
        st.integers(0, 3 * DAY),  # what goes by
        st.booleans(),  # a restart
        st.none() | st.integers(0, 2**61),  # when it happened
    ),
    min_size=1,
    max_size=10,
)


def times(connection: sqlite3.Connection) -> list[tuple[int, int]]:
    return [(row.created_at, row.last_used_at) for row in images.handles(connection)]


@given(moves)
@settings(max_examples=25, deadline=None)
def test_any_course_of_a_clock(course: list[tuple[int, int, bool, int | None]]) -> None:
    machine = Machine()
    was = {}
    for number, (jump, goes_on, restart, occurred) in enumerate(course):
        if restart:
            machine.restarts(str(number))
        machine.goes_on(goes_on)
        machine.now = max(0, machine.now + jump)
        jumps = machine.append(NewEvent(pulled(digest(number % 3)), PYTHON, occurred))
        assert len(jumps) <= 1
        assert machine.append() == []  # a jump is noted once
        (position,) = machine.connection.execute("SELECT max(seq) FROM events").fetchone()
        was[position] = times(machine.connection)
        if jumps and jumps[0].was_ahead and occurred is None:
            assert all(time <= machine.now for time in was[position][0])
    past = Past()
    for position, rows in was.items():
        past.advance(machine.connection, machine.store, position)
        assert times(past.connection) == rows
    past.close()
    machine.connection.close()
