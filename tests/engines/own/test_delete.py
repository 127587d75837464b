"""Deletions in a home of ours: what is offered and decided, and when each outcome is in the log."""

from __future__ import annotations

import io
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msb_cache import ImageCache, failpoints
from msb_cache.artifacts.layout import Layout, lock_path
from msb_cache.artifacts.locks import Lock
from msb_cache.engines.decision import DeletionCut, Preview
from msb_cache.engines.own import delete
from msb_cache.eventstore import events as ev
from msb_cache.waiting import ended_by
from tests.imagebuilder import docker_archive, file, image, layer
from tests.logs import digest

SHARED = layer([file("shared", b"s" * 5000)])
ONE = image([SHARED, layer([file("one", b"1")])], "one:1")
TWO = image([SHARED, layer([file("two", b"2")])], "two:1")
TWICE = image([SHARED, layer([file("between")]), SHARED], "twice:1")


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ImageCache]:
    with ImageCache(tmp_path / "home") as found:
        yield found


@pytest.fixture
def observe() -> Iterator[Callable[[Callable[[str], None]], None]]:
    """Return a function that sets what is called at each step."""

    def set_observer(observer: Callable[[str], None]) -> None:
        failpoints.observer = observer

    yield set_observer
    failpoints.observer = None


def load(cache: ImageCache, *images: object) -> None:
    cache.load(io.BytesIO(docker_archive(*images)))  # type: ignore[arg-type]


def removed(cache: ImageCache) -> list[ev.ImageRemoved]:
    events = [event.data for event in cache.events(types=["image.removed"])]
    return [event for event in events if isinstance(event, ev.ImageRemoved)]


# -- outcomes ---------------------------------------------------------------------------------------------


def make_orphans(cache: ImageCache, count: int) -> None:
    layout = Layout(cache.home)
    for number in range(count):
        layout.fsmeta(digest(number)).touch()


class Outcomes:
    """At each file that goes, how many went before and are not in the log yet; reads the log from outside."""

    def __init__(self, home: Path) -> None:
        self._database = Layout(home).database
        self.gone = 0
        self.unrecorded: list[int] = []

    def __call__(self, step: str) -> None:
        if step == "delete.unlinked":
            connection = sqlite3.connect(self._database)
            (recorded,) = connection.execute(
                "SELECT count(*) FROM events WHERE type = 'fsmeta.deleted'"
            ).fetchone()
            connection.close()
            self.unrecorded.append(self.gone - recorded)
            self.gone += 1


