"""Removing and pruning in a home that the fake msb keeps: msb deletes, and the log says what went."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from msb_cache import (
    HomeOwnedByMicrosandboxError,
    ImageCache,
    ImageInUseError,
    ImageNotFoundError,
    InvalidReferenceError,
    MsbProgramError,
    SyncReport,
)
from msb_cache import failpoints as steps
from msb_cache.artifacts.layout import Layout, lock_path
from msb_cache.artifacts.locks import Lease, Lock
from msb_cache.audit.files import BROKEN
from msb_cache.engines.decision import Confirm, DeletionCut
from msb_cache.eventstore import events as ev
from msb_cache.retention.policy import PrunePolicy
from msb_cache.waiting import ended_by
from msb_cache.wording import plural
from tests.engines.msb.support import (
    Kill,
    age,
    at,
    check,
    files_of,
    forked,
    lease,
    operation_of,
    outcomes,
)
from tests.engines.support import left, refusing
from tests.fakemsb import FakeMsb
from tests.imagebuilder import BuiltImage, docker_archive, file, image, layer, oci_archive
from tests.peers.realmsb import IMAGES

ALONE, TWO, APP = IMAGES["alone"], IMAGES["two"], IMAGES["app"]
ALONE_1 = "docker.io/library/alone:1"
APP_1 = "docker.io/library/app:1"


def artifacts_of(built: BuiltImage, *references: str) -> set[tuple[str, str]]:
    """Return kind and subject of everything that an image has which shares no layer."""
    found = {(kind, built.digest) for kind in ("manifest", "fsmeta", "vmdk")}
    found |= {("metadata", reference) for reference in references}
    return found | {("layer", each.diff_id) for each in built.layers}


def yes(shown: object) -> bool:
    return True


# -- remove -----------------------------------------------------------------------------------------------


def test_remove(fake: FakeMsb, cache: ImageCache) -> None:
    before = files_of(fake.home)
    report = cache.remove("alone:1")
    assert fake.calls == [["image", "remove", "--", "alone:1"]]
    gone = {name: size for name, size in before.items() if name not in files_of(fake.home)}
    assert len(gone) == 4
    assert report.bytes_reclaimed == sum(gone.values())
    assert (report.image_refs_removed, report.manifests_removed, report.layers_removed) == (1, 1, 1)
    assert (report.fsmeta_removed, report.vmdk_removed) == (1, 1)
    told = operation_of(cache, report.operation)
    assert told[:3] == [
        ("deletion.started", report.operation),
        ("image.removed", ALONE_1),
        ("manifest.deleted", ALONE.digest),
    ]
    assert told[-1] == ("deletion.finished", report.operation)
    assert set(told[3:-1]) == {
        ("metadata.deleted", ALONE_1),
        ("vmdk.deleted", ALONE.digest),
        ("fsmeta.deleted", ALONE.digest),
        ("layer.deleted", ALONE.layers[0].diff_id),
    }
    (summary,) = cache.prunes()
    assert (summary.counters.engine, summary.counters.outcome) == ("msb", "completed")
    assert summary.policy == {"references": [ALONE_1], "force": False}
    with pytest.raises(ImageNotFoundError):
        cache.remove("alone:1")
    check(cache, fake)


def test_an_image_without_its_files(fake: FakeMsb, cache: ImageCache) -> None:
    layout = Layout(fake.home)
    for path in (layout.metadata(ALONE_1), layout.vmdk(ALONE.digest)):
        path.unlink()
    report = cache.remove("alone:1")
    assert (report.image_refs_removed, report.vmdk_removed, report.fsmeta_removed) == (1, 0, 1)
    assert outcomes(cache, report.operation)["metadata", ALONE_1] == "deleted"
    check(cache, fake)


def test_held(fake: FakeMsb, cache: ImageCache) -> None:
    before, position = files_of(fake.home), len(cache.events())
    with pytest.raises(ImageInUseError, match=r"^app:1 is in use by sandbox:dev$") as caught:
        cache.remove("app:1")
    assert caught.value.seen_in_msb
    assert fake.calls == []
    assert (files_of(fake.home), len(cache.events())) == (before, position)


def test_what_only_a_hold_of_ours_keeps_is_not_forced(fake: FakeMsb, cache: ImageCache) -> None:
    """msb does not know the hold, and would delete the held manifest with its last reference."""
    cache.hold("alone:1", "sandbox:ours")
    before = files_of(fake.home)
    with pytest.raises(ImageInUseError, match=r"^alone:1 is in use by sandbox:ours$") as caught:
        cache.remove("alone:1")
    assert (caught.value.seen_in_msb, caught.value.forcible) == (False, False)
    with pytest.raises(ImageInUseError, match=r"^alone:1 is held by sandbox:ours, which msb does not know"):
        cache.remove("alone:1", force=True)
    assert (files_of(fake.home), fake.calls) == (before, [])
    cache.release("sandbox:ours")
    assert cache.remove("alone:1", force=True).manifests_removed == 1
    check(cache, fake)


def test_force_drops_the_reference_only(fake: FakeMsb, cache: ImageCache) -> None:
    before = files_of(fake.home)
    report = cache.remove("app:1", force=True)
    assert fake.calls == [["image", "remove", "--force", "--", "app:1"]]
    assert (report.image_refs_removed, report.manifests_removed, report.layers_removed) == (1, 0, 0)
    (removed,) = cache.prune_report(report.operation or "").images
    assert removed == (
        APP_1,
        ev.ImageRemoved(manifest_digest=APP.digest, spelling="app:1", cause="remove", forced=True),
    )
    # msb leaves the metadata of what it still needs.
    assert outcomes(cache, report.operation) == {("metadata", APP_1): "kept left"}
    assert files_of(fake.home) == before
    assert "app:1" not in fake.references()
    check(cache, fake)


def test_one_of_two_names_leaves_the_manifest(fake: FakeMsb, cache: ImageCache) -> None:
    report = cache.remove("two")
    assert fake.calls == [["image", "remove", "--", "two:latest"]]
    assert (report.image_refs_removed, report.manifests_removed, report.layers_removed) == (1, 0, 0)
    assert cache.prune_report(report.operation or "").kept == [
        ev.Judged(subject=TWO.digest, rule="referenced", holders=("example.org/team/two:2",))
    ]
    report = cache.remove("example.org/team/two:2")
    # The layer that it shares with app:1 stays.
    assert (report.image_refs_removed, report.manifests_removed, report.layers_removed) == (1, 1, 1)
    assert Layout(fake.home).layer(APP.layers[0].diff_id).exists()
    check(cache, fake)


@pytest.mark.parametrize("step", ["msb.decided", "begin"])
def test_a_sandbox_appears_after_the_decision(fake: FakeMsb, cache: ImageCache, step: str) -> None:
    create = ["create", "alone:1", "--name", "late"]
    if step == "begin":
        fake.meanwhile("image remove", create)
    else:
        at(step, lambda: fake(*create))
    before = files_of(fake.home)
    with pytest.raises(ImageInUseError, match=r"^alone:1 is in use by sandbox:late$"):
        cache.remove("alone:1")
    assert len(fake.calls) == (step == "begin")  # what is seen to be held is not asked for
    assert files_of(fake.home) == before
    (summary,) = cache.prunes()
    assert (summary.counters.outcome, summary.counters.image_refs_removed) == ("partial", 0)
    assert outcomes(cache, summary.operation) == {
        each: "kept held" if each[0] == "metadata" else "kept needed" for each in artifacts_of(ALONE, ALONE_1)
    }
    assert {each.holders for each in cache.prune_report(summary.operation).artifacts} == {
        ("sandbox:late",),
        (),
    }
    check(cache, fake)


def test_one_spelling_goes_and_the_other_stays(fake: FakeMsb, cache: ImageCache) -> None:
    fake.load(ALONE, ALONE_1)
    with pytest.raises(InvalidReferenceError, match=r"alone:1.*alone:1"):
        cache.get("index.docker.io/library/alone:1")
    report = cache.remove("alone:1")
    assert fake.calls == [["image", "remove", "--", "alone:1"]]
    assert (report.image_refs_removed, report.manifests_removed) == (1, 0)
    assert {"alone:1", ALONE_1} & fake.references() == {ALONE_1}
    assert outcomes(cache, report.operation) == {("metadata", ALONE_1): "kept spelled"}
    assert cache.prunes()[0].counters.outcome == "completed"
    check(cache, fake)
    # It is alone now, so any spelling means it.
    assert cache.get("alone:1").reference == ALONE_1
    report = cache.remove("alone:1")
    assert (report.image_refs_removed, report.manifests_removed) == (1, 1)
    assert outcomes(cache, report.operation)["metadata", ALONE_1] == "deleted"
    check(cache, fake)


@pytest.mark.parametrize("way", ["prune", "prune without asking"])
def test_each_spelling_and_its_manifest_go(fake: FakeMsb, cache: ImageCache, way: str) -> None:
    other = image([layer([file("other", b"other")])])
    fake("image", "rm", "two:latest", "example.org/team/two:2")
    fake.load(other, ALONE_1)
    report = cache.prune(confirm=None if "without" in way else yes)
    assert (report.image_refs_removed, report.manifests_removed, report.layers_removed) == (2, 2, 2)
    assert fake.references() == {"app:1"}
    assert cache.prunes()[0].counters.outcome == "completed"
    removed = [event.data for event in cache.events(types=["image.removed"], operation=report.operation)]
    assert {data.spelling for data in removed if isinstance(data, ev.ImageRemoved)} == {"alone:1", ALONE_1}
    check(cache, fake)


@pytest.mark.parametrize("way", ["remove", "prune", "prune without asking"])
def test_one_of_two_spellings_is_held(fake: FakeMsb, cache: ImageCache, way: str) -> None:
    fake.load(ALONE, APP_1)
    assert cache.get(APP_1).manifest_digest == ALONE.digest
    assert cache.get("app:1").manifest_digest == APP.digest
    assert (cache.holders(APP_1), cache.holders("app:1")) == ([], ["sandbox:dev"])
    if way == "remove":
        with pytest.raises(ImageInUseError, match=r"^app:1 is in use by sandbox:dev$"):
            cache.remove("app:1")
        assert fake.calls == []
        assert cache.remove(APP_1).image_refs_removed == 1
    else:
        assert cache.prune(confirm=None if "without" in way else yes).image_refs_removed == 4
    assert cache.prunes()[0].counters.outcome == "completed"
    assert {"app:1", APP_1} & fake.references() == {"app:1"}
    # The metadata that both had was that of the one that went, and msb leaves it so.
    (problem,) = [problem for problem in cache.verify().disk if problem.problem in BROKEN]
    assert (problem.problem, problem.kind) == ("other", "metadata")


def test_what_msb_says_against_it_is_passed_on(fake: FakeMsb, cache: ImageCache) -> None:
    fake.fails("image remove", "error: the disk is on fire", "error: some images failed to remove")
    with pytest.raises(MsbProgramError, match=r"^msb could not remove alone:1: the disk is on fire$"):
        cache.remove("alone:1")
    (summary,) = cache.prunes()
    assert summary.counters.outcome == "partial"
    (failed,) = cache.events(types=["artifact.delete_failed"])
    assert failed.data == ev.ArtifactDeleteFailed(kind="metadata", errno=0, reason="the disk is on fire")
    assert cache.remove("alone:1").image_refs_removed == 1
    check(cache, fake)


def test_msb_says_that_it_is_done_and_it_is_not(fake: FakeMsb, cache: ImageCache) -> None:
    fake.fails("image remove", "  ✓ Removed             alone:1", code=0)
    with pytest.raises(MsbProgramError, match=r"^msb said nothing against it, but alone:1 is still there"):
        cache.remove("alone:1")
    assert "alone:1" in fake.references()
    check(cache, fake)


def test_an_active_storage_operation_is_a_refusal(fake: FakeMsb, cache: ImageCache) -> None:
    metadata = Layout(fake.home).metadata(ALONE_1)
    with Lock(lease(metadata)) as lock:
        assert lock.acquire()
        with pytest.raises(ImageInUseError, match=r"^alone:1 is in use by another process"):
            cache.remove("alone:1")
        report = cache.prune()
        assert (report.artifacts_failed, report.skipped_in_use) == (0, 1)
        assert (
            outcomes(cache, report.operation)["metadata", ALONE_1] == "kept needed"
        )  # msb is silent about it
    assert "alone:1" in fake.references()
    assert cache.remove("alone:1").image_refs_removed == 1
    check(cache, fake)


def test_a_manifest_in_use_stays_with_its_files(fake: FakeMsb, cache: ImageCache) -> None:
    with Lock(lease(Layout(fake.home).fsmeta(ALONE.digest))) as lock:
        assert lock.acquire()
        report = cache.remove("alone:1")
    assert (report.image_refs_removed, report.manifests_removed, report.layers_removed) == (1, 0, 0)
    assert outcomes(cache, report.operation) == {
        each: "deleted" if each[0] == "metadata" else "kept needed" for each in artifacts_of(ALONE, ALONE_1)
    }
    assert Layout(fake.home).layer(ALONE.layers[0].diff_id).exists()
    report = cache.prune()
    assert report.manifests_removed == 2
    assert not Layout(fake.home).layer(ALONE.layers[0].diff_id).exists()
    check(cache, fake)


def test_a_layer_in_use_is_left(fake: FakeMsb, cache: ImageCache) -> None:
    path = Layout(fake.home).layer(ALONE.layers[0].diff_id)
    with Lock(lease(path)) as lock:
        assert lock.acquire()
        report = cache.remove("alone:1")
    assert (report.image_refs_removed, report.manifests_removed) == (1, 1)
    assert outcomes(cache, report.operation)["layer", ALONE.layers[0].diff_id] == "kept left"
    assert path.exists()
    check(cache, fake)


def test_files_that_msb_leaves_behind(fake: FakeMsb, cache: ImageCache) -> None:
    before = files_of(fake.home)
    fake.leaves_files("image remove")
    report = cache.remove("alone:1")
    assert (report.image_refs_removed, report.manifests_removed) == (1, 1)
    assert report.bytes_reclaimed is None
    assert set(outcomes(cache, report.operation).values()) == {"deleted", "kept left"}
    assert cache.prunes()[0].counters.outcome == "partial"
    assert files_of(fake.home) == before
    age(fake.home)
    assert cache.prune(orphans=True, confirm=yes).orphans_removed == 4
    check(cache, fake)


@pytest.mark.parametrize("step", ["begin", "rows", "file", "end"])
def test_msb_is_killed(fake: FakeMsb, cache: ImageCache, step: str) -> None:
    fake.dies("image remove", step)
    if step == "begin":
        with pytest.raises(MsbProgramError, match="msb could not remove alone:1: exit code -9"):
            cache.remove("alone:1")
        assert "alone:1" in fake.references()
        check(cache, fake)
        return
    report = cache.remove("alone:1")
    assert (report.image_refs_removed, report.manifests_removed) == (1, 1)
    found = outcomes(cache, report.operation)
    left = {"rows": 4, "file": 3, "end": 0}[step]
    assert sorted(found.values()) == sorted(["deleted"] * (5 - left) + ["kept left"] * left)
    check(cache, fake)


def test_what_is_removed_at_the_same_time_is_not_decided(fake: FakeMsb, cache: ImageCache) -> None:
    def others(*words: str) -> None:
        fake(*words)
        with ImageCache(fake.home) as other:
            other.sync()

    at("msb.planned", lambda: others("image", "rm", "alone:1"))
    with pytest.raises(ImageNotFoundError):
        cache.remove("alone:1")
    at("msb.planned", lambda: others("image", "prune", "--yes"))
    assert cache.prune().operation is None
    assert fake.calls == []
    assert {report.counters.kind for report in cache.prunes()} == {"external"}
    causes = {event.data.cause for event in cache.events(types=["image.removed"])}  # type: ignore[attr-defined]
    assert causes == {"external"}
    check(cache, fake)


def test_no_msb(fake: FakeMsb, cache: ImageCache, monkeypatch: pytest.MonkeyPatch, no_msb: None) -> None:
    monkeypatch.delenv("MSB_PATH")
    commands: list[Callable[[], object]] = [lambda: cache.remove("alone:1"), lambda: cache.prune()]
    for command in commands:
        with pytest.raises(HomeOwnedByMicrosandboxError, match="not installed here, so it is only read"):
            command()
    assert cache.preview_prune().plan.references
    assert cache.prunes() == []


# -- prune ------------------------------------------------------------------------------------------------


def test_a_prune_of_everything_is_one_run(fake: FakeMsb, cache: ImageCache) -> None:
    before = files_of(fake.home)
    report = cache.prune()
    assert fake.calls == [["image", "prune", "--yes", "--quiet"]]
    assert (report.image_refs_removed, report.manifests_removed, report.layers_removed) == (3, 2, 2)
    gone = {name: size for name, size in before.items() if name not in files_of(fake.home)}
    assert report.bytes_reclaimed == sum(gone.values())
    assert fake.references() == {"app:1"}
    told = operation_of(cache, report.operation)
    assert [type for type, _ in told].count("image.removed") == 3
    assert cache.prune_report(report.operation or "").kept == [
        ev.Judged(subject=APP_1, spelling="app:1", rule="held", holders=("sandbox:dev",))
    ]
    assert cache.prunes()[0].counters.outcome == "completed"
    assert cache.prune().operation is None
    check(cache, fake)


def test_what_was_confirmed_goes_by_name(fake: FakeMsb, cache: ImageCache) -> None:
    shown: list[str] = []

    def confirm(preview: object) -> bool:
        shown.extend(preview.plan.references)  # type: ignore[attr-defined]
        fake("rm", "dev")  # what it held could go now, and was not shown
        return True

    report = cache.prune(confirm=confirm)
    ((*words,),) = fake.calls
    assert words[:3] == ["image", "remove", "--"]
    assert set(words[3:]) == {"alone:1", "two:latest", "example.org/team/two:2"}
    assert (len(shown), report.image_refs_removed) == (3, 3)
    assert fake.references() == {"app:1"}
    check(cache, fake)


def test_what_is_not_confirmed_stays(fake: FakeMsb, cache: ImageCache) -> None:
    position = len(cache.events())
    assert cache.prune(confirm=lambda shown: False).operation is None
    assert cache.prune(dry_run=True).image_refs_removed == 3
    assert (fake.calls, len(cache.events())) == ([], position)


def test_many_references_are_removed_some_at_a_time(fake: FakeMsb, cache: ImageCache) -> None:
    fake.load(ALONE, *(f"alone:{number}" for number in range(2, 110)))
    fake.meanwhile("image remove", ["create", "alone:1", "--name", "late"])
    report = cache.prune(confirm=yes)
    calls = fake.calls
    # The manifest of the first five is held by then, and that of 104 more.
    assert [len(words) - 3 for words in calls] == [5, 1, 1]
    assert (report.image_refs_removed, report.skipped_in_use) == (2, 109)
    check(cache, fake)


@pytest.mark.parametrize("way", ["whole", "one by one"])
def test_a_manifest_that_no_reference_has(fake: FakeMsb, cache: ImageCache, way: str) -> None:
    fake("image", "rm", "--force", "app:1")
    fake("rm", "dev")
    cache.sync()
    report = cache.prune(confirm=None if way == "whole" else yes)
    prune = ["image", "prune", "--yes", "--quiet"]
    calls = fake.calls
    assert calls[-1] == prune
    assert len(calls) == (1 if way == "whole" else 2)
    assert (report.image_refs_removed, report.manifests_removed, report.layers_removed) == (3, 3, 4)
    assert fake.rows("SELECT digest FROM manifest") == []
    check(cache, fake)


def test_a_manifest_stays_where_a_prune_would_take_more(fake: FakeMsb, cache: ImageCache) -> None:
    fake("image", "rm", "--force", "app:1")
    fake("rm", "dev")
    fake.meanwhile("image remove", ["load", "-q", "-i", str(archive(fake, "next"))], at="end")
    report = cache.prune(confirm=yes)
    assert [words[1] for words in fake.calls] == ["remove"]
    assert (report.image_refs_removed, report.manifests_removed) == (3, 2)
    assert outcomes(cache, report.operation)["manifest", APP.digest] == "kept needed"
    assert fake.references() == {"app:1"}
    check(cache, fake)


def test_a_refused_prune(fake: FakeMsb, cache: ImageCache) -> None:
    fake.fails("image prune", "error: the disk is on fire")
    report = cache.prune()
    assert (report.image_refs_removed, report.artifacts_failed) == (0, 3)
    assert {each.data.reason for each in cache.events(types=["artifact.delete_failed"])} == {  # type: ignore[attr-defined]
        "the disk is on fire"
    }
    assert cache.prunes()[0].counters.outcome == "partial"
    assert cache.prune().image_refs_removed == 3
    check(cache, fake)


def test_an_image_comes_to_be_held_while_msb_prunes(fake: FakeMsb, cache: ImageCache) -> None:
    fake.meanwhile("image prune", ["create", "alone:1", "--name", "late"])
    report = cache.prune()
    assert (report.image_refs_removed, report.skipped_in_use) == (2, 1)
    found = outcomes(cache, report.operation)
    assert found["metadata", ALONE_1] == "kept held"
    assert found["manifest", ALONE.digest] == "kept needed"
    assert cache.prunes()[0].counters.outcome == "partial"
    check(cache, fake)


def test_what_msb_gets_after_the_decision_stays(fake: FakeMsb, cache: ImageCache) -> None:
    at("msb.decided", lambda: fake.load(image([layer([file("late", b"late")])], "late:1")))
    cache.prune()  # without a question, so it would be msb's own prune
    assert [words[1] for words in fake.calls] == ["remove"]
    assert fake.references() == {"app:1", "late:1"}
    check(cache, fake)


def test_a_hold_of_ours_keeps_an_image(fake: FakeMsb, cache: ImageCache) -> None:
    cache.hold("alone:1", "sandbox:elsewhere")
    report = cache.prune()
    assert report.image_refs_removed == 2
    assert {"app:1", "alone:1"} == fake.references()
    cache.release("sandbox:elsewhere")
    assert cache.prune().image_refs_removed == 1
    check(cache, fake)


# -- images that were here before msb ---------------------------------------------------------------------


OWN = image([APP.layers[0], layer([file("own", b"own")])], "own:1")


@pytest.fixture
def mixed(own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMsb:
    """Return msb with a home of ours, where it has app:1 and alone:1; own:1 shares a layer with app:1."""
    with ImageCache(own_home) as ours:
        path = tmp_path / "own.tar"
        path.write_bytes(oci_archive(OWN))
        ours.load(path)
    fake = FakeMsb(tmp_path / "msb", own_home)
    monkeypatch.setenv("MSB_PATH", str(fake.program))
    fake.load(APP)
    fake.load(ALONE)
    return fake


def own_files(home: Path) -> set[str]:
    """Return the artifacts of own:1 that nothing else has."""
    layout = Layout(home)
    paths = [layout.metadata("docker.io/library/own:1"), layout.layer(OWN.layers[1].diff_id)]
    paths += [layout.fsmeta(OWN.digest), layout.vmdk(OWN.digest)]
    return {str(path.relative_to(layout.cache)) for path in paths}


def agree(cache: ImageCache, fake: FakeMsb) -> None:
    """As ``check``, where the fake msb has merged no layers of ours."""
    assert cache.sync(force=True) == SyncReport()
    assert {each.reference for each in cache.list()} == fake.references()
    assert cache.rebuild() == []
    broken = [problem for problem in cache.verify().disk if problem.problem != "extra"]
    assert {(each.problem, each.kind) for each in broken} <= {("other", "fsmeta")}


def test_an_image_that_msb_does_not_know_is_removed_by_us(mixed: FakeMsb) -> None:
    with ImageCache(mixed.home) as cache:
        with pytest.raises(HomeOwnedByMicrosandboxError, match=r"layers of images .*`msb-cache hand-over`"):
            cache.remove("app:1")
        before = files_of(mixed.home)
        report = cache.remove("own:1")
        assert mixed.calls == []
        assert before.keys() - files_of(mixed.home).keys() == own_files(mixed.home)
        counted = (report.image_refs_removed, report.manifests_removed, report.layers_removed)
        assert counted == (1, 1, 1)
        assert report.bytes_reclaimed == sum(before[name] for name in own_files(mixed.home))
        found = operation_of(cache, report.operation)
        assert {name for name, _ in found} == {
            *("deletion.started", "image.removed", "manifest.deleted", "metadata.deleted", "vmdk.deleted"),
            *("fsmeta.deleted", "layer.deleted", "deletion.finished"),
        }
        assert cache.prune_report(report.operation or "").counters.outcome == "completed"
        assert mixed.references() == {"app:1", "alone:1"}
        assert cache.remove("app:1").image_refs_removed == 1  # nothing that msb does not know is in the way
        check(cache, mixed)


@pytest.mark.parametrize("confirm", [None, yes])
def test_a_prune_takes_both(mixed: FakeMsb, confirm: Confirm | None) -> None:
    with ImageCache(mixed.home) as cache:
        report = cache.prune(confirm=confirm)
        counted = (report.image_refs_removed, report.manifests_removed, report.layers_removed)
        assert counted == (3, 3, 4)
        assert files_of(mixed.home) == {}
        assert [words[1] for words in mixed.calls] == ["remove" if confirm else "prune"]  # one run, as ever
        assert cache.list() == []
        check(cache, mixed)


def test_one_that_is_held_by_us_keeps_what_shares_its_layers(mixed: FakeMsb) -> None:
    with ImageCache(mixed.home) as cache:
        cache.hold("own:1", "sandbox:mine")
        report = cache.prune()
        assert [words[1] for words in mixed.calls] == ["remove"]  # msb's own prune would take app:1
        assert {each.reference for each in cache.list()} == {"own:1", "app:1"}
        assert {each.subject: each.rule for each in cache.prune_report(report.operation or "").kept} == {
            "docker.io/library/own:1": "held",
            APP_1: "shared",
        }
        # The fake msb merges no layers of ours.
        assert {(each.problem, each.kind) for each in cache.verify().disk} <= {("other", "fsmeta")}


def test_what_msb_comes_to_need_is_kept(mixed: FakeMsb) -> None:
    at("msb.decided", lambda: mixed.load(OWN))
    with ImageCache(mixed.home) as cache:
        before = files_of(mixed.home)
        report = cache.remove("own:1")
        assert report.image_refs_removed == 1
        assert files_of(mixed.home).keys() == before.keys()
        assert {*outcomes(cache, report.operation).values()} == {"deleted", "kept needed"}
        assert mixed.references() == {"app:1", "alone:1", "own:1"}
        assert {each.reference for each in cache.list()} == {"app:1", "alone:1", "own:1"}
        agree(cache, mixed)


def test_what_a_sandbox_has_leased_is_left_for_the_next_deletion(mixed: FakeMsb) -> None:
    path = Layout(mixed.home).layer(OWN.layers[1].diff_id)
    lease(path).parent.mkdir(exist_ok=True)
    with ImageCache(mixed.home) as cache, Lease(lease(path)) as held:
        assert held.acquire()
        report = cache.remove("own:1")
        assert outcomes(cache, report.operation)["layer", OWN.layers[1].diff_id] == "kept busy"
        held.release()
        assert path.exists()
        cache.prune()
        assert not path.exists()


@pytest.mark.parametrize("step", ["msb.decided", "msb.collected", "msb.concluding"])
def test_killed_while_it_deletes_what_msb_does_not_know(mixed: FakeMsb, step: str) -> None:
    def run() -> None:
        with ImageCache(mixed.home) as cache:
            cache.remove("own:1")

    before = files_of(mixed.home)
    os.waitpid(forked(run, Kill(step, 0)), 0)
    with ImageCache(mixed.home) as cache:
        cache.release("sandbox:none")  # which recovers
        assert before.keys() - files_of(mixed.home).keys() == own_files(mixed.home)
        (summary,) = cache.prunes()
        assert (summary.counters.outcome, summary.counters.recovered) == ("completed", 1)
        assert summary.counters.bytes_reclaimed == sum(before[name] for name in own_files(mixed.home))
        agree(cache, mixed)


def test_nothing_of_it_goes_while_something_cannot_be_judged(mixed: FakeMsb) -> None:
    mixed.rows("UPDATE manifest SET digest = 'odd' WHERE digest = (SELECT max(digest) FROM manifest)")
    with ImageCache(mixed.home) as cache:
        with pytest.raises(HomeOwnedByMicrosandboxError, match="cannot be read as a whole"):
            cache.remove("own:1")
        assert ("docker.io/library/own:1", "unknown") in {
            (each.subject, each.rule) for each in cache.preview_prune().plan.kept
        }


# -- who did it -------------------------------------------------------------------------------------------


def test_another_command_sees_it_first(fake: FakeMsb, cache: ImageCache) -> None:
    def look() -> None:
        with ImageCache(fake.home) as other:
            assert "alone:1" not in {handle.reference for handle in other.list()}

    at("msb.ran", look)
    report = cache.prune()
    removed = cache.events(types=["image.removed"])
    assert {event.operation for event in removed} == {report.operation}
    assert {event.actor.observed for event in removed} == {True}
    assert {event.data.cause for event in removed} == {"prune"}  # type: ignore[attr-defined]
    assert report.image_refs_removed == 3
    assert cache.prunes()[0].counters.outcome == "completed"
    check(cache, fake)


def test_what_others_do_meanwhile_is_theirs(fake: FakeMsb, cache: ImageCache) -> None:
    late = archive(fake, "next")
    fake.meanwhile("image remove", ["image", "rm", "two:latest"], ["load", "-q", "-i", str(late)], at="end")
    report = cache.remove("alone:1")
    (mine,) = cache.events(types=["image.removed"], operation=report.operation)
    assert mine.subject == ALONE_1
    others = [
        event for event in cache.events(types=["image.removed", "image.pulled"]) if event.actor.observed
    ]
    last = others[-2:]
    assert [(event.type, event.subject) for event in last] == [
        ("image.removed", "docker.io/library/two:latest"),
        ("image.pulled", APP_1),
    ]
    assert report.operation not in {event.operation for event in last}
    assert last[0].data.cause == "external"  # type: ignore[attr-defined]
    check(cache, fake)


def test_what_comes_back_and_goes_again_is_not_ours(fake: FakeMsb, cache: ImageCache) -> None:
    def others() -> None:
        with ImageCache(fake.home) as other:
            other.sync()
            fake.load(ALONE)
            other.sync()
            fake("image", "rm", "alone:1")
            other.sync()

    at("msb.ran", others)
    assert cache.remove("alone:1").image_refs_removed == 1
    causes = [event.data.cause for event in cache.events(types=["image.removed"])]  # type: ignore[attr-defined]
    assert causes == ["remove", "external"]
    check(cache, fake)


def test_it_comes_back_before_it_is_said_that_it_went(fake: FakeMsb, cache: ImageCache) -> None:
    at("msb.ran", lambda: fake.load(ALONE))
    report = cache.remove("alone:1")
    assert report.image_refs_removed == 1  # its record went, and this is another one
    assert "alone:1" in {handle.reference for handle in cache.list()}
    assert Layout(fake.home).layer(ALONE.layers[0].diff_id).exists()
    check(cache, fake)


# -- cut short --------------------------------------------------------------------------------------------


def steps_of(fake: FakeMsb, action: Callable[[ImageCache], object]) -> list[str]:
    reached: list[str] = []
    with ImageCache(fake.home) as cache:
        cache.sync()
        steps.observer = reached.append
        action(cache)
        steps.observer = None
    return reached[reached.index("msb.planned") :]  # what a sync before does depends on the clock


COMMANDS: dict[str, Callable[[ImageCache], object]] = {
    "remove": lambda cache: cache.remove("alone:1"),
    "prune": lambda cache: cache.prune(),
    "prune by name": lambda cache: cache.prune(confirm=yes, orphans=True),
}


@pytest.mark.parametrize("name", list(COMMANDS))
def test_killed_at_every_step_and_concluded(fake: FakeMsb, tmp_path: Path, name: str) -> None:
    action = COMMANDS[name]
    pristine = tmp_path / "pristine"
    shutil.copytree(fake.home, pristine)
    reached = steps_of(fake, action)
    assert {"msb.planned", "msb.decided", "msb.ran", "msb.concluding", "msb.finished"} <= {*reached}

    def run() -> None:
        with ImageCache(fake.home) as cache:
            action(cache)

    for number, step in enumerate(reached):
        if name != "remove" and not step.startswith("msb."):
            continue  # what is recorded between two of them is the same for each command
        shutil.rmtree(fake.home)
        shutil.copytree(pristine, fake.home)
        with ImageCache(fake.home) as cache:
            cache.sync()
        assert os.waitpid(forked(run, Kill(reached[0], number)), 0)[1] == signal.SIGKILL, step
        there, files = "alone:1" in fake.references(), files_of(fake.home)
        with ImageCache(fake.home) as cache:
            cache.use("app:1")  # any command that writes
            assert files_of(fake.home) == files, step  # what there is is found out, and nothing is deleted
            for summary in cache.prunes():
                assert summary.counters.outcome == ("partial" if there else "completed"), step
            assert ("alone:1" in {handle.reference for handle in cache.list()}) == there, step
            cache.prune()
            assert fake.references() == {"app:1"}, step
            check(cache, fake)


def test_msb_goes_on_without_the_process_that_asked_it(fake: FakeMsb, cache: ImageCache) -> None:
    fake.hangs("image remove")

    def run() -> None:
        with ImageCache(fake.home) as cache:
            cache.remove("alone:1")

    child = forked(run)
    fake.wait_until_it_hangs()
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    cache.use("two")  # it would be concluded, if msb did not have the lock of the operation
    (summary,) = cache.prunes()
    assert summary.counters.outcome is None
    fake.release()
    with Lock(Layout(fake.home).operation_lock(summary.operation)) as lock:
        assert lock.acquire(wait=30)
    cache.use("two")
    (summary,) = cache.prunes()
    assert summary.counters.outcome == "completed"
    (removed,) = cache.events(types=["image.removed"])
    assert removed.operation == summary.operation
    assert cache.events(types=["deletion.finished"])[0].data.recovered  # type: ignore[attr-defined]
    check(cache, fake)


def test_what_a_running_deletion_has_asked_for_is_its_own(fake: FakeMsb, cache: ImageCache) -> None:
    fake.hangs("image remove", "rows")

    def run() -> None:
        with ImageCache(fake.home) as other:
            other.remove("alone:1")

    child = forked(run)
    fake.wait_until_it_hangs()
    cache.sync()  # the rows are gone, and the files are not yet
    (removed,) = cache.events(types=["image.removed"])
    (summary,) = cache.prunes()
    assert (removed.operation, removed.actor.observed) == (summary.operation, True)
    assert summary.counters.finished_at is None
    assert cache.info().unfinished == (summary.operation,)
    fake.release()
    assert os.waitpid(child, 0)[1] == 0
    assert cache.prunes()[0].counters.outcome == "completed"
    assert set(outcomes(cache, summary.operation).values()) == {"deleted"}
    check(cache, fake)


@pytest.mark.parametrize("step", ["msb.decided", "msb.ran"])
def test_an_interrupted_deletion_is_concluded_at_once(fake: FakeMsb, cache: ImageCache, step: str) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    at(step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.remove("alone:1")
    steps.observer = None
    if step == "msb.decided":  # nothing was asked of msb: the next command says so
        cache.use("two")
    (summary,) = cache.prunes()
    assert summary.counters.outcome == ("partial" if step == "msb.decided" else "completed")
    check(cache, fake)


# -- files that no record names ---------------------------------------------------------------------------


def stray(fake: FakeMsb, name: str, seconds: float = 7200) -> Path:
    """Leave a file that looks like a layer's image, and is that old."""
    path = Layout(fake.home).layer(f"sha256:{sha256(name.encode()).hexdigest()}")
    path.write_bytes(b"x" * 4096)
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def test_orphans(fake: FakeMsb, cache: ImageCache) -> None:
    gone, fresh = stray(fake, "old"), stray(fake, "fresh", 60)
    leased, written = stray(fake, "leased"), stray(fake, "written")
    with Lock(lease(leased)) as first, Lock(lock_path(written)) as second:
        assert first.acquire()
        assert second.acquire()
        shown = cache.preview_prune(orphans=True)
        assert shown.orphaned() == {("layer", subject_of(gone))}
        report = cache.prune(orphans=True, confirm=yes)
        assert (report.orphans_removed, report.image_refs_removed) == (1, 3)
        assert [path.exists() for path in (gone, fresh, leased, written)] == [False, True, True, True]
    assert cache.prune(orphans=True).orphans_removed == 2
    assert fresh.exists()
    assert cache.prune(orphans=True).operation is None
    check(cache, fake)


