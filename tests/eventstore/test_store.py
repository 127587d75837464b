"""Append and read: order, times, conditions, and what the table refuses."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlite_utils import Database

from msb_cache.errors import CorruptLogError, LogError, UnknownEventError
from msb_cache.eventstore import clock as clock_jumps
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import MAX_DATA, EventStore, NewEvent, StoredEvent
from msb_cache.eventstore.where import Where
from msb_cache.home.ledger import Ledger
from msb_cache.migrations.schema import migrations
from tests.logs import ACTOR, PYTHON, close_ledgers, digest, new_ledger, pulled, some_events


def read(home: Path, **conditions: object) -> list[StoredEvent]:
    ledger = new_ledger(home, some_events())
    with ledger.read() as connection:
        assert connection is not None
        return list(ledger.store(connection).read(**conditions))  # type: ignore[arg-type]


def test_the_first_append_begins_the_log(tmp_path: Path) -> None:
    events = read(tmp_path)
    assert [event.seq for event in events] == [1, 2, 3, 4, 5, 6, 7]
    assert isinstance(events[0].data, ev.LogCreated)
    assert events[0].subject == events[0].data.log_id
    assert events[1].data == pulled(digest(1))
    assert events[1].type == "image.pulled"
    assert events[1].actor == ACTOR
    assert events[1].operation == events[0].operation == "operation-0"


def test_an_empty_append_writes_nothing(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, [])
    with ledger.write("x") as transaction:
        assert transaction.append([]) == []
    with ledger.read() as connection:
        assert connection is not None
        assert ledger.store(connection).head() is None


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7]),
        ({"after": 2}, [3, 4, 5, 6, 7]),
        ({"until": 2}, [1, 2]),
        ({"after": 2, "until": 4}, [3, 4]),
        ({"types": ["image.used"]}, [3, 6]),
        ({"types": ["image.used", "image.pulled"], "reverse": True}, [6, 3, 2]),
        ({"types": []}, []),
        ({"subjects": [PYTHON]}, [2, 3, 6, 7]),
        ({"subjects": [digest(1)]}, [4, 5]),
        ({"subjects": [PYTHON, digest(1)], "types": ["image.held", "image.used"]}, [3, 4, 6]),
        ({"subjects": [PYTHON], "operation": "operation-4"}, [6]),
        ({"operation": "operation-0"}, [1, 2]),
        ({"operation": "none"}, []),
        ({"reverse": True, "limit": 2}, [7, 6]),
        ({"limit": 0}, []),
        (
            {
                "where": Where(
                    occurred_from_ns=1_800_000_002_000_000_000, occurred_until_ns=1_800_000_003_000_000_000
                )
            },
            [4, 5],
        ),
    ],
)
def test_read_conditions(tmp_path: Path, conditions: dict[str, object], expected: list[int]) -> None:
    assert [event.seq for event in read(tmp_path, **conditions)] == expected


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (Where(actor="alice"), [1, 2, 3, 4, 5, 6, 7]),
        (Where(actor="alice@host"), [1, 2, 3, 4, 5, 6, 7]),
        (Where(actor="alice@other"), []),
        (Where(actor="ali"), []),
        (Where(host="host"), [1, 2, 3, 4, 5, 6, 7]),
        (Where(host="hos"), []),
        (Where(holder="sandbox:dev"), [4, 5]),
        (Where(digest=digest(1)), [2, 3, 4, 5, 6, 7]),
        (Where(digest=digest(2)), []),
        (Where(text="PYTHON:3"), [2, 3, 6, 7]),
        (Where(text="python_3"), []),  # no wildcard of SQL
        (Where(text="%"), []),
        (Where(text="\\"), []),
        (Where(text="sandbox:x"), [6]),
        (Where(text='"archive"'), []),  # the text, not the JSON around it
        (Where(text="archive"), [2]),
        (Where(holder="sandbox:dev", text="released"), []),
        (Where(occurred_from_ns=1_800_000_002_000_000_000, holder="sandbox:dev"), [4, 5]),
        (Where(occurred_until_ns=1_799_999_999_999_999_999), []),
    ],
)
def test_conditions_without_an_index(tmp_path: Path, where: Where, expected: list[int]) -> None:
    ledger = new_ledger(tmp_path, some_events())
    with ledger.read() as connection:
        assert connection is not None
        store = ledger.store(connection)
        assert [event.seq for event in store.read(where=where)] == expected
        assert [seq for seq in range(9) if store.fits(seq, where)] == expected


def test_text_is_found_as_it_was_written(tmp_path: Path) -> None:
    failed = ev.ImagePullFailed(reason='it said "no\\way" — ÄÖ, 100%_done')
    ledger = new_ledger(tmp_path, [NewEvent(failed, PYTHON)])
    with ledger.read() as connection:
        assert connection is not None
        store = ledger.store(connection)
        for text in ('said "NO', "no\\way", "— ÄÖ", "100%_DONE"):
            assert [event.seq for event in store.read(where=Where(text=text))] == [2]
        for text in ("0_", "%d", "1%done"):
            assert [*store.read(where=Where(text=text))] == []


def test_recorded_at_never_goes_back(tmp_path: Path) -> None:
    times = iter([50, 20, 70, 10, 10, 10, 10])
    ledger = new_ledger(tmp_path, some_events(), clock=times)
    with ledger.read() as connection:
        assert connection is not None
        events = list(ledger.store(connection).read(after=1))
    assert [event.recorded_at_ns for event in events] == [50, 50, 70, 70, 70, 70]


@pytest.mark.parametrize("back", [1, 10**9, 3600 * 10**9])
def test_a_clock_that_is_set_back_a_little(tmp_path: Path, back: int) -> None:
    now = 1_800_000_000_000_000_000
    ledger = new_ledger(tmp_path, some_events()[:4], clock=iter([now, now - back, now - 2 * back, now + 1]))
    with ledger.read() as connection:
        assert connection is not None
        events = list(
            ledger.store(connection).read(
                after=1, types=["image.pulled", "image.used", "image.held", "image.released"]
            )
        )
    assert [event.recorded_at_ns - now for event in events] == [0, 0, 0, 1]
    assert [event.occurred_at_ns - now for event in events] == [0, -back, -2 * back, 1]
    # The ids have the clock's reading, which a time that is given for an event does not show.
    assert [int(event.id.replace("-", "")[:12], 16) for event in events] == [
        event.occurred_at_ns // 10**6 for event in events
    ]


def test_a_clock_before_the_epoch_is_the_epoch(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events()[:2], clock=iter([-5, 7]))
    with ledger.read() as connection:
        assert connection is not None
        events = list(ledger.store(connection).read())
    assert [(event.recorded_at_ns, event.occurred_at_ns) for event in events] == [(0, 0), (0, 0), (7, 7)]


def test_an_event_may_have_occurred_long_before(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, [NewEvent(pulled(digest(1)), PYTHON, 1_500_000_000_123_456_789)])
    with ledger.read() as connection:
        assert connection is not None
        (event,) = ledger.store(connection).read(after=1)
    assert event.occurred_at_ns == 1_500_000_000_123_456_789
    assert event.occurred_at.isoformat() == "2017-07-14T02:40:00.123456+00:00"
    assert event.recorded_at_ns > event.occurred_at_ns


@pytest.mark.parametrize(("time", "position"), [(0, 0), (99, 0), (100, 2), (150, 2), (200, 4), (10**18, 4)])
def test_position_at_a_time(tmp_path: Path, time: int, position: int) -> None:
    ledger = new_ledger(tmp_path, some_events()[:3], clock=iter([100, 200, 200]))
    with ledger.read() as connection:
        assert connection is not None
        assert ledger.store(connection).position_at(time) == position


_SOME_TIME = 1_800_000_000 * 10**9
_TIMES = st.integers(0, 2**62)
clocks = st.lists(
    st.tuples(
        st.sampled_from([-(10**20), -(10**17), -3600 * 10**9, -7, 0, 1, 10**6, 10**17, 10**18])
        | st.integers(-(10**12), 10**12),  # by how much the clock moves
        st.integers(1, 3),  # so many events in one append
        st.none() | _TIMES,  # when they happened; None: now
    ),
    max_size=12,
)


@given(clocks, st.lists(_TIMES, max_size=5))
@settings(max_examples=50, deadline=None)
def test_a_time_means_the_last_append_at_which_the_clock_said_no_more(
    course: list[tuple[int, int, int | None]], times: list[int]
) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrations.apply(Database(connection))
    now, recorded = _SOME_TIME, 0
    store = EventStore(connection, clock=lambda: now)
    readings: list[int] = []
    for move, count, occurred in course:
        now = min(max(0, now + move), 2**62)
        connection.execute("BEGIN")
        stored = store.append(
            [NewEvent(pulled(digest(1)), PYTHON, occurred)] * count, operation="x", actor=ACTOR
        )
        connection.execute("COMMIT")
        recorded = max(now, recorded)
        assert {event.recorded_at_ns for event in stored} == {recorded}
        # Behind the event before, the clock is known to the millisecond.
        millisecond = now // 10**6 * 10**6
        readings += [recorded if now // 10**6 == recorded // 10**6 else millisecond] * len(stored)
    effective = [min(readings[place:]) for place in range(len(readings))]
    for time in {*times, *readings, *(reading - 1 for reading in readings)}:
        assert store.position_at(time) == sum(reading <= time for reading in effective)
    connection.close()


def test_a_log_of_an_older_release_has_the_clock_in_its_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gave what happened after the clock had gone back the time of the event before, and noted nothing."""
    monkeypatch.setattr(clock_jumps, "jump", lambda *_: None)
    clock = iter([_SOME_TIME, 2 * _SOME_TIME, _SOME_TIME + 10**9, _SOME_TIME + 2 * 10**9])
    path = new_ledger(tmp_path, some_events()[:4], clock=clock).layout.database
    close_ledgers()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("DROP TRIGGER events_no_update")
    connection.execute("UPDATE events SET occurred_at = recorded_at")
    store = EventStore(connection)
    assert [store.position_at(_SOME_TIME + second * 10**9) for second in (-1, 0, 1, 2, 10**8)] == [
        0,
        2,
        4,
        5,
        5,
    ]
    connection.close()


