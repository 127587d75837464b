"""What a fleet answers of the past is what each host answers of it, or answered then."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from msb_cache import Actor, ImageCache
from msb_cache.activity import Activity, Count
from msb_cache.artifacts.layout import Layout
from msb_cache.errors import FleetError, ImageNotFoundError, InvalidConfigError, MicrosandboxError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import EventStore, NewEvent, as_datetime
from msb_cache.fleet.connect import Postgres
from msb_cache.fleet.file import FleetFile
from msb_cache.fleet.fleet import Fleet
from msb_cache.fleet.folded import decoded
from msb_cache.fleet.hosts import OnHost
from msb_cache.fleet.past import Past
from msb_cache.home.connect import open_database
from msb_cache.projections.rows import ManifestRow
from msb_cache.projections.tables import columns
from msb_cache.shapes import jsonable
from tests.fleet.asking import own, told
from tests.fleet.filled import Filled, in_file, on_server
from tests.fleet.postgres import Server
from tests.fleet.random_lives import MINUTE, OPERATIONS, REFERENCES, Clock, Host
from tests.fleet.test_equal import SLOW
from tests.logs import PYTHON, digest, layer, manifest_added, pulled

STEPS = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from(OPERATIONS), st.integers(0, 7)), min_size=4, max_size=20
)

HOUR = 3600 * 10**9
BEGIN = 1_790_000_000 * 10**9
OTHER = "docker.io/library/other:1"

QUESTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "list": lambda asked, then: asked.list(as_of=then),
    "list app": lambda asked, then: asked.list("app:*", as_of=then),
    "damage": lambda asked, then: asked.damage(as_of=then),
    "holds": lambda asked, then: asked.holds(as_of=then),
    **{f"list {name}": lambda asked, then, name=name: asked.list(name, as_of=then) for name in REFERENCES},
    **{f"holds {name}": lambda asked, then, name=name: asked.holds(name, as_of=then) for name in REFERENCES},
}


class About:
    """A fleet that is asked about one log."""

    def __init__(self, fleet: Fleet, log_id: str) -> None:
        self._fleet, self._log_id = fleet, log_id

    def __getattr__(self, name: str) -> Callable[..., Any]:
        ask = getattr(self._fleet, name)
        return lambda *asked, **more: ask(*asked, **more, hosts=[self._log_id])


def compare(host: Host, fleet: Fleet, log_id: str, then: Any) -> None:
    """Ask a host and the fleet the same of a moment."""
    for question, ask in QUESTIONS.items():
        theirs = of_then(lambda ask=ask: ask(About(fleet, log_id), then), fleet, log_id, then)
        assert theirs == own(lambda ask=ask: ask(host.cache, then)), f"{question} of {host.name} at {then}"


def of_then(answer: Callable[[], Any], fleet: Fleet, log_id: str, then: Any) -> Any:
    """Return what a fleet answers of one log at a moment, as a list, or what kind of error."""
    try:
        found: list[OnHost[Any]] = [*answer()]
    except MicrosandboxError as error:
        return type(error).__name__
    [log] = fleet.logs([log_id], as_of=then)
    assert {(each.log_id, each.folded_seq) for each in found} <= {(log_id, log.folded_seq)}
    return [told(each.found) for each in found]


def lived(
    filled: Filled, steps: list[tuple[int, str, int]], ask: Callable[[list[Host], Fleet, Clock], None]
) -> None:
    """Let hosts live, take their logs into a fleet, and ask that."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        hosts = [Host(Path(name) / host, host, clock) for host in ("ci-1", "ci-2")]
        for host in hosts:
            stack.enter_context(host.cache)
        for number, operation, choice in steps:
            hosts[number].do(operation, choice)
        fleet = stack.enter_context(filled.fleet(clock=clock))
        ask(hosts, fleet, clock)