def test_an_orphan_is_gone_durably_before_the_log_says_so(
    fake: FakeMsb, cache: ImageCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced, fsync = stray(fake, "old"), [], os.fsync
    told: list[tuple[bool, bool]] = []

    def sync(descriptor: int) -> None:
        fsync(descriptor)
        if not path.exists():
            synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "fsync", sync)
    steps.observer = lambda step: (
        told.append((path.exists(), str(path.parent) in synced)) if step == "log.committing" else None
    )
    try:
        assert cache.prune(orphans=True, confirm=yes).orphans_removed == 1
    finally:
        steps.observer = None
    assert {durable for exists, durable in told if not exists} == {True}


def test_an_orphan_that_comes_to_be_used_is_busy(fake: FakeMsb, cache: ImageCache) -> None:
    path = stray(fake, "old")
    with Lock(lease(path)) as lock:
        at("msb.decided", lambda: lock.acquire())
        report = cache.prune(orphans=True)
    assert (report.orphans_removed, path.exists()) == (0, True)
    assert outcomes(cache, report.operation)["layer", subject_of(path)] == "kept busy"
    check(cache, fake)


def test_an_orphan_that_comes_to_be_needed_is_kept(fake: FakeMsb, cache: ImageCache) -> None:
    fake.leaves_files("image remove")
    cache.remove("alone:1")
    age(fake.home)
    at("msb.decided", lambda: fake.load(ALONE))
    report = cache.prune(orphans=True, confirm=yes)
    assert report.orphans_removed == 0
    assert {
        found for (kind, _), found in outcomes(cache, report.operation).items() if found != "deleted"
    } == {"kept needed"}
    check(cache, fake)