def test_append_needs_a_transaction(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events())
    connection = sqlite3.connect(ledger.layout.database, isolation_level=None)
    with pytest.raises(LogError, match="within a transaction"):
        EventStore(connection).append(some_events(), operation="x", actor=ACTOR)
    connection.close()


def test_an_oversized_event_is_refused_and_nothing_is_appended(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events())
    huge = ev.ImagePullFailed(reason="x" * MAX_DATA)
    with pytest.raises(LogError, match="at most 4194304"), ledger.write("x") as transaction:
        transaction.append([*some_events(), NewEvent(huge, PYTHON)])
    assert len(read_again(ledger.layout.database)) == 7


def read_again(path: Path) -> list[tuple[int, str]]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT seq, type FROM events ORDER BY seq").fetchall()
    connection.close()
    return rows


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET subject = 'x' WHERE seq = 2",
        "UPDATE events SET seq = 100 WHERE seq = 7",
        "DELETE FROM events WHERE seq = 7",
        "DELETE FROM events",
        "INSERT OR REPLACE INTO events SELECT * FROM events WHERE seq = 2",
        "REPLACE INTO events SELECT * FROM events WHERE seq = 2",
        "INSERT INTO events SELECT 9, 'i', type, version, subject, operation, 1, 1, actor, data, hash "
        "FROM events WHERE seq = 2",
        "INSERT INTO events SELECT NULL, 'i', type, version, subject, operation, 1, 1, actor, data, hash "
        "FROM events WHERE seq = 2",
        "INSERT OR REPLACE INTO events SELECT 8, id, type, version, subject, operation, 1, 1, actor, data, "
        "hash FROM events WHERE seq = 2",
        "INSERT OR IGNORE INTO events SELECT 3, 'i', type, version, subject, operation, 1, 1, actor, data, "
        "hash FROM events WHERE seq = 2",
    ],
)
def test_the_table_is_append_only(tmp_path: Path, statement: str) -> None:
    ledger = new_ledger(tmp_path, some_events())
    before = read_again(ledger.layout.database)
    connection = sqlite3.connect(ledger.layout.database, isolation_level=None)
    with pytest.raises(sqlite3.IntegrityError, match="only ever appended"):
        connection.execute(statement)
    connection.close()
    assert read_again(ledger.layout.database) == before