def test_outcomes_are_recorded_while_files_still_go(
    cache: ImageCache, observe: Callable[[Callable[[str], None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msb_cache.engines.own.delete._BATCH", 3)
    load(cache, ONE)
    cache.remove("one:1")
    make_orphans(cache, 8)
    outcomes = Outcomes(cache.home)
    observe(outcomes)
    cache.prune(orphans=True)
    # Those of a removal long ago are there already.
    before = outcomes.unrecorded[0]
    assert [each - before for each in outcomes.unrecorded] == [0, 1, 2, 0, 1, 2, 0, 1]
    assert cache.verify().disk == []


def test_outcomes_do_not_wait_for_slow_files(
    cache: ImageCache, observe: Callable[[Callable[[str], None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a disk on which a file takes 0.6 s to go, what went is in the log after a second."""
    load(cache, ONE)
    cache.hold("one:1", "sandbox:dev")
    make_orphans(cache, 5)
    outcomes, real, late = Outcomes(cache.home), time.monotonic, 0.0

    def slowly(step: str) -> None:
        nonlocal late
        outcomes(step)
        late += 0.6 if step == "delete.unlinked" else 0.0

    monkeypatch.setattr("time.monotonic", lambda: real() * 1e-3 + late)
    observe(slowly)
    cache.prune(orphans=True)
    assert outcomes.unrecorded == [0, 1, 0, 1, 0]


def test_what_went_before_a_crash_is_in_the_log(
    cache: ImageCache, observe: Callable[[Callable[[str], None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outcomes of whole batches have the size that was measured, and no mark of recovery."""
    monkeypatch.setattr("msb_cache.engines.own.delete._BATCH", 2)
    load(cache, ONE)
    cache.hold("one:1", "sandbox:dev")
    make_orphans(cache, 5)
    count = 0

    def crash(step: str) -> None:
        nonlocal count
        count += step == "delete.unlinked"
        if count == 4:
            raise RuntimeError("as if the process were gone")

    observe(crash)
    with pytest.raises(RuntimeError):
        cache.prune(orphans=True)
    failpoints.observer = None
    assert len(cache.events(types=["fsmeta.deleted"])) == 2
    cache.hold("one:1", "sandbox:other")  # a command that writes recovers first
    events = [event.data for event in cache.events(types=["fsmeta.deleted"])]
    assert [event.recovered for event in events if isinstance(event, ev.FsmetaDeleted)] == [
        *(False, False, True, True),  # they went, and only their plan knew what they measured
        False,
    ]
    assert cache.verify().disk == []


# -- orphans ----------------------------------------------------------------------------------------------


def test_an_orphan_that_is_locked_is_not_offered(cache: ImageCache) -> None:
    load(cache, ONE)
    cache.hold("one:1", "sandbox:dev")
    make_orphans(cache, 2)
    path = Layout(cache.home).fsmeta(digest(0))
    with Lock(lock_path(path)) as lock:
        assert lock.acquire()
        shown = cache.preview_prune(orphans=True)
        assert shown.orphaned() == {("fsmeta", digest(1))}
        report = cache.prune(orphans=True)
        assert (report.orphans_removed, path.exists()) == (1, True)
        assert cache.events(types=["artifact.kept"]) == []
        assert cache.prune(orphans=True).operation is None
    assert cache.preview_prune(orphans=True).orphaned() == {("fsmeta", digest(0))}


def test_files_of_the_index_are_no_orphans(cache: ImageCache) -> None:
    load(cache, ONE, TWO)
    cache.hold("one:1", "sandbox:dev")
    cache.hold("two:1", "sandbox:dev")
    make_orphans(cache, 1)
    assert cache.preview_prune(orphans=True).orphaned() == {("fsmeta", digest(0))}
    assert cache.preview_prune().orphans == 0


# -- what is said of a removal ----------------------------------------------------------------------------


@pytest.mark.parametrize("held", [False, True])
def test_a_removal_was_forced_only_if_the_image_was_held(cache: ImageCache, held: bool) -> None:
    load(cache, ONE, TWO)
    cache.hold("two:1", "sandbox:dev")
    if held:
        cache.hold("one:1", "sandbox:dev")
    cache.remove("one:1", force=True)
    (event,) = removed(cache)
    assert (event.cause, event.forced) == ("remove", held)


def test_what_a_prune_removes_is_not_forced(cache: ImageCache) -> None:
    load(cache, ONE, TWO)
    cache.hold("two:1", "sandbox:dev")
    cache.remove("two:1", force=True)
    cache.prune()
    assert [(event.cause, event.forced) for event in removed(cache)] == [("remove", True), ("prune", False)]


# -- one layer twice --------------------------------------------------------------------------------------


def test_an_image_that_has_a_layer_twice(cache: ImageCache) -> None:
    load(cache, TWICE, ONE)
    layout = Layout(cache.home)
    size = layout.layer(SHARED.diff_id).stat().st_size
    handle = cache.get("twice:1")
    assert (handle.layer_count, handle.size_bytes) == (3, sum(len(each.blob) for each in TWICE.layers))
    assert [(each.position, each.diff_id) for each in cache.inspect("twice:1").layers] == [
        (position, each.diff_id) for position, each in enumerate(TWICE.layers)
    ]
    assert (cache.verify().sound, cache.verify().disk) == (True, [])

    report = cache.remove("twice:1")  # one:1 needs it, too
    assert report.layers_removed == 1
    assert layout.layer(SHARED.diff_id).exists()

    load(cache, TWICE)
    cache.remove("one:1")
    shown = cache.preview_prune()
    (planned,) = (artifact for artifact in shown.artifacts if artifact.subject == SHARED.diff_id)
    assert (planned.bytes, planned.manifests) == (size, 1)
    report = cache.prune()
    assert (report.layers_removed, report.bytes_reclaimed) == (2, shown.bytes)
    events = cache.events(types=["layer.deleted"])
    found = [event.data for event in events if event.subject == SHARED.diff_id]
    assert found == [ev.LayerDeleted(bytes=size, manifests=1)]
    assert (cache.verify().sound, cache.verify().disk) == (True, [])
    assert cache.rebuild() == []


# -- stopped by a person ----------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [True, False])
def test_what_went_until_it_was_stopped_is_recorded(
    tmp_path: Path, observe: Callable[[Callable[[str], None]], None], asked: bool
) -> None:
    """By Ctrl-C, or by what is asked between two files."""
    steps: list[str] = []

    def stop(step: str) -> None:
        steps.append(step)
        if not asked and step == "delete.unlinked" and steps.count(step) == 3:
            raise KeyboardInterrupt

    with ImageCache(tmp_path / "home") as cache:
        load(cache, ONE, TWO)
        observe(stop)
        with (
            ended_by(lambda: asked and steps.count("delete.unlinked") >= 3),
            pytest.raises(DeletionCut) as cut,
        ):
            cache.prune()
        observe(lambda _: None)
        report = cache.prune_report(cut.value.operation)
        assert [each.outcome for each in report.artifacts if each.kind != "manifest"].count("deleted") == 3
        cache.release("sandbox:none")
        report = cache.prune_report(cut.value.operation)
        assert report.counters.outcome == "completed"
        assert not any(each.recovered for each in report.artifacts)


def test_a_deletion_that_recovery_finishes_is_stopped_as_well(
    tmp_path: Path, observe: Callable[[Callable[[str], None]], None]
) -> None:
    steps: list[str] = []
    observe(steps.append)
    with ImageCache(tmp_path / "home") as cache:
        load(cache, ONE, TWO)
        for count in (1, 2):  # the second one is of the command that recovers
            with (
                ended_by(lambda count=count: steps.count("delete.unlinked") >= count),  # type: ignore[misc]
                pytest.raises(DeletionCut),
            ):
                cache.prune()
        (row,) = cache.prunes()
        gone = [each for each in cache.prune_report(row.operation).artifacts if each.outcome == "deleted"]
        assert len([each for each in gone if each.kind != "manifest"]) == 2
        cache.release("sandbox:none")
        assert [row.counters.outcome for row in cache.prunes()] == ["completed"]


@pytest.mark.parametrize("earlier", [False, True])
def test_what_another_deletion_took_meanwhile_keeps_recovery_from_nothing(
    cache: ImageCache,
    observe: Callable[[Callable[[str], None]], None],
    monkeypatch: pytest.MonkeyPatch,
    earlier: bool,
) -> None:
    """Earlier releases had its manifest in the plan, as a file that recovery was to delete."""

    def stop(step: str) -> None:
        if step == "delete.unlinked":
            raise KeyboardInterrupt

    def meanwhile(shown: Preview) -> bool:
        with ImageCache(cache.home) as other:
            other.remove("two:1")
        observe(stop)
        return True

    load(cache, ONE, TWO)
    if earlier:
        monkeypatch.setattr(delete, "still_wanted", lambda plan, state, shown: [*shown.artifacts])
    with pytest.raises(DeletionCut) as cut:
        cache.prune(confirm=meanwhile)
    observe(lambda _: None)
    cache.release("sandbox:none")
    report = cache.prune_report(cut.value.operation)
    assert report.counters.outcome == "completed"
    manifests = [each.outcome for each in report.artifacts if each.kind == "manifest"]
    assert manifests == (["deleted", None] if earlier else ["deleted"])
    assert not [finding for finding in cache.doctor() if finding.kind == "unfinished"]


@pytest.mark.parametrize("step", ["delete.deciding", "delete.decided", "delete.unlinked", "delete.recording"])
def test_ctrl_c_says_what_is_left_and_what_finishes_it(
    tmp_path: Path, observe: Callable[[Callable[[str], None]], None], step: str
) -> None:
    def stop(reached: str) -> None:
        if reached == step:
            raise KeyboardInterrupt

    notes: list[str] = []
    with ImageCache(tmp_path / "home", note=notes.append) as cache:
        load(cache, ONE, TWO)
        notes.clear()  # who keeps the new home
        files = [path for *_, path in Layout(cache.home).files()]
        observe(stop)
        with pytest.raises(KeyboardInterrupt):
            cache.prune()
        observe(lambda _: None)
        left = sum(path.exists() for path in files)
        if step == "delete.deciding":
            assert (notes, left, cache.prunes()) == ([], len(files), [])
            return
        (row,) = cache.prunes()
        assert notes == [
            f"stopped with {left} of {len(files)} files not deleted yet; the next command that writes "
            f"finishes operation {row.operation[:13]}"
        ]
        assert left == {"delete.decided": len(files), "delete.unlinked": len(files) - 1}.get(step, 0)
        cache.release("sandbox:none")
        assert not any(path.exists() for path in files)
        (row,) = cache.prunes()
        assert row.counters.outcome == "completed"