def test_nothing_is_an_orphan_while_something_cannot_be_judged(fake: FakeMsb, cache: ImageCache) -> None:
    path = stray(fake, "old")
    fake.load(ALONE, "d" * 64)  # msb takes it for a name
    age(fake.home)
    assert cache.preview_prune(orphans=True).orphans == 0
    assert cache.prune(orphans=True).image_refs_removed == 3
    assert [words[1] for words in fake.calls] == ["remove"]  # msb's own prune would take that name, too
    assert path.exists()
    assert "d" * 64 in fake.references()
    assert "unclear" in {problem.problem for problem in cache.verify().disk}


# -- files that a deletion had to leave --------------------------------------------------------------------


def test_what_msb_left_goes_with_the_next_deletion(fake: FakeMsb, cache: ImageCache) -> None:
    path = Layout(fake.home).layer(ALONE.layers[0].diff_id)
    with Lock(lease(path)) as lock:
        assert lock.acquire()
        cache.remove("alone:1")
        assert left(cache) == [("layer", ALONE.layers[0].diff_id, "left")]
        assert cache.preview_prune().leftovers == ()
    assert [each.path for each in cache.preview_prune().leftovers] == [path]
    cache.remove("two")
    assert left(cache) == []
    assert not path.exists()
    check(cache, fake)


