"""Killed anywhere, the next writing command finishes or undoes; paused anywhere, nothing is broken."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from msb_cache import HomeOwnedByMicrosandboxError, ImageCache, ImageNotFoundError, failpoints
from msb_cache.artifacts.layer import read_layer
from msb_cache.artifacts.layout import Layout, lock_path
from msb_cache.artifacts.locks import Lock
from msb_cache.engines.own import add as adding
from msb_cache.eventstore import events as ev
from tests.imagebuilder import BuiltImage, docker_archive, file, image, layer
from tests.trees import files_below

Action = Callable[[ImageCache, Path], object]

SHARED = layer([file("shared", b"s" * 9000)])
ONE = image([SHARED, layer([file("one", b"1")])], "one:1")
TWO = image([SHARED, layer([file("two", b"2")])], "two:1")
MOVED = image([SHARED, layer([file("moved", b"3")])], "one:1")


def write(path: Path, *images: BuiltImage) -> Path:
    path.write_bytes(docker_archive(*images))
    return path


def load_two(cache: ImageCache, folder: Path) -> None:
    cache.load(folder / "two.tar", tag="extra:1")


def retag(cache: ImageCache, folder: Path) -> None:
    cache.load(folder / "moved.tar")


def remove(cache: ImageCache, folder: Path) -> None:
    cache.remove("one:1")


def prune(cache: ImageCache, folder: Path) -> None:
    cache.prune(orphans=True)


ACTIONS: dict[str, tuple[Action, list[BuiltImage]]] = {
    "load": (load_two, [ONE]),
    "load into an empty home": (load_two, []),
    "retag": (retag, [ONE]),
    "remove": (remove, [ONE, TWO]),
    "prune": (prune, [ONE, TWO]),
}


def prepare(folder: Path, name: str) -> Path:
    write(folder / "two.tar", TWO)
    write(folder / "moved.tar", MOVED)
    home = folder / "home"
    with ImageCache(home) as cache:
        for number, each in enumerate(ACTIONS[name][1]):
            cache.load(write(folder / f"{number}.tar", each))
        if name == "prune":
            cache.hold("two:1", "sandbox:dev")
            (home / "cache/layers" / f"sha256_{'0' * 64}.erofs").write_bytes(b"orphan")
    return home


def in_a_child(home: Path, action: Action, folder: Path, observer: Callable[[str], None]) -> int:
    """Run an action in a forked process; return its wait status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # xdist's threads do not matter to the child
        child = os.fork()
    if child == 0:
        code = 1
        try:
            failpoints.observer = observer
            with ImageCache(home) as cache:
                action(cache, folder)
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def killing_at(number: int) -> Callable[[str], None]:
    count = 0

    def observer(step: str) -> None:
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return observer


def names(home: Path) -> list[str]:
    with ImageCache(home) as cache:
        return sorted(handle.reference for handle in cache.list())


def log(home: Path) -> list[tuple[int, bytes]]:
    with ImageCache(home) as cache:
        return [(event.seq, event.hash) for event in cache.events()]


def check_clean(home: Path) -> None:
    """Nothing half-visible, nothing leaked, the log sound."""
    with ImageCache(home) as cache:
        found = cache.verify()
        assert found.sound, found
        assert found.disk == []
        for row in cache.deletions():
            assert row.counters.finished_at is not None
    layout = Layout(home)
    assert layout.interrupted_operations() == []
    with ImageCache(home) as cache:
        for handle in cache.list():
            cache.save(handle.reference, home.parent / "saved.tar")
            metadata = layout.metadata(f"docker.io/library/{handle.reference}")
            assert handle.manifest_digest is not None
            assert handle.manifest_digest in metadata.read_text()


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
        (row,) = cache.deletions()
        assert row.counters.finished_at is None
        assert cache.list()[0].reference == "two:1"  # reading neither fails nor recovers
        assert cache.deletions()[0].counters.finished_at is None
        cache.release("sandbox:nobody")
        report = cache.deletion(row.operation)
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
        assert cache.deletions()[0].counters.finished_at is None
    go_on.set()
    worker.join(30)
    check_clean(home)
    with ImageCache(home) as cache:
        assert cache.deletions()[0].counters.recovered == 0


def test_a_layer_loaded_between_decision_and_unlink_stays(tmp_path: Path) -> None:
    """The prune has decided to delete the shared layer; a load of it comes before the unlink."""
    home = prepare(tmp_path, "load")  # one:1 alone
    decided, go_on = threading.Event(), threading.Event()

    def observer(step: str) -> None:
        if step == "delete.decided" and threading.current_thread() is worker:
            decided.set()
            assert go_on.wait(30)

    worker = Pruning(home, observer)
    worker.start()
    assert decided.wait(30)
    with ImageCache(home) as cache:
        with pytest.raises(ImageNotFoundError):
            cache.get("one:1")
        cache.load(tmp_path / "two.tar")
    go_on.set()
    worker.join(30)
    failpoints.observer = None
    check_clean(home)
    layout = Layout(home)
    assert read_layer(layout.layer(SHARED.diff_id)).root.children is not None
    with ImageCache(home) as cache:
        kept = cache.events(types=["artifact.kept"])
        assert [(event.subject, event.data) for event in kept] == [
            (SHARED.diff_id, ev.ArtifactKept(kind="layer", reason="needed"))
        ]
        assert cache.deletions()[0].counters.outcome == "partial"
        assert (
            cache.inspect("two:1").layers[0].erofs_size_bytes == layout.layer(SHARED.diff_id).stat().st_size
        )


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
        assert cache.deletions()[0].counters.outcome == "partial"
        reasons = {event.data.reason for event in cache.events(types=["artifact.kept"])}  # type: ignore[attr-defined]
        assert reasons == {"owned"}


