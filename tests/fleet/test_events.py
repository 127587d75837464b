"""A fleet's events are those of its hosts' own logs, whatever is asked for."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from msb_cache import ImageNotFoundError, InvalidConfigError, OperationNotFoundError
from msb_cache.eventstore.events import ManifestAdded
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import StoredEvent
from msb_cache.fleet import events
from msb_cache.fleet.connect import Postgres, connected
from msb_cache.fleet.events import Asked, Means
from msb_cache.fleet.fold import fold
from msb_cache.fleet.place import Reading, Values
from msb_cache.queries.events import Query
from msb_cache.shapes import jsonable
from tests.fleet.filled import Filled
from tests.fleet.random_lives import BEGIN, NAMES, Life, steps
from tests.fleet.randomlogs import ship
from tests.fleet.sent import log_of
from tests.logs import PYTHON, new_ledger, some_events, ticking


def told(event: StoredEvent) -> dict[str, Any]:
    """The JSON of a host's event, without an image's configuration."""
    if isinstance(event.data, ManifestAdded):
        event = replace(event, data=replace(event.data, config=None))
    found: dict[str, Any] = jsonable(event)
    return found


def found_in(found: list[Any], log_id: str) -> list[dict[str, Any]]:
    return [told(each.found) for each in found if each.log_id == log_id]


moments = st.integers(-1, 16).map(
    lambda seconds: datetime.fromtimestamp(BEGIN // 10**9, UTC) + timedelta(seconds=seconds)
)
BEGIN_TIME = datetime.fromtimestamp(BEGIN // 10**9, UTC) - timedelta(days=1)
filters = st.fixed_dictionaries(
    {},
    optional={
        "since": moments,
        "until": moments,
        "recorded_since": moments,
        "recorded_until": moments,
        "types": st.lists(
            st.sampled_from(
                ["image.pulled", "image.removed", "image.held", "layer.deleted", "manifest.added"]
            ),
            min_size=1,
            max_size=3,
        ),
        "actor": st.sampled_from(["alice", "bob@one", "bob@two", "nobody"]),
        "host": st.sampled_from(["one", "two"]),
        "holder": st.sampled_from(["sandbox:s1", "sandbox:s2"]),
        "grep": st.sampled_from(["SUPERSEDED", '"ä"', '"Ä" %_', "tool", "%", "sandbox:s"]),
        "reverse": st.booleans(),
        "limit": st.integers(0, 8),
    },
)


@settings(max_examples=2)
@given(lives=st.lists(steps, min_size=1, max_size=3), asked=st.lists(filters, min_size=2, max_size=4))
def test_a_host_s_events_and_histories_are_its_own(filled: Filled, lives, asked) -> None:
    with tempfile.TemporaryDirectory() as folder:
        hosts = [
            Life(Path(folder, str(number)), name)
            for number, name in zip(range(3), ("one", "two", "one"), strict=True)
        ]
        logs = [filled.add(each.home) for each in hosts]
        # In turns, and shipped in pieces: what one host does has nothing to do with another's answer.
        for number, turn in enumerate(itertools.zip_longest(*lives)):
            for host, step in zip(hosts, turn, strict=False):
                if step is not None:
                    host.step(step)
            if number % 5 == 2:
                for host in hosts:
                    filled.send(host.home)
                filled.fold()
        for host in hosts:
            filled.add(host.home)
        fleet = filled.fleet(clock=lambda: BEGIN + 10**12)
        together: list[dict[str, Any]] = []
        for host, log_id in zip(hosts, logs, strict=True):
            with host.cache() as cache:
                together += [{"log": log_id, **told(each)} for each in cache.events()]
                for given_ in asked:
                    own = [told(each) for each in cache.events(**given_)]
                    assert found_in(fleet.events(hosts=[log_id], **given_), log_id) == own
                    name = NAMES[len(own) % len(NAMES)]
                    _same_history(cache, fleet, log_id, name, given_)
                _same_history(cache, fleet, log_id, "app:*", {})
                for each in cache.list():
                    _same_history(cache, fleet, log_id, each.manifest_digest, {})
                    _same_history(cache, fleet, log_id, each.manifest_digest[7:20], {"limit": 2})
                _same_subjects(cache, fleet, log_id)
        every = fleet.events(hosts=logs)
        keys = [(each.found.recorded_at_ns, each.log_id, each.found.seq) for each in every]
        assert keys == sorted(keys)
        together.sort(key=lambda each: (each["recorded_at"], each["log"], each["seq"]))
        assert [{"log": each.log_id, **told(each.found)} for each in every] == together
        newest = fleet.events(hosts=logs, limit=7)
        assert newest == every[-7:]
        assert fleet.events(hosts=logs, limit=7, reverse=True) == every[-7:][::-1]
        for name in NAMES:
            try:
                found = fleet.history(name, hosts=logs)
            except ImageNotFoundError:
                continue
            assert fleet.history(name, hosts=logs, limit=4) == found[-4:]
            assert fleet.history(name, hosts=logs, limit=4, reverse=True) == found[-4:][::-1]


def _same_history(cache, fleet, log_id: str, name: str, given_: dict[str, Any]) -> None:
    try:
        own = [told(each) for each in cache.history(name, **given_)]
    except ImageNotFoundError:
        with pytest.raises(ImageNotFoundError):
            fleet.history(name, hosts=[log_id], **given_)
        return
    assert found_in(fleet.history(name, hosts=[log_id], **given_), log_id) == own


def _same_subjects(cache, fleet, log_id: str) -> None:
    events = cache.events()
    for event in events[:: max(1, len(events) // 4)]:
        own = [told(each) for each in cache.events(subject=event.subject)]
        assert found_in(fleet.events(hosts=[log_id], subject=event.subject), log_id) == own
        own = [told(each) for each in cache.events(operation=event.operation, types=[event.type])]
        found = fleet.events(hosts=[log_id], operation=event.operation, types=[event.type])
        assert found_in(found, log_id) == own
        if event.subject.startswith("sha256:"):
            own = [told(each) for each in cache.events(digest=event.subject[:20])]
            assert found_in(fleet.events(hosts=[log_id], digest=event.subject[:20]), log_id) == own
    own = [told(each) for each in cache.events(since="@3", until="@6")]
    assert found_in(fleet.events(hosts=[log_id], since="@3", until="@6"), log_id) == own
    own = [told(each) for each in cache.events(after=2, limit=3)]
    assert found_in(fleet.events(hosts=[log_id], after=2, limit=3), log_id) == own


def test_positions_are_of_one_log(filled: Filled, tmp_path: Path) -> None:
    logs = [filled.add(Life(tmp_path / str(number), "pair").home) for number in range(2)]
    with pytest.raises(InvalidConfigError, match=r"@5, is one of one log, and 2 logs are asked"):
        filled.fleet().events(hosts=["pair"], since="@5")
    assert [each.found.seq for each in filled.fleet().events(hosts=[logs[0]], since="@2", until="@3")] == [
        2,
        3,
    ]


def test_what_is_nowhere(filled: Filled, tmp_path: Path) -> None:
    fleet, log_id = filled.fleet(), filled.add(Life(tmp_path / "home", "host").home)
    for asked, message in (
        ({"subject": "ap:1"}, "no host's log has seen ap:1; did you mean app:1"),
        ({"digest": "sha256:0000"}, "no such digest is in the hosts' logs"),
        ({"subject": "nothing*"}, "no image of any host matches"),
    ):
        with pytest.raises(ImageNotFoundError, match=message):
            fleet.events(hosts=[log_id], **asked)
    with pytest.raises(OperationNotFoundError, match="no operation of any host has the id"):
        fleet.events(hosts=[log_id], operation="0000")
    with pytest.raises(ImageNotFoundError, match="no host of the fleet is"):
        fleet.events(hosts=["0123456789abcdef"])
    with pytest.raises(TypeError, match="did you mean since"):
        fleet.events(sinc="yesterday")  # type: ignore[call-arg]


@settings(max_examples=2)
@given(turns=st.lists(st.tuples(st.integers(0, 1), st.sampled_from(NAMES), st.booleans()), max_size=8))
def test_what_is_followed_comes_once_and_misses_nothing(filled: Filled, turns) -> None:
    with tempfile.TemporaryDirectory() as folder:
        hosts = [Life(Path(folder, str(number)), f"h{number}") for number in range(2)]
        logs = [filled.add(host.home) for host in hosts]
        before = {log_id: len(filled.fleet().events(hosts=[log_id])) for log_id in logs}
        left = iter(turns)
        asked_since = 0

        def stopped() -> bool:
            nonlocal asked_since
            turn = next(left, None)
            if turn is not None:
                number, name, folded = turn
                hosts[number].step(("load", name, number))
                filled.send(hosts[number].home)
                if folded:
                    filled.fold()
            elif not asked_since:
                filled.fold()
            asked_since += turn is None
            return asked_since > 3  # it is asked twice for each look

        found = [*filled.fleet().follow(hosts=logs, stopped=stopped, interval=0.001, since=BEGIN_TIME)]
        last = [*filled.fleet().follow(hosts=logs, stopped=lambda: True)]
        for host, log_id in zip(hosts, logs, strict=True):
            with host.cache() as cache:
                own = [event.seq for event in cache.events()]
            assert [each.found.seq for each in found if each.log_id == log_id] == own
            assert len(own) >= before[log_id]
        assert last == filled.fleet().events(hosts=logs)[-10:]
        of_one = [*filled.fleet().follow(NAMES[0], hosts=logs, stopped=lambda: True, since=BEGIN_TIME)]
        assert of_one == filled.fleet().history(NAMES[0], hosts=logs)


def test_of_many_logs_those_are_read_whose_turn_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled, homes = Filled({"db": str(tmp_path / "fleet.db")}), [tmp_path / str(n) for n in range(80)]
    clock = ticking()
    for home in homes:  # each begins when the one before has ended
        with new_ledger(home, [], clock=clock).write(uuid7()) as transaction:
            transaction.append(some_events())
        filled.send(home)
    read: set[str] = set()
    load = events._Cursor.load

    def noted(cursor: events._Cursor, *arguments: Any) -> None:
        read.add(cursor.log.log_id)
        load(cursor, *arguments)

    monkeypatch.setattr(events._Cursor, "load", noted)
    found = filled.fleet().iter_events()
    first = next(found)
    assert first.log_id == log_of(homes[0])[0][0]
    assert len(read) <= events._AT_ONCE
    told = [first, *found]
    assert len(read) == len(homes)
    assert [each.found.recorded_at_ns for each in told] == sorted(each.found.recorded_at_ns for each in told)
    assert [each.log_id for each in told][:: len(told) // 80] == [log_of(home)[0][0] for home in homes]


class _Counting:
    """Reads of a server that count the events which each statement looks at."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self.looked_at: list[int] = []

    def rows(self, sql: str, arguments: Sequence[Any] = ()) -> list[Values]:
        [([explained],)] = self._reading.rows(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", arguments)
        self.looked_at.append(_scanned(explained["Plan"]))
        return self._reading.rows(sql, arguments)

    stream = rows


def _scanned(plan: dict[str, Any]) -> int:
    found = 0
    if plan.get("Relation Name", "").startswith("events_"):
        found = plan["Actual Loops"] * (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0))
    return found + sum(map(_scanned, plan.get("Plans", ())))


