"""A cache's metrics are what its other answers say."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache import CacheMetrics, DeletedImages, ImageCache, LastPrune, PrunePolicy
from msb_cache.artifacts.layout import Layout
from msb_cache.care.metrics import (
    DAY,
    HOUR,
    IDLE_BOUNDS,
    LONGEST_RULE,
    MOST_RULES,
    IdleTimes,
    _deleted,
)
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.projections.state import load_to_judge
from tests.cli.support import APP, TOOL, fingerprint, written
from tests.flatroots import add
from tests.logs import PYTHON, digest, manifest_added, pulled
from tests.msbhome import MsbHome

NS = 10**9
START = 1_800_000_000 * NS


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    with ImageCache(folder / "home", clock=lambda: START) as cache:
        for number, each in enumerate((APP, TOOL)):
            cache.load(written(folder / f"{number}.tar", each))
    return folder / "home"


def deleted(found: CacheMetrics) -> dict[tuple[str, str], int]:
    return {(each.cause, each.rule): each.images for each in found.deleted if each.images}


def bucket(found: CacheMetrics, bound: int) -> int:
    return dict(found.idle.bounds)[bound]


def test_a_home_that_is_not_made_yet(own_home: Path) -> None:
    with ImageCache() as cache:
        found = cache.metrics()
    assert not own_home.exists()
    assert (found.images, found.manifests, found.log_position, found.log_bytes) == (0, 0, 0, 0)
    assert found.idle == IdleTimes(tuple((bound, 0) for bound in IDLE_BOUNDS), 0, 0.0)
    assert found.holders == {"sandbox": 0, "snapshot": 0, "other": 0}
    assert {*found.events} == {each.type for each in ev.EVENT_TYPES}
    assert not any(found.events.values())
    assert found.last_prune is None
    assert not any((found.kept_by_msb, found.sync_failed, deleted(found)))
    assert 0 < found.disk_free_bytes < found.disk_size_bytes


def test_a_home_is_read_and_not_changed(home: Path, clock: Clock) -> None:
    with ImageCache(home, clock=clock) as cache:
        add(home, APP.digest)
        before = fingerprint(home)
        found = cache.metrics()
        assert fingerprint(home) == before
        usage, info = cache.disk_usage(), cache.info()
        types = Counter(event.type for event in cache.events())
    assert usage.log is not None
    assert (found.images, found.manifests, found.unreferenced_manifests) == (3, 2, 0)
    assert {each.kind: each.bytes for each in found.files} == {
        "layer": info.layer_bytes,
        **{
            kind: sum(Layout(home).artifact(kind, each.digest).stat().st_size for each in (APP, TOOL))
            for kind in ("fsmeta", "vmdk")
        },
    }
    assert found.reclaimable_bytes == sum(each.bytes for each in found.files)
    assert (found.flat_roots, found.flat_bytes) == (1, info.flat_allocated_bytes)
    assert found.log_bytes == usage.log.allocated_bytes
    assert {name: count for name, count in found.events.items() if count} == types
    assert found.log_position == sum(types.values())
    assert (found.kept_by_msb, found.sync_age_ns) == (False, None)


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(START // NS + seconds, UTC)


def test_what_holds_and_is_pinned(home: Path, clock: Clock) -> None:
    ledger = Ledger(Layout(home), clock=clock)
    with ledger.write("elsewhere") as transaction:
        for holder in ("me", "thing:1"):
            transaction.append([NewEvent(ev.ImageHeld(holder=holder), APP.digest)])
    ledger.close()
    with ImageCache(home, clock=clock) as cache:
        for holder in ("sandbox:a", "sandbox:b", "snapshot:x"):
            cache.hold("app:1", holder)
        cache.hold("example.org/team/tool:2", "sandbox:a")
        cache.hold("app:1", "sandbox:gone", until=at(1))
        cache.pin("example.org/team/tool:2")
        cache.pin("app:1", until=at(1))
        clock.now += 2 * NS
        found = cache.metrics()
    assert found.holders == {"sandbox": 2, "snapshot": 1, "other": 2}
    assert found.pins == 1
    assert found.reclaimable_bytes == 0


class TestIdle:
    def test_images_by_how_long_they_are_idle(self, home: Path, clock: Clock) -> None:
        with ImageCache(home, clock=clock) as cache:
            clock.now += 2 * DAY * NS
            cache.use("app:1")
            clock.now += HOUR * NS
            found = cache.metrics()
        assert [count for _, count in found.idle.bounds] == [1, 1, 1, 3, 3, 3, 3]
        assert found.idle.images == 3
        assert found.idle.sum_seconds == HOUR + 2 * (2 * DAY + HOUR)

    def test_from_the_end_of_a_hold(self, home: Path, clock: Clock) -> None:
        with ImageCache(home, clock=clock) as cache:
            cache.hold("app:1", "sandbox:dev")
            cache.hold("example.org/team/tool:2", "sandbox:other", until=at(50 * DAY))
            clock.now += 30 * DAY * NS
            cache.release("sandbox:dev")
            clock.now += 25 * DAY * NS
            found = cache.metrics()
        assert [count for _, count in found.idle.bounds] == [0, 0, 0, 1, 1, 3, 3]

    def test_what_runs_is_idle_for_no_time(self, own_home: Path, clock: Clock) -> None:
        log(own_home, clock, (ev.ImageUsed(manifest_digest=digest(1), run="run:1@1"), PYTHON))
        clock.now += 400 * DAY * NS
        with ImageCache(own_home, clock=clock) as cache:
            found = cache.metrics()
        assert (found.running, bucket(found, HOUR), found.idle.sum_seconds) == (1, 1, 0)

    def test_a_clock_that_jumped_ahead_does_not_count(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "msb_cache.home.ledger.Ledger.clock_ahead", lambda self, connection: 60 * DAY * NS
        )
        said: list[str] = []
        with ImageCache(home, clock=lambda: START + 61 * DAY * NS, note=said.append) as cache:
            found = cache.metrics()
        assert bucket(found, DAY) == 3
        assert found.idle.sum_seconds == 3 * DAY
        assert any("jumped ahead by 60 days" in sentence for sentence in said)

    def test_nothing_is_idle_for_less_than_nothing(self, home: Path) -> None:
        with ImageCache(home, clock=lambda: START - 5 * DAY * NS) as cache:
            assert cache.metrics().idle.sum_seconds == 0

    @given(
        ends=st.lists(
            st.tuples(st.integers(0, 100), st.booleans(), st.none() | st.integers(0, 100)), max_size=6
        ),
        later=st.integers(0, 100),
    )
    def test_it_is_what_rules_look_at(
        self, tmp_path_factory: pytest.TempPathFactory, ends: list[tuple[int, bool, int | None]], later: int
    ) -> None:
        clock = Clock()
        events: list[tuple[ev.Event, str, int]] = []
        for number, (day, runs, held) in enumerate(ends):
            reference, at = f"docker.io/library/i:{number}", START + day * DAY * NS
            events.append((pulled(digest(number)), reference, at))
            if runs:
                used = ev.ImageUsed(manifest_digest=digest(number), run=f"run:{number}@1")
                events.append((used, reference, at))
            if held is not None:
                until = START + held * DAY * NS
                events.append((ev.ImageHeld(holder="h", until_ns=until), digest(number), START))
        home = tmp_path_factory.mktemp("home")
        ledger = Ledger(Layout(home), clock=clock)
        with ledger.write("1") as transaction:
            transaction.append([NewEvent(event, subject, at) for event, subject, at in events])
            transaction.append([NewEvent(ev.ImagePullFailed(reason="no"), PYTHON)])
        ledger.close()
        clock.now += later * DAY * NS
        with ImageCache(home, clock=clock) as cache:
            found = cache.metrics().idle
            with cache._session.ledger.read() as connection:
                assert connection is not None
                facts = load_to_judge(connection, facts=True).facts.values()
        idle = [0 if each.idle_since is None else max(0, clock.now - each.idle_since) for each in facts]
        assert found.images == len(ends)
        assert found.bounds == tuple(
            (bound, sum(each <= bound * NS for each in idle)) for bound in IDLE_BOUNDS
        )
        assert found.sum_seconds == pytest.approx(sum(idle) / NS)


def log(home: Path, clock: Clock, *events: tuple[ev.Event, str]) -> None:
    ledger = Ledger(Layout(home), clock=clock)
    with ledger.write("operation") as transaction:
        first = [(manifest_added([]), digest(1)), (pulled(digest(1)), PYTHON)]
        transaction.append([NewEvent(event, subject) for event, subject in (*first, *events)])
    ledger.close()


class TestDeletions:
    def test_by_cause_and_rule_and_the_last_prune(self, home: Path, clock: Clock) -> None:
        with ImageCache(home, clock=clock) as cache:
            cache.remove("app:latest")
            clock.now += 40 * DAY * NS
            cache.use("app:1")
            by_rule = cache.prune(PrunePolicy(unused_for="30 days"))
            found = cache.metrics()
            assert deleted(found) == {("remove", "remove"): 1, ("prune", "due"): 1}
            assert found.last_prune == LastPrune(clock.now, 0, "completed", by_rule.bytes_reclaimed or 0)
            assert by_rule.bytes_reclaimed
            clock.now += DAY * NS
            cache.prune()
            found = cache.metrics()
        assert deleted(found) == {("remove", "remove"): 1, ("prune", "due"): 1, ("prune", "unused"): 1}
        assert found.last_prune is not None
        assert found.last_prune.finished_at_ns == clock.now
        assert (found.images, found.unfinished_deletions, found.idle.images) == (0, 0, 0)

    def test_what_is_not_finished_and_what_stayed(self, own_home: Path, clock: Clock) -> None:
        reasons = ("busy", "left", "owned")
        log(
            own_home,
            clock,
            (ev.DeletionStarted(kind="prune", policy={}), "operation"),
            *((ev.ArtifactKept(kind="layer", reason=reason), digest(reason)) for reason in reasons),  # type: ignore[arg-type]
            (ev.ArtifactDeleteFailed(kind="vmdk", errno=5, reason="Input/output error"), digest(1)),
            (ev.ArtifactDeleteFailed(kind="fsmeta", errno=13, reason="Permission denied"), digest(1)),
            (ev.FsmetaDeleted(needed=True), digest(1)),
        )
        with ImageCache(own_home, clock=clock) as cache:
            found = cache.metrics()
        assert found.unfinished_deletions == 1
        assert found.last_prune is None
        assert found.leftover_files == {"busy": 1, "left": 1, "owned": 1, "failed": 1}
        assert found.damaged_images == 1

    def test_very_many_rules_and_long_names_do_not_make_labels_without_end(self, own_home: Path) -> None:
        references = [f"docker.io/library/i:{number:03}" for number in range(MOST_RULES + 20)]
        ledger = Ledger(Layout(own_home))
        before: dict[tuple[str, str], int] = {}
        for number, reference in enumerate(references):
            rule = f"rule {number} {'x' * 1000}"
            judged = ev.Judged(subject=reference, rule="due", policy_rule=rule)
            with ledger.write(f"operation {number}") as transaction:
                transaction.append(
                    [
                        NewEvent(pulled(digest(1)), reference),
                        NewEvent(ev.DeletionStarted(kind="prune", policy={}, going=(judged,)), "o"),
                        NewEvent(ev.ImageRemoved(manifest_digest=digest(1), cause="prune"), reference),
                    ]
                )
                after = {(each.cause, each.rule): each.images for each in _deleted(transaction.connection)}
            assert all(
                count >= before.get(key, 0) for key, count in after.items()
            )  # a counter never goes back
            before = after
        ledger.close()
        assert len(after) == MOST_RULES + 5  # and those that are always told, and the rest
        assert after["prune", "other"] == 20
        assert max(len(rule) for _, rule in after) == LONGEST_RULE


class TestHomesOfMsb:
    @pytest.fixture
    def msb_home(self, own_home: Path) -> MsbHome:
        found = MsbHome(own_home)
        found.load("app:1", "app")
        found.create("app:1", "dev")
        return found

    def test_what_msb_did_is_recorded_first(self, msb_home: MsbHome, own_home: Path) -> None:
        with ImageCache(own_home) as cache:
            found = cache.metrics()
            assert (found.images, found.holders["sandbox"]) == (1, 1)
            assert (found.kept_by_msb, found.sync_failed) == (True, False)
            assert found.sync_age_ns is not None
            assert 0 <= found.sync_age_ns < HOUR * NS
            msb_home.remove_sandbox("dev")
            msb_home.remove("app:1")
            found = cache.metrics()
        msb_home.close()
        assert found.images == 0
        assert found.deleted[-1] == DeletedImages("external", "external", 1)

    def test_it_says_if_that_fails(
        self, msb_home: MsbHome, own_home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with ImageCache(own_home) as cache:
            cache.metrics()
        msb_home.load("two:2", "two")
        monkeypatch.setattr("msb_cache.msb.sync._writable", lambda layout: False)
        said: list[str] = []
        with ImageCache(own_home, note=said.append) as cache:
            found = cache.metrics()
        msb_home.close()
        assert (found.images, found.sync_failed) == (1, True)
        assert "cannot be written to" in said[0]

    def test_a_time_before_the_last_sync_is_no_age(self, msb_home: MsbHome, own_home: Path) -> None:
        with ImageCache(own_home) as cache:
            cache.metrics()
        msb_home.close()
        with ImageCache(own_home, clock=lambda: START - 10**18, sync=False) as cache:
            assert cache.metrics().sync_age_ns == 0
