"""Keeping a cache small: what a run did, what a run that stays meets, and how it ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from msb_cache import (
    BoundNotKeptError,
    BusyError,
    GcRun,
    ImageCache,
    InvalidConfigError,
    failpoints,
)
from msb_cache.artifacts.layout import Layout
from msb_cache.artifacts.locks import Lock
from msb_cache.engines import decision
from msb_cache.engines.decision import DeletionCut
from msb_cache.waiting import ended_by
from tests.imagebuilder import docker_archive, file, image, layer
from tests.reliability.scenarios import check_whole

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

SHARED = layer([file("shared", b"s" * 5000)])
ALL = '[[rule]]\nname = "all"\nunused-for = "0s"\ngrace = "0s"\n'
CI = '[[rule]]\nname = "ci"\nfilter = ["reference=ci"]\nunused-for = "0s"\ngrace = "0s"\n'


@pytest.fixture(autouse=True)
def no_observer() -> Iterator[None]:
    yield
    failpoints.observer = None


@pytest.fixture
def home(own_home: Path, tmp_path: Path) -> Path:
    """Three images of ci, and one app."""
    with ImageCache(own_home) as cache:
        for name in ("ci:1", "ci:2", "ci:3", "app:1"):
            archive = tmp_path / "image.tar"
            archive.write_bytes(docker_archive(image([SHARED, layer([file(name, name.encode())])], name)))
            cache.load(archive)
    return own_home


def policy(home: Path, text: str) -> None:
    (home / "cache-policy.toml").write_text(text)


def references(home: Path) -> list[str]:
    with ImageCache(home) as cache:
        return sorted(handle.reference for handle in cache.list())


def taken(run: GcRun) -> list[tuple[str, str | None]]:
    return sorted((each.reference or "", each.policy_rule) for each in run.images)


class TestOnce:
    def test_what_it_deleted_and_by_which_rule(self, home: Path) -> None:
        policy(home, CI)
        with ImageCache(home) as cache:
            cache.pin("ci:3")
            run = cache.gc()
            assert taken(run) == [
                ("docker.io/library/ci:1", "ci"),
                ("docker.io/library/ci:2", "ci"),
            ]
            assert (run.outcome, run.error, run.shortfall) == ("completed", None, 0)
            assert run.report.image_refs_removed == 2
            assert sum(each.freed_bytes for each in run.images) > 0
            assert run.policy["rules"][0]["name"] == "ci"
            (row,) = cache.prunes()
            assert run.report.operation == row.operation
            assert cache.gc().outcome == "nothing"
        assert references(home) == ["app:1", "ci:3"]

    def test_what_came_to_be_used_before_it_decided_did_not_go(self, home: Path) -> None:
        policy(home, CI)

        def use(step: str) -> None:
            if step == "delete.planned":
                failpoints.observer = None
                with ImageCache(home) as other:
                    other.hold("ci:1", "sandbox:dev")

        failpoints.observer = use
        with ImageCache(home) as cache:
            run = cache.gc()
        assert [name for name, _ in taken(run)] == ["docker.io/library/ci:2", "docker.io/library/ci:3"]

    def test_a_manifest_without_a_reference_is_among_what_went(self, home: Path, tmp_path: Path) -> None:
        policy(home, '[[rule]]\nname = "left"\nfilter = ["dangling"]\ngrace = "0s"\n')
        with ImageCache(home) as cache:
            old = cache.get("ci:1").manifest_digest
            cache.hold("ci:1", "sandbox:dev")
            cache.remove("ci:1", force=True)
            cache.release("sandbox:dev")
            run = cache.gc()
            assert [(each.reference, each.manifest_digest) for each in run.images] == [(None, old)]

    def test_a_bound_that_cannot_be_kept(self, home: Path) -> None:
        policy(home, '[[rule]]\nname = "room"\nmax-size = "1B"\ngrace = "0s"\n')
        with ImageCache(home) as cache:
            cache.pin("app:1")
            run = cache.gc()
        assert (run.outcome, run.short_of, len(run.images)) == ("completed", "room", 3)
        assert run.shortfall > 0

    def test_what_cannot_be_done_is_raised(self, home: Path) -> None:
        with ImageCache(home) as cache:
            with pytest.raises(InvalidConfigError, match="policy init"):
                cache.gc()
            policy(home, "rule = 1")
            with pytest.raises(InvalidConfigError, match="line 1"):
                cache.gc()
            policy(home, f"max-delete = 1\n{ALL}")
            with pytest.raises(BoundNotKeptError):
                cache.gc()
        assert len(references(home)) == 4

    def test_one_that_is_ended_has_recorded_what_went(self, home: Path) -> None:
        policy(home, ALL)
        steps: list[str] = []
        failpoints.observer = steps.append
        with ImageCache(home) as cache, ended_by(lambda: steps.count("delete.unlinked") >= 3):
            with pytest.raises(DeletionCut) as cut:
                cache.gc()
            failpoints.observer = None
            outcomes = cache.prune_report(cut.value.operation).artifacts
            assert [each.outcome for each in outcomes if each.kind != "manifest"].count("deleted") == 3
            assert not any(each.recovered for each in outcomes)
        with ImageCache(home) as cache:
            assert cache.gc().outcome == "nothing"  # what began is over, and no image is left
            assert cache.prune_report(cut.value.operation).counters.outcome == "completed"
        check_whole(home)


class Stay:
    """Several runs in this process, of which a test looks at each."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs: list[GcRun] = []
        self.paused: list[float] = []
        self._steps: list[Callable[[], object]] = []
        self._home = home
        monkeypatch.setattr("msb_cache.waiting.pause", self._pause)

    def _pause(self, seconds: float) -> None:
        self.paused.append(seconds)
        if self._steps:
            self._steps.pop(0)()

    def __call__(self, *between: Callable[[], object], **options: Any) -> bool:
        """Stay for one run more than there is to do between two."""
        self._steps = [*between]
        with ImageCache(self._home) as cache:
            return cache.keep_small(
                "15m", self.runs.append, stopped=lambda: len(self.paused) > len(between), **options
            )

    @property
    def outcomes(self) -> list[str]:
        return [run.outcome for run in self.runs]


