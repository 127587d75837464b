"""Killed anywhere, the next writing command finishes or undoes; paused anywhere, nothing is broken."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

from msb_cache import ImageCache, failpoints
from msb_cache.artifacts.layout import Layout, lock_path
from msb_cache.artifacts.locks import Lock
from msb_cache.eventstore import events as ev
from tests.engines.interrupting import (
    ACTIONS,
    ONE,
    SHARED,
    Loading,
    Pruning,
    check_clean,
    in_a_child,
    killing_at,
    log,
    names,
    prepare,
    prune,
    write,
)
from tests.trees import files_below


@pytest.mark.parametrize("name", list(ACTIONS))
def test_killed_at_every_step(tmp_path: Path, name: str) -> None:
    action = ACTIONS[name][0]
    home = prepare(tmp_path, name)
    before_names, before_log = names(home), log(home)
    pristine = tmp_path / "pristine"
    shutil.copytree(home, pristine)
    reached: list[str] = []
    with ImageCache(home) as cache:
        failpoints.observer = reached.append
        try:
            action(cache, tmp_path)
        finally:
            failpoints.observer = None
    after_names = names(home)
    check_clean(home)
    assert len(reached) >= 7
    for number in range(1, len(reached) + 1):
        shutil.rmtree(home)
        shutil.copytree(pristine, home)
        status = in_a_child(home, action, tmp_path, killing_at(number))
        assert os.WIFSIGNALED(status), reached[number - 1]
        with ImageCache(home) as cache:
            cache.release("sandbox:nobody")  # any writing command
        assert names(home) in (before_names, after_names), reached[number - 1]
        assert log(home)[: len(before_log)] == before_log
        if name == "load" and names(home) == before_names:
            with ImageCache(home) as cache:
                action(cache, tmp_path)
        if name == "prune" and names(home) == before_names:
            with ImageCache(home) as cache:
                action(cache, tmp_path)  # the orphan is not the killed prune's to delete
        check_clean(home)


def test_a_killed_prune_is_reported_whole(tmp_path: Path) -> None:
    home = prepare(tmp_path, "prune")

    def observer(step: str) -> None:
        if step == "delete.unlinked":
            os.kill(os.getpid(), signal.SIGKILL)

    assert os.WIFSIGNALED(in_a_child(home, prune, tmp_path, observer))
    with ImageCache(home) as cache:
        (row,) = cache.prunes()
        assert row.counters.finished_at is None
        assert cache.list()[0].reference == "two:1"  # reading neither fails nor recovers
        assert cache.prunes()[0].counters.finished_at is None
        cache.release("sandbox:nobody")
        report = cache.prune_report(row.operation)
    assert report.counters.outcome == "completed"
    assert report.counters.recovered == 1
    assert {artifact.outcome for artifact in report.artifacts} == {"deleted"}
    gone = [artifact for artifact in report.artifacts if artifact.recovered]
    assert len(gone) == 1
    assert gone[0].bytes == gone[0].planned_bytes
    total = sum(artifact.bytes or 0 for artifact in report.artifacts)
    assert report.counters.bytes_reclaimed == total


def test_a_slow_owner_is_not_recovered(tmp_path: Path) -> None:
    home = prepare(tmp_path, "remove")
    with ImageCache(home) as cache:
        cache.hold("two:1", "sandbox:dev")
    decided, go_on = threading.Event(), threading.Event()

    def observer(step: str) -> None:
        if step == "delete.decided":
            decided.set()
            assert go_on.wait(30)

    worker = Pruning(home, observer)
    worker.start()
    assert decided.wait(30)
    failpoints.observer = None
    with ImageCache(home) as cache:
        cache.use("two:1")  # a writing command: it would recover, if it could
        assert cache.prunes()[0].counters.finished_at is None
    go_on.set()
    worker.join(30)
    check_clean(home)
    with ImageCache(home) as cache:
        assert cache.prunes()[0].counters.recovered == 0


def test_a_layer_that_a_running_load_reuses_is_busy(tmp_path: Path) -> None:
    home = prepare(tmp_path, "load")
    staged, go_on = threading.Event(), threading.Event()

    def observer(step: str) -> None:
        if step == "add.staged":
            staged.set()
            assert go_on.wait(30)

    loader = Loading(home, tmp_path / "two.tar", observer)
    loader.start()
    assert staged.wait(30)
    with ImageCache(home) as cache:
        report = cache.prune()
        assert report.image_refs_removed == 1
        assert report.layers_removed == 2
    go_on.set()
    loader.join(30)
    failpoints.observer = None
    check_clean(home)
    with ImageCache(home) as cache:
        (kept,) = cache.events(types=["artifact.kept"])
        assert (kept.subject, kept.data) == (SHARED.diff_id, ev.ArtifactKept(kind="layer", reason="busy"))
    assert names(home) == ["two:1"]


def test_what_was_busy_is_made_up_for_by_the_next_prune(tmp_path: Path) -> None:
    home = prepare(tmp_path, "load")
    lock = Lock(lock_path(Layout(home).layer(SHARED.diff_id)))
    lock.acquire()
    with ImageCache(home) as cache:
        cache.prune()
        (kept,) = cache.events(types=["artifact.kept"])
        assert (kept.subject, kept.data) == (SHARED.diff_id, ev.ArtifactKept(kind="layer", reason="busy"))
        lock.release()
        report = cache.prune()
        assert (report.image_refs_removed, report.orphans_removed) == (0, 1)
        assert cache.prune().operation is None
    check_clean(home)


def test_msb_takes_the_home_over_in_the_middle_of_a_prune(tmp_path: Path) -> None:
    home = prepare(tmp_path, "load")
    before = files_below(home / "cache")

    def observer(step: str) -> None:
        if step == "delete.decided":
            (home / "db/msb.db").touch()

    failpoints.observer = observer
    with ImageCache(home, sync=False) as cache:
        cache.prune()
        assert files_below(home / "cache") == before
        assert cache.prunes()[0].counters.outcome == "partial"
        reasons = {event.data.reason for event in cache.events(types=["artifact.kept"])}  # type: ignore[attr-defined]
        assert reasons == {"owned"}


def test_lock_files_of_a_killed_load_are_tidied(tmp_path: Path) -> None:
    home = prepare(tmp_path, "load into an empty home")
    with ImageCache(home) as cache:
        cache.load(write(tmp_path / "one.tar", ONE))
    lone = Layout(home).layer("sha256:" + "3" * 64).with_suffix(".erofs.lock")
    lone.touch()
    with ImageCache(home) as cache:
        cache.prune(orphans=True)
    assert not lone.exists()
