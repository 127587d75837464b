"""A report says what the other questions say, adds up, and tells no more than it may."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from msb_cache import CacheReport, CorruptLogError, ImageCache, InvalidConfigError
from tests.cli.support import APP, fingerprint, sql
from tests.msbhome import MsbHome
from tests.report.scenario import BEGIN, HOUR, lived

NOW = BEGIN + 10 * HOUR


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lived(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def cache(home: Path) -> Iterator[ImageCache]:
    with ImageCache(home, clock=lambda: NOW) as cache:
        yield cache


@pytest.fixture
def msb_home(tmp_path: Path) -> Iterator[MsbHome]:
    home = MsbHome(tmp_path / "msb")
    yield home
    home.close()


def check(report: CacheReport) -> None:
    """What holds of every report."""
    assert sum(each.unique_bytes + each.flat_bytes for each in report.blocks) == report.bytes
    assert min((each.unique_bytes for each in report.blocks), default=0) >= 0
    times = [each.at_ns for each in report.sizes]
    assert times == sorted(times)
    assert [each.seq for each in report.sizes] == sorted({each.seq for each in report.sizes})
    assert all(report.since_ns <= at <= report.at_ns for at in times)
    for life in report.lives:
        assert life.spans
        assert all(span.until_ns is None or span.until_ns >= span.since_ns for span in life.spans)


class TestNow:
    def test_it_agrees_with_df(self, cache: ImageCache) -> None:
        report, usage = cache.report(), cache.disk_usage()
        check(report)
        assert (report.bytes, report.prune_bytes) == (usage.cache_total.allocated_bytes, usage.prune_bytes)
        assert not report.is_past
        assert report.free_bytes
        by_name = {each.name: each for each in report.blocks if each.kind == "image"}
        assert {each.reference for each in usage.images} == {*by_name}
        for each in usage.images:
            assert each.reference is not None
            block = by_name[each.reference]
            assert (block.unique_bytes, block.reclaimable_bytes) == (
                each.unique_bytes,
                each.reclaimable_bytes,
            )
        assert {name: each.state for name, each in by_name.items()} == {
            "big:1": "held",
            "example.org/team/tool:2": "pinned",
            "app:1": "idle",
            "app:latest": "idle",
        }

    def test_it_agrees_with_the_index_and_the_log(self, cache: ImageCache) -> None:
        report, events = cache.report(), cache.events()
        assert (report.seq, report.events, report.log_id) == (len(events), len(events), events[0].subject)
        assert report.first_ns == events[0].recorded_at_ns == report.since_ns
        assert report.image_count == len(cache.list()) == report.sizes[-1].images
        files = cache.metrics().files
        assert report.sizes[-1].bytes == sum(each.bytes for each in files)
        assert (len(report.lines), report.lines_left_out) == (len(events), 0)
        assert [line.seq for line in report.lines] == [event.seq for event in reversed(events)]

    def test_it_agrees_with_prunes(self, cache: ImageCache) -> None:
        report = cache.report()
        assert [(each.operation, each.kind, each.images, each.bytes) for each in report.deletions] == [
            (
                each.operation,
                each.counters.kind,
                each.counters.image_refs_removed,
                each.counters.bytes_reclaimed,
            )
            for each in reversed(cache.prunes())
        ]
        removal, prune = report.deletions
        assert (removal.names, removal.outcome, removal.rules) == (("app:latest",), "completed", ())
        assert (prune.names, prune.who) == (("app:1",), "bob-login@build-host (as root, ci-program)")

    def test_it_agrees_with_last_used(self, cache: ImageCache) -> None:
        """But for what is held, which is not idle here."""
        report = cache.report()
        assert [(each.reference, each.idle_since_ns) for each in report.idle] == [
            (each.reference, each.idle_since_ns) for each in cache.last_used() if each.reference != "big:1"
        ]
        assert [each.pinned for each in report.idle] == [True, False, False]
        assert {each.last_by for each in report.idle} == {"alice-user@laptop-host"}

    def test_lives(self, cache: ImageCache) -> None:
        lives = {each.reference: each for each in cache.report().lives}
        app = lives["app:1"]
        assert app.is_here
        assert app.manifest_digest == APP.digest
        assert [(span.kind, span.by, span.ended_by, span.ended_how) for span in app.spans] == [
            ("here", "alice-user@laptop-host", "bob-login@build-host", "prune"),
            ("here", "alice-user@laptop-host", "", ""),
        ]
        assert (len(app.pulls), len(app.moves)) == (3, 1)
        big = lives["big:1"]
        assert [(span.kind, span.by) for span in big.spans] == [
            ("here", "bob-login@build-host"),
            ("hold", "sandbox:dev"),
        ]
        assert (len(big.pulls), len(big.uses)) == (2, 1)
        (pin,) = [span for span in lives["example.org/team/tool:2"].spans if span.kind == "pin"]
        assert pin.until_ns is not None
        assert pin.until_ns - pin.since_ns >= 47 * HOUR
        assert next(each.reference for each in cache.report().lives) == "big:1"

    def test_people(self, cache: ImageCache) -> None:
        events = cache.events(types=["image.pulled"])
        people = {each.who: each for each in cache.report().people}
        assert [*people] == ["bob-login@build-host", "alice-user@laptop-host"]
        assert (people["bob-login@build-host"].pulls, people["alice-user@laptop-host"].pulls) == (3, 5)
        assert sum(each.pulls for each in people.values()) == len(events)
        assert [each.deleted_images for each in people.values()] == [1, 1]
        assert [each.uses for each in people.values()] == [1, 0]

    def test_it_changes_nothing(self, home: Path, cache: ImageCache) -> None:
        before = fingerprint(home)
        cache.report()
        assert fingerprint(home) == before

    def test_a_cache_goes_on_from_its_last_report(self, tmp_path: Path) -> None:
        home = lived(tmp_path)
        with ImageCache(home, clock=lambda: NOW) as cache:
            first = cache.report()
            cache.use("app:1")
            assert cache.report().events == first.events + 1
            with ImageCache(home, clock=lambda: NOW) as other:
                assert replace(other.report(), free_bytes=0) == replace(cache.report(), free_bytes=0)


class TestThen:
    def test_every_position_is_told_as_the_index_was(self, home: Path, cache: ImageCache) -> None:
        """One chronicle for all, and a new one for some."""
        for seq in range(0, cache.info().events + 1, 3):
            report = cache.report(as_of=seq, since=0)
            check(report)
            assert (report.is_past, report.seq, report.prune_bytes) == (True, seq, None)
            images = cache.list(as_of=seq)
            assert report.image_count == len(images)
            assert {each.reference for each in report.lives if each.is_here} == {
                each.reference for each in images
            }
            if report.sizes:
                last = report.sizes[-1]
                changed = cache.diff(0, seq) if seq else None
                assert (last.images, last.bytes) == (len(images), changed.bytes_after if changed else 0)
            assert report.bytes == (report.sizes[-1].bytes if report.sizes else 0)
            if seq % 15 == 0:
                with ImageCache(home, clock=lambda: NOW) as other:
                    assert other.report(as_of=seq, since=0) == report

    def test_a_deletion_that_runs_then_is_told_as_far_as_it_had_come(self, cache: ImageCache) -> None:
        whole = cache.report().deletions[1]
        marks = [cache.report(as_of=seq).deletions[-1] for seq in range(whole.seq, whole.seq + 12)]
        assert (marks[0].images, marks[0].bytes, marks[0].outcome) == (0, None, None)
        assert [each.images for each in marks[1:]] == [1] * 11
        freed = [each.bytes or 0 for each in marks]
        assert freed == sorted(freed)
        assert marks[-1] == whole
        assert {each.outcome for each in marks[:-1]} == {None}

    def test_moments_in_all_spellings(self, cache: ImageCache) -> None:
        at = datetime.fromtimestamp(BEGIN // 10**9, UTC) + timedelta(hours=2, minutes=30)
        seq = cache.report(as_of=at).seq
        for same in (at.isoformat(), timedelta(hours=7, minutes=30), "7h 30m", f"@{seq}", seq):
            assert cache.report(as_of=same).seq == seq

    def test_the_time_shown_in_all_spellings(self, cache: ImageCache) -> None:
        """It is counted from the moment that is told of."""
        at = datetime.fromtimestamp(BEGIN // 10**9, UTC) + timedelta(hours=2, minutes=30)
        found = [
            cache.report(since=since, as_of="@47")
            for since in (at, at.isoformat(), cache.report(as_of=at).seq + 1)
        ]
        assert len({each.lines_left_out + len(each.lines) for each in found}) == 1
        assert len(cache.report(since="1 hour", as_of="@36").deletions) == 0
        assert len(cache.report(since=timedelta(hours=3), as_of="@36").deletions) == 1
        assert cache.report(since=timedelta(days=9)).since_ns == cache.report(since="@1").since_ns

    @pytest.mark.parametrize(
        ("since", "as_of"),
        [("@9", "@5"), ("@-1", None), (10**9, None), (timedelta(hours=-1), None), ("gestern", None)],
    )
    @pytest.mark.parametrize("empty", [False, True])
    def test_what_makes_no_sense_is_refused(
        self, since: str, as_of: str | None, empty: bool, cache: ImageCache, tmp_path: Path
    ) -> None:
        with ImageCache(tmp_path, clock=lambda: NOW) as new, pytest.raises(InvalidConfigError):
            (new if empty else cache).report(since=since, as_of=as_of)


class TestPrivacy:
    @pytest.mark.parametrize("as_of", [None, "@45"])
    def test_no_people(self, as_of: str | None, cache: ImageCache) -> None:
        report = cache.report(people=False, as_of=as_of)
        text = report.to_json()
        for secret in ("alice", "laptop-host", "a-reason", "bob", "build-host", "root"):
            assert secret not in text
        assert report.host == ""
        assert [each.who for each in report.people] == ["ci-program", "msb-cache"]
        assert str(cache.home.parent) not in text

    def test_label_values(self, msb_home: MsbHome, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MSB_CACHE_LABELS", "token")
        msb_home.load("python:3.12", "py")
        msb_home.create("python:3.12", "dev", token="hidden-secret")
        with ImageCache(msb_home.layout.home) as cache:
            assert "hidden-secret" not in cache.report(since="@1").to_json()
            assert "hidden-secret" in cache.report(since="@1", with_config=True).to_json()


class TestMsb:
    def test_what_msb_did_is_recorded_first_and_told(self, msb_home: MsbHome) -> None:
        msb_home.load("python:3.12", "py")
        msb_home.load("tool:1", "tool", "xz")
        with ImageCache(msb_home.layout.home) as cache:
            assert cache.report().image_count == 2
            msb_home.create("python:3.12", "dev")
            run = msb_home.boot("dev")
            msb_home.remove("tool:1")
            report = cache.report(since="@1")
            check(report)
            lives = {each.reference: each for each in report.lives}
            here, hold, ran = lives["python:3.12"].spans
            assert (here.kind, hold.kind, ran.kind) == ("here", "hold", "run")
            assert report.first_ns is not None
            assert report.since_ns <= here.since_ns < hold.since_ns < ran.since_ns < report.first_ns
            assert (hold.by, ran.by, hold.until_ns) == ("sandbox:dev", "sandbox:dev", None)
            assert [each.ended_how for each in lives["tool:1"].spans] == ["external"]
            assert not lives["tool:1"].is_here
            (gone,) = report.deletions
            assert (gone.kind, gone.names, gone.outcome) == ("external", ("tool:1",), "completed")
            assert report.idle == ()
            msb_home.end(run)
            msb_home.remove_sandbox("dev")
            ended = {each.reference: each for each in cache.report(since="@1").lives}["python:3.12"]
            assert all(span.until_ns is not None for span in ended.spans if span.kind != "here")
            assert [each.reference for each in cache.report().idle] == ["python:3.12"]


class TestEmptyAndBroken:
    @pytest.mark.parametrize("as_of", [None, "1 hour ago", "@0"])
    def test_no_home_has_an_empty_report(self, as_of: str | None, tmp_path: Path) -> None:
        with ImageCache(tmp_path / "none") as cache:
            report = cache.report(as_of=as_of)
        assert (report.log_id, report.seq, report.bytes, report.lives, report.lines) == (None, 0, 0, (), ())
        assert not (tmp_path / "none").exists()

    def test_a_damaged_log_is_the_usual_error(self, tmp_path: Path) -> None:
        home = lived(tmp_path)
        sql(home, "DROP TRIGGER events_no_update", "UPDATE events SET data = '{' WHERE seq = 9")
        with ImageCache(home, clock=lambda: NOW) as cache:
            for as_of in (None, "@30"):
                with pytest.raises(CorruptLogError):
                    cache.report(as_of=as_of)