def read_all(ledger: Ledger) -> list[StoredEvent]:
    with ledger.read() as connection:
        assert connection is not None
        return list(ledger.store(connection).read())


def insert_raw(path: Path, type_: str, version: int, data: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(
        "INSERT INTO events SELECT 8, 'i', ?, ?, subject, operation, 1, 1, actor, ?, hash "
        "FROM events WHERE seq = 2",
        (type_, version, data),
    )
    connection.close()


@pytest.mark.parametrize(
    ("type_", "version", "data", "error", "message"),
    [
        ("image.teleported", 1, "{}", UnknownEventError, "unknown type 'image.teleported'"),
        ("image.used", 3, "{}", UnknownEventError, "image.used in version 3"),
        ("image.used", 0, "{}", UnknownEventError, "image.used in version 0"),
        ("image.used", 1, "{", CorruptLogError, "damaged image.used"),
        ("image.used", 1, '{"manifest_digest":7}', CorruptLogError, "damaged image.used"),
    ],
)
def test_what_cannot_be_decoded_is_named(
    tmp_path: Path, type_: str, version: int, data: str, error: type[Exception], message: str
) -> None:
    ledger = new_ledger(tmp_path, some_events())
    insert_raw(ledger.layout.database, type_, version, data)
    with pytest.raises(error, match=message):
        read_all(ledger)


def test_unknown_fields_of_a_known_version_are_passed_over() -> None:
    data = b'{"manifest_digest":"sha256:0","colour":"blue"}'
    assert msgspec.json.decode(data, type=ev.ImageUsed) == ev.ImageUsed(manifest_digest="sha256:0")