@SLOW
@given(STEPS, st.data())
def test_each_host_answers_the_same_of_any_moment(
    filled: Filled, steps: list[tuple[int, str, int]], data: st.DataObject
) -> None:
    def ask(hosts: list[Host], fleet: Fleet, clock: Clock) -> None:
        for host in hosts:
            log_id = filled.add(host.cache.home)
            events = host.cache.events()
            times = sorted({event.recorded_at_ns for event in events} | {clock.now_ns})
            around = [time + by for time in times for by in (-MINUTE // 2, 0, MINUTE // 2)]
            for time in data.draw(st.lists(st.sampled_from(around), min_size=2, max_size=4)):
                compare(host, fleet, log_id, as_datetime(time))
            for seq in data.draw(st.lists(st.integers(0, len(events) + 1), min_size=1, max_size=3)):
                compare(host, fleet, log_id, f"@{seq}")

    lived(filled, steps, ask)


@SLOW
@given(STEPS, st.data())
def test_each_host_answered_the_same_then(
    filled: Filled, steps: list[tuple[int, str, int]], data: st.DataObject
) -> None:
    """When images were last used, as each host said it at the time."""

    def ask(hosts: list[Host], fleet: Fleet, clock: Clock) -> None:
        answered = []
        for number, operation, choice in steps:
            if operation == "back":
                continue  # then a time says not when that was
            hosts[number].do(operation, choice)
            answered += [(host, clock.now_ns, own(host.cache.last_used)) for host in hosts]
        log_ids = {host.name: filled.add(host.cache.home) for host in hosts}
        for host, time, mine in data.draw(st.lists(st.sampled_from(answered), max_size=6)):
            log_id, then = log_ids[host.name], as_datetime(time)
            ask = partial(About(fleet, log_id).last_used, as_of=then)
            assert of_then(ask, fleet, log_id, then) == mine

    lived(filled, [], ask)


def test_a_clock_that_went_back_said_some_times_twice(filled: Filled) -> None:
    done = ["load", "later", "later", "use", "later", "pin", "back", "hold", "later", "release"]
    steps = [(0, operation, 0) for operation in done]

    def ask(hosts: list[Host], fleet: Fleet, clock: Clock) -> None:
        log_id = filled.add(hosts[0].cache.home)
        with hosts[0].cache as cache:
            recorded = [event.recorded_at_ns for event in cache.events()]
        assert recorded[-1] > clock.now_ns
        positions = set()
        for time in range(recorded[0] - MINUTE, recorded[-1] + MINUTE, 5 * MINUTE):
            compare(hosts[0], fleet, log_id, as_datetime(time))
            if time <= clock.now_ns:
                positions.add(fleet.logs([log_id], as_of=as_datetime(time))[0].folded_seq)
        assert len(positions) > 2

    lived(filled, steps, ask)


# -- logs as they can be ---------------------------------------------------------------------------


class Logs:
    """Hosts with logs of events that were made up, and a fleet that has them.

    ``one`` has app:1 for two hours; of it a layer is damaged after one hour. ``two`` begins an hour later.
    """

    def __init__(self, folder: Path, filled: Filled) -> None:
        self.folder, self.filled = folder, filled
        of_app = manifest_added([layer(1)])
        gone = ev.LayerDeleted(bytes=1000, needed=True)
        removed = ev.ImageRemoved(manifest_digest=digest(1), cause="external")
        self.grow("one", 0, NewEvent(of_app, digest(1)), NewEvent(pulled(digest(1)), PYTHON))
        self.grow("one", 0, NewEvent(ev.ImageHeld(holder="sandbox:odd"), digest(9)))
        self.grow("one", 1, NewEvent(gone, digest("diff1")))
        self.grow(
            "one", 2, NewEvent(removed, PYTHON), NewEvent(ev.ImageReleased(holder="sandbox:odd"), digest(9))
        )
        self.grow(
            "two", 1, NewEvent(manifest_added([layer(2)]), digest(2)), NewEvent(pulled(digest(2)), OTHER)
        )
        self.log_ids = {name: filled.add(folder / name) for name in ("one", "two")}

    def grow(self, name: str, hours: int, *events: NewEvent) -> None:
        with open_database(Layout(self.folder / name), pytest.fail) as connection:
            connection.execute("BEGIN")
            store = EventStore(connection, clock=lambda: BEGIN + hours * HOUR)
            actor = Actor(user="ci", uid=1000, host=name, program="test")
            store.append(events, operation=str(uuid7()), actor=actor)
            connection.execute("COMMIT")

    def fleet(self) -> Fleet:
        return self.filled.fleet(clock=lambda: BEGIN + 3 * HOUR)

    def named(self) -> tuple[str, str]:
        return self.log_ids["one"], self.log_ids["two"]

    def cache(self, name: str) -> ImageCache:
        return ImageCache(self.folder / name, clock=lambda: BEGIN + 3 * HOUR)


def after(hours: float) -> datetime:
    return as_datetime(int(BEGIN + hours * HOUR))


@pytest.fixture(scope="module")
def logs(filled: Filled, tmp_path_factory: pytest.TempPathFactory) -> Logs:
    return Logs(tmp_path_factory.mktemp("logs"), filled)


@pytest.mark.parametrize("hours", [-1, 0, 0.5, 1, 1.5, 2, 2.5])
@pytest.mark.parametrize("name", ["one", "two"])
def test_what_was_damaged_and_held_then_is_told_as_by_the_host(logs: Logs, name: str, hours: float) -> None:
    fleet, log_id, then = logs.fleet(), logs.log_ids[name], after(hours)
    with logs.cache(name) as cache:
        for ask in (
            lambda asked: asked.list(as_of=then),
            lambda asked: asked.list(digest(1)[:20], as_of=then),
            lambda asked: asked.damage(as_of=then),
            lambda asked: asked.holds(as_of=then),
            lambda asked: asked.holds(digest(9), as_of=then),
        ):
            theirs = of_then(lambda ask=ask: ask(About(fleet, log_id)), fleet, log_id, then)
            assert theirs == own(lambda ask=ask: ask(cache))


def test_hosts_that_begin_later_have_nothing(logs: Logs) -> None:
    fleet, hosts = logs.fleet(), logs.named()

    def had(hours: float) -> list[tuple[str, int, str]]:
        found = fleet.list(hosts=hosts, as_of=after(hours))
        return [(each.host, each.folded_seq, each.found.reference) for each in found]

    assert had(-1) == []
    assert had(0.5) == [("one", 4, "python:3.12")]
    assert had(1.5) == [("two", 3, "other:1"), ("one", 5, "python:3.12")]
    assert had(2.5) == [("two", 3, "other:1")]
    assert [log.folded_seq for log in fleet.logs(hosts, as_of=after(0.5))] == [4, 0]
    assert [fleet.knows(after(hours), hosts) for hours in (-1, 0)] == [False, True]
    with pytest.raises(
        ImageNotFoundError, match=r"not found on any host: other:1.*; no host's log begins before that"
    ):
        fleet.list("other:1", hosts=hosts, as_of=after(-1))
    with pytest.raises(ImageNotFoundError, match="did you mean other:1"):
        fleet.list("othr:1", hosts=hosts, as_of=after(1.5))


def test_idle_times_are_counted_from_then(logs: Logs) -> None:
    fleet, hosts = logs.fleet(), logs.named()
    for hours in (1.25, 1.75):
        [found] = fleet.last_used("python:3.12", hosts=hosts, as_of=after(hours))
        assert found.found.idle_ns == int(hours * HOUR)
        assert found.found.event is not None
        assert found.found.event.seq == 3
    asked = {"at_least": "1h", "everywhere": True, "hosts": hosts}
    assert [each.host for each in fleet.last_used(**asked, as_of=after(1.5))] == ["one"]
    assert [each.host for each in fleet.last_used(**asked, as_of=after(2.5))] == ["two"]


def test_hosts_are_compared_as_they_were(logs: Logs) -> None:
    fleet, (one, two) = logs.fleet(), logs.named()
    found = fleet.diff(one, two, as_of=after(1.5)).changes
    assert (found.from_position, found.to_position) == (5, 3)
    assert (found.removed, found.added) == ([("python:3.12", digest(1))], [("other:1", digest(2))])
    assert [hold.holder for hold in found.released] == ["sandbox:odd"]
    assert fleet.diff(one, two, as_of=after(0.5)).changes.added == []


def test_only_logs_that_had_it_are_folded_and_once(logs: Logs) -> None:
    told: list[Activity] = []

    def folded() -> list[tuple[str, int | None]]:
        begun = [(each.what, each.total) for each in told if not each.done and not each.over]
        assert all(before.done == each.total for before, each in pairwise(told) if each.over)
        told.clear()
        return begun

    hosts = logs.named()
    asked: dict[str, Any] = {"hosts": hosts, "as_of": after(1.5), "progress": told.append}
    with logs.fleet() as fleet:
        fleet.list("python:3.12", **asked)
        assert folded() == [("folding 1 log", 5)]
        fleet.damage(**asked | {"hosts": [hosts[0]]})
        fleet.last_used("python:3.12", **asked)
        fleet.holds("python:3.12", **asked)
        assert folded() == []
        fleet.list("*", **asked)
        assert folded() == [("folding 2 logs", 8)]
        [found] = fleet.list("python:3.12", **asked)  # of more than it asks for, only what it asks for
        assert (found.host, folded()) == ("one", [])
        fleet.list("*", **asked | {"as_of": after(2.5)})
        assert folded() == [("folding 2 logs", 10)]
    fleet.list("python:3.12", **asked)
    assert folded() == [("folding 1 log", 5)]


@pytest.mark.parametrize(
    ("as_of", "named", "sentence"),
    [
        ("2099-01-01", 2, "'2099-01-01' is in the future"),
        ("@3", 2, "is one of one log, and 2 logs are asked"),
        ("@8", 1, "the log of one has no event 8 here; the last that is folded is 7"),
        ("12345", 1, "'12345' is no time; the position of event 12345 is written @12345"),
        ("when it rained", 1, "when it rained"),
    ],
)
def test_what_is_no_moment_is_refused(logs: Logs, as_of: str, named: int, sentence: str) -> None:
    for ask in (logs.fleet().list, logs.fleet().last_used, logs.fleet().holds, logs.fleet().damage):
        with pytest.raises(InvalidConfigError, match=sentence):
            ask(hosts=logs.named()[:named], as_of=as_of)


def test_a_position_is_one_of_one_log(logs: Logs) -> None:
    fleet, [one, _] = logs.fleet(), logs.named()
    assert fleet.list(hosts=[one], as_of="@0") == fleet.list(hosts=[one], as_of=2) == []
    [found] = fleet.last_used(hosts=[one], as_of="@5")
    assert (found.folded_seq, found.found.idle_ns) == (5, HOUR)


# -- what can be in the way ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seq", "sentence"),
    [
        (4, r"event 4 of the log [0-9a-f]{12} is not there; look at `msb-cache fleet verify`"),
        (3, r"the log of one \([0-9a-f]{12}\) lacks events that were asked for"),
    ],
)
def test_events_that_are_missing_are_not_passed_over(tmp_path: Path, seq: int, sentence: str) -> None:
    with in_file(tmp_path) as filled:
        logs = Logs(tmp_path, filled)
        with closing(sqlite3.connect(tmp_path / "fleet.db", isolation_level=None)) as connection:
            connection.execute("DELETE FROM events WHERE log_id = ? AND seq = ?", (logs.log_ids["one"], seq))
        with pytest.raises(FleetError, match=sentence):
            logs.fleet().list(hosts=["one"], as_of=after(0.5))
        with pytest.raises(FleetError, match="lacks events that were asked for"):
            logs.fleet().list(hosts=["one"], as_of="@5")


def test_a_disk_that_is_full_is_said(tmp_path: Path) -> None:
    held = [NewEvent(ev.ImageHeld(holder=f"sandbox:{number:0200}"), digest(9)) for number in range(100)]
    with in_file(tmp_path) as filled, closing(Past()) as past:
        logs = Logs(tmp_path, filled)
        logs.grow("one", 3, *held)
        filled.add(tmp_path / "one")
        [log] = logs.fleet().logs(["one"])
        count = Count(None, Activity("folding"))
        with FleetFile(str(tmp_path / "fleet.db")).read() as reading:
            past.reading.rows("PRAGMA msb_cache.max_page_count = 1")
            with pytest.raises(FleetError, match=r"cannot be kept .*: database or disk is full; TMPDIR"):
                past.fold(reading, log, count)
            assert not past.has([log])
            past.reading.rows("PRAGMA msb_cache.max_page_count = 1000000")
            past.fold(reading, log, count)
            assert past.has([log])


@pytest.fixture(scope="class")
def archived(postgres: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Logs, Any]]:
    """Logs of which what was recorded in the first 90 minutes is in an archive, and answers before that."""
    with on_server(postgres) as filled:
        logs = Logs(tmp_path_factory.mktemp("archived"), filled)
        before = answers(logs)
        database = make_conninfo(postgres.admin, dbname=conninfo_to_dict(filled.sender)["dbname"])
        done = Fleet(database).archive(after(1.5), tmp_path_factory.mktemp("archive"))
        assert [(each.host, each.last, each.problem) for each in done] == [
            ("one", 5, None),
            ("two", 3, None),
        ]
        yield logs, before