@pytest.fixture
def stay(home: Path, monkeypatch: pytest.MonkeyPatch) -> Stay:
    return Stay(home, monkeypatch)


class TestStaying:
    def test_it_runs_at_once_and_then_each_time(self, home: Path, stay: Stay) -> None:
        policy(home, CI)
        assert not stay(lambda: None)
        assert stay.outcomes == ["completed", "nothing"]
        assert all(890 < seconds <= 900 for seconds in stay.paused)

    def test_the_file_is_read_anew(self, home: Path, stay: Stay) -> None:
        policy(home, CI.replace("=ci", "=no"))
        stay(lambda: policy(home, CI))
        assert stay.outcomes == ["nothing", "completed"]

    def test_a_mistake_is_that_runs_and_known_again(self, home: Path, stay: Stay) -> None:
        policy(home, "rule = 1")
        stay(
            lambda: None,
            lambda: policy(home, "rules = 1"),
            (home / "cache-policy.toml").unlink,
            lambda: policy(home, CI),
            lambda: policy(home, "rule = 1"),
        )
        assert stay.outcomes == ["mistake"] * 4 + ["completed", "mistake"]
        assert [run.again for run in stay.runs] == [False, True, False, False, False, False]
        assert all(run.error for run in stay.runs if run.outcome == "mistake")
        assert stay.runs[0].policy == {}

    def test_another_file_and_another_limit(self, home: Path, stay: Stay, tmp_path: Path) -> None:
        policy(tmp_path, ALL)
        path = tmp_path / "cache-policy.toml"
        stay(path=path, max_delete="50%")
        assert stay.outcomes == ["held-back"]
        assert "at most 50 %" in str(stay.runs[0].error)
        assert len(references(home)) == 4

    def test_another_deletion_is_in_the_way_of_one_run_only(
        self, home: Path, stay: Stay, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(decision, "_PRUNE_WAIT", 0.0)
        policy(home, CI)
        lock = Lock(Layout(home).prune_lock)
        assert lock.acquire()
        stay(lock.release)
        assert stay.outcomes == ["failed", "completed"]
        assert "another deletion" in str(stay.runs[0].error)

    @pytest.mark.parametrize("error", [BusyError("it is busy"), OSError(5, "Input/output error", "/disk")])
    def test_a_run_that_fails_is_told_and_the_next_one_comes(
        self, home: Path, stay: Stay, error: Exception
    ) -> None:
        policy(home, CI)

        def fail(step: str) -> None:
            if step == "delete.planned":
                failpoints.observer = None
                raise error

        failpoints.observer = fail
        stay(lambda: None)
        assert stay.outcomes == ["failed", "completed"]
        assert stay.runs[0].error == (
            "it is busy" if isinstance(error, BusyError) else "/disk: Input/output error"
        )

    def test_between_two_runs_no_database_is_open(
        self, home: Path, stay: Stay, open_connections: Callable[[], list[object]]
    ) -> None:
        policy(home, CI)
        found = []
        stay(lambda: found.append(len(open_connections())))
        assert found == [0]

    @pytest.mark.parametrize(
        ("every", "options"),
        [("0s", {}), ("soon", {}), (timedelta(milliseconds=1), {}), ("1h", {"max_delete": "many"})],
    )
    def test_what_makes_no_sense_is_refused_at_once(
        self, home: Path, every: Any, options: dict[str, Any]
    ) -> None:
        policy(home, CI)
        with ImageCache(home) as cache, pytest.raises(InvalidConfigError):
            cache.keep_small(every, pytest.fail, **options)

    def test_without_a_policy_there_is_nothing_to_stay_for(self, home: Path, tmp_path: Path) -> None:
        with ImageCache(home) as cache:
            with pytest.raises(InvalidConfigError, match="policy init"):
                cache.keep_small("1h", pytest.fail)
            with pytest.raises(InvalidConfigError, match="cannot be read"):
                cache.keep_small("1h", pytest.fail, path=tmp_path / "none")

    def test_it_ends_between_two_files(self, home: Path, stay: Stay) -> None:
        policy(home, ALL)
        steps: list[str] = []
        failpoints.observer = steps.append
        with ImageCache(home) as cache:
            cut = cache.keep_small(
                "1h", stay.runs.append, stopped=lambda: steps.count("delete.unlinked") >= 3
            )
            assert cut
            (run,) = stay.runs
            assert (run.outcome, len(run.images)) == ("stopped", 4)
            assert run.report.operation == cache.prunes()[0].operation
        failpoints.observer = None
        assert references(home) == []
        with ImageCache(home) as cache:
            cache.release("sandbox:none")
        check_whole(home)

    def test_it_ends_before_it_decides(self, home: Path, stay: Stay) -> None:
        policy(home, ALL)
        asked: list[bool] = []

        def stopped() -> bool:
            asked.append(len(asked) > 0)
            return asked[-1]

        with ImageCache(home) as cache:
            assert not cache.keep_small("1h", stay.runs.append, stopped=stopped)
        assert stay.runs == []
        assert len(references(home)) == 4

    def test_apart_it_does_the_same(self, home: Path, tmp_path: Path, stay: Stay) -> None:
        policy(home, CI)
        told = tmp_path / "told"

        def tell(run: GcRun) -> None:
            with told.open("a") as lines:
                lines.write(f"{os.getpid()} {run.outcome} {len(run.images)}\n")

        with ImageCache(home) as cache:
            assert not cache.keep_small("15m", tell, stopped=lambda: len(stay.paused) > 1, apart=True)
        (first, *one), (second, *two) = (line.split() for line in told.read_text().splitlines())
        assert len({first, second, str(os.getpid())}) == 3
        assert (one, two) == (["completed", "3"], ["nothing", "0"])

    def test_a_child_that_is_killed_is_one_run_that_failed(self, home: Path, stay: Stay) -> None:
        policy(home, ALL)

        def die(step: str) -> None:
            if step == "delete.unlinked":
                os.kill(os.getpid(), signal.SIGKILL)

        failpoints.observer = die
        with ImageCache(home) as cache:
            assert not cache.keep_small(
                "15m", stay.runs.append, stopped=lambda: len(stay.paused) > 0, apart=True
            )
        failpoints.observer = None
        assert stay.outcomes == ["failed"]
        assert "signal 9" in str(stay.runs[0].error)
        with ImageCache(home) as cache:
            assert cache.gc().outcome == "nothing"
        check_whole(home)


def test_a_long_run_does_not_shift_the_next_ones(
    home: Path, stay: Stay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 20 minutes, every 15: the next one is 10 minutes later."""
    policy(home, CI)
    ahead = 0.0
    monotonic = time.monotonic

    def late(step: str) -> None:
        nonlocal ahead
        ahead = 1200.0 if step == "delete.finished" else ahead

    failpoints.observer = late
    monkeypatch.setattr("msb_cache.care.gc.time.monotonic", lambda: monotonic() + ahead)
    stay()
    assert 590 < stay.paused[0] <= 600