def test_the_newest_of_an_image_are_read_without_the_others(server: Postgres, tmp_path: Path) -> None:
    pulled, used, *_ = some_events()
    ledger = new_ledger(tmp_path, [])
    for event in (pulled, *[used] * 100):
        with ledger.write(uuid7()) as transaction:
            transaction.append([event])
    rows = log_of(tmp_path)
    ship(server, rows)
    fold(server)
    with connected(server.dsn) as connection:
        for table in ("events", "head", "fold_state", "pointed_at", "image"):
            names = connection.execute(
                "SELECT string_agg(column_name, ', ') FROM information_schema.columns "
                "WHERE table_schema = 'msb_cache' AND table_name = %s AND column_name <> 'log_id'",
                (table,),
            ).fetchall()[0][0]
            connection.execute(
                f"INSERT INTO msb_cache.{table} (log_id, {names}) SELECT md5(n::text), {names} "
                f"FROM msb_cache.{table}, generate_series(1, 39) n".encode()
            )
        connection.execute("ANALYZE")
    with server.read() as reading:
        counting = _Counting(reading)
        asked = Asked(Query({"limit": 10}, BEGIN))
        found = events.history(counting, Means((PYTHON,)), asked, newest=10)
        assert {each.found.seq for each in found} == {len(rows)}
        assert 10 <= sum(counting.looked_at) < 500  # of 4,000
        assert found == events.history(reading, Means((PYTHON,)), asked)[-len(found) :]