def test_metadata_that_msb_keeps_for_a_sandbox_stays(fake: FakeMsb, cache: ImageCache) -> None:
    path = Layout(fake.home).metadata("docker.io/library/app:1")
    cache.remove("app:1", force=True)
    assert left(cache) == []
    cache.prune()
    assert path.exists()
    fake("remove", "dev")
    assert [each.path for each in cache.info().leftovers] == [path]
    cache.prune()
    assert not path.exists()
    check(cache, fake)


def test_what_was_put_there_anew_is_left_to_msb(fake: FakeMsb, cache: ImageCache) -> None:
    """A file as old as a pull that has just begun may be what msb is about to name."""
    path = Layout(fake.home).vmdk(ALONE.digest)
    fake.leaves_files("image remove")
    cache.remove("alone:1")
    path.write_bytes(path.read_bytes())
    assert path not in {each.path for each in cache.preview_prune().leftovers}
    cache.prune()
    assert path.exists()
    assert {event.data.reason for event in cache.events(types=["artifact.kept"])} == {"left"}  # type: ignore[union-attr]
    check(cache, fake)


def test_an_orphan_that_could_not_be_deleted_goes_with_the_next_deletion(
    fake: FakeMsb, cache: ImageCache
) -> None:
    path = stray(fake, "old")
    with refusing(errno.EIO, path):
        report = cache.prune(orphans=True)
        assert (report.orphans_removed, report.artifacts_failed) == (0, 1)
    (failed,) = cache.events(types=["artifact.delete_failed"])
    assert failed.data == ev.ArtifactDeleteFailed(kind="layer", errno=5, reason="Input/output error")
    assert left(cache) == [("layer", subject_of(path), "Input/output error")]
    assert cache.prune().orphans_removed == 1
    assert left(cache) == []
    check(cache, fake)