def answers(logs: Logs) -> list[Any]:
    fleet = logs.fleet()
    return [
        jsonable(ask(as_of=after(hours)))
        for hours in (1, 1.5, 2, 2.5)
        for ask in (fleet.list, fleet.holds, fleet.damage)
    ]


def test_what_was_folded_from_it_is_gone_on_from(archived: tuple[Logs, Any]) -> None:
    logs, before = archived
    assert answers(logs) == before
    assert [log.folded_seq for log in logs.fleet().logs(as_of=after(1))] == [5, 3]


def test_what_is_in_it_cannot_be_told(archived: tuple[Logs, Any]) -> None:
    fleet = archived[0].fleet()
    sentence = (
        r"what was on one \([0-9a-f]{12}\) then is not told: its events up to @5, recorded until .*, are "
        r"in an archive \(and of 1 other log\); ask about a later time, or about other hosts with --host"
    )
    for ask in (fleet.list, fleet.holds, fleet.damage, fleet.last_used):
        with pytest.raises(FleetError, match=sentence):
            ask(as_of=after(0.5))
    assert [log.folded_seq for log in fleet.logs(as_of=after(0.5))] == [0, 0]
    assert fleet.knows(after(0.5))
    with pytest.raises(FleetError, match=r"what was on two \([0-9a-f]{12}\) then .* in an archive; ask"):
        fleet.list("other:1", as_of=after(0.5))
    with pytest.raises(FleetError, match="what was on two"):
        fleet.list(hosts=["two"], as_of="@2")
    assert len(fleet.list(hosts=["two"], as_of="@3")) == 1


def test_it_has_no_configuration(archived: tuple[Logs, Any]) -> None:
    """Which a reader may not see."""
    with Postgres(archived[0].filled.options["dsn"]).read() as reading:
        kept = [decoded(bytes(data)) for (data,) in reading.rows("SELECT rows FROM msb_cache.anchor")]
    at = columns(ManifestRow).index("config")
    assert [[row[at] for row in prefix.tables["manifest"]] for prefix in kept] == [[None], [None]]