def test_msb_takes_the_home_over_in_the_middle_of_a_load(tmp_path: Path) -> None:
    home = prepare(tmp_path, "load")
    before, before_log = files_below(home / "cache"), log(home)

    def observer(step: str) -> None:
        if step == "add.published":
            (home / "db/msb.db").touch()

    failpoints.observer = observer
    with ImageCache(home, sync=False) as cache:
        with pytest.raises(HomeOwnedByMicrosandboxError):
            cache.load(tmp_path / "two.tar")
        failpoints.observer = None
        (home / "db/msb.db").unlink()
    # What was published may be msb's by then: it stays, as files that our index does not name.
    assert files_below(home / "cache").items() > before.items()
    assert log(home) == before_log
    with ImageCache(home) as cache:
        assert cache.preview_prune(orphans=True).orphans == 4


def test_an_undo_that_fails_is_left_to_recovery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = prepare(tmp_path, "retag")
    before = files_below(home / "cache")

    def fail(step: str) -> None:
        if step == "add.published":
            monkeypatch.setattr(adding, "undo", interrupted)
            raise OSError(28, "No space left on device")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    failpoints.observer = fail
    with ImageCache(home) as cache, pytest.raises(KeyboardInterrupt):
        cache.load(tmp_path / "moved.tar")
    failpoints.observer = None
    assert len(Layout(home).interrupted_operations()) == 1
    with ImageCache(home) as cache:
        cache.release("sandbox:nobody")
    assert files_below(home / "cache") == before
    check_clean(home)


def test_one_damaged_journal_does_not_keep_others_from_writing(tmp_path: Path) -> None:
    home = prepare(tmp_path, "load")
    layout = Layout(home)
    journals = [b'[{"kind":"x","subject":"y"}]', b'[{"kind":"layer","subject":"../../etc"}]', b"{"]
    for number, journal in enumerate(journals):
        staging = layout.staging(f"01a208de-7af1-7b41-9b6b-00000000000{number}")
        staging.mkdir(parents=True)
        (staging / "journal.json").write_bytes(journal)
    layout.operation_lock("01a208de-7af1-7b41-9b6b-000000000009").mkdir()
    with ImageCache(home) as cache:
        cache.use("one:1")


def test_lock_files_of_a_killed_load_are_tidied(tmp_path: Path) -> None:
    home = prepare(tmp_path, "load into an empty home")
    with ImageCache(home) as cache:
        cache.load(write(tmp_path / "one.tar", ONE))
    lone = Layout(home).layer("sha256:" + "3" * 64).with_suffix(".erofs.lock")
    lone.touch()
    with ImageCache(home) as cache:
        cache.prune(orphans=True)
    assert not lone.exists()


def test_two_loads_of_one_image_at_once(tmp_path: Path) -> None:
    home = prepare(tmp_path, "load into an empty home")
    loaders = [Loading(home, tmp_path / "two.tar", lambda step: None) for _ in range(4)]
    for loader in loaders:
        loader.start()
    for loader in loaders:
        loader.join(60)
    check_clean(home)
    with ImageCache(home) as cache:
        pulls = cache.events(types=["image.pulled"])
        assert len(pulls) == 4
        assert sum(event.data.bytes_fetched > 0 for event in pulls) == 1  # type: ignore[attr-defined]
        assert len(cache.events(types=["manifest.added"])) == 1


def test_a_failed_load_leaves_nothing(tmp_path: Path) -> None:
    home = prepare(tmp_path, "load")
    before = files_below(home / "cache", locks=True)
    before_log = log(home)

    def fail(step: str) -> None:
        if step == "add.renamed":
            raise OSError(28, "No space left on device")

    failpoints.observer = fail
    try:
        with ImageCache(home) as cache, pytest.raises(OSError, match="No space"):
            cache.load(tmp_path / "two.tar")
    finally:
        failpoints.observer = None
    assert log(home) == before_log
    with ImageCache(home) as cache:
        cache.release("sandbox:nobody")
    assert files_below(home / "cache", locks=True) == before
    check_clean(home)


class Pruning(threading.Thread):
    """A prune in a thread of its own."""

    def __init__(self, home: Path, observer: Callable[[str], None]) -> None:
        super().__init__()
        self._home = home
        failpoints.observer = observer

    def run(self) -> None:
        with ImageCache(self._home) as cache:
            cache.prune()


class Loading(threading.Thread):
    """A load in a thread of its own."""

    def __init__(self, home: Path, archive: Path, observer: Callable[[str], None]) -> None:
        super().__init__()
        self._home, self._archive = home, archive
        failpoints.observer = observer

    def run(self) -> None:
        with ImageCache(self._home) as cache:
            cache.load(self._archive)


@pytest.fixture(autouse=True)
def _no_observer() -> object:
    yield
    failpoints.observer = None