# -- what the tests share ---------------------------------------------------------------------------------


def subject_of(path: Path) -> str:
    return path.stem.replace("_", ":")


def archive(fake: FakeMsb, name: str) -> Path:
    path = fake.folder / f"{name}.tar"
    path.write_bytes(docker_archive(IMAGES[name]))
    return path


def test_ctrl_c_says_what_msb_had_done(fake: FakeMsb) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    notes: list[str] = []
    with ImageCache(fake.home, note=notes.append) as cache:
        at("msb.ran", stop)
        with pytest.raises(KeyboardInterrupt):
            cache.prune()
        (summary,) = cache.prunes()
        done = summary.counters
        assert notes == [
            f"msb had deleted {plural(done.image_refs_removed, 'reference')} and "
            f"{plural(done.manifests_removed, 'manifest')} when it was stopped; run the command again for "
            f"the rest, `msb-cache prunes show {summary.operation[:13]}` has it in full"
        ]
        assert done.image_refs_removed
        assert done.outcome is not None
        check(cache, fake)


def test_it_is_stopped_between_two_runs_of_msb(fake: FakeMsb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("msb_cache.engines.msb.delete._CHUNK", 1)
    runs: list[str] = []
    at("msb.ran", lambda: runs.append("one"))
    with ImageCache(fake.home) as cache:
        many = len(cache.list())
        with ended_by(lambda: bool(runs)), pytest.raises(DeletionCut) as cut:
            cache.prune(PrunePolicy(grace="0s", unused_for="0s"))
        steps.observer = None
        assert runs == ["one"]
        report = cache.prune_report(cut.value.operation)
        assert report.counters.image_refs_removed == 1
        assert report.counters.outcome == "partial"
        assert len(cache.list()) == many - 1
        check(cache, fake)
