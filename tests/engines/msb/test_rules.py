"""Prunes by rules, and pins, in a home that the fake msb keeps: msb never takes more than was decided."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from msb_cache import ImageCache, ImageInUseError, MicrosandboxError
from msb_cache import failpoints as steps
from msb_cache.artifacts.layout import Layout
from msb_cache.artifacts.measured import MeasuredFiles
from msb_cache.retention.policy import PrunePolicy
from tests.engines.msb.support import Kill, at, check, files_of, forked, outcomes
from tests.fakemsb import FakeMsb
from tests.peers.realmsb import IMAGES

ALONE, TWO, APP = IMAGES["alone"], IMAGES["two"], IMAGES["app"]
ALL = {"alone:1", "two:latest", "example.org/team/two:2"}
EVERYTHING = PrunePolicy(grace="0s")
"""Rules that take all that nothing uses: what msb's own prune would take."""


def removed(fake: FakeMsb) -> list[set[str]]:
    """Return which images msb was asked to remove, by the command; it was asked for nothing else."""
    calls = fake.calls
    assert all(words[:2] == ["image", "remove"] for words in calls)
    return [set(words[words.index("--") + 1 :]) for words in calls]


def counted(cache: ImageCache) -> dict[tuple[str, str], int]:
    """Return how many images went, by cause and rule, now that no deletion waits for any."""
    with cache._session.ledger.read() as connection:
        assert connection is not None
        assert connection.execute("SELECT * FROM going").fetchall() == []
    return {(each.cause, each.rule): each.images for each in cache.metrics().deleted if each.images}


def test_what_goes_is_counted_by_the_rule_and_what_stays_is_not(fake: FakeMsb, cache: ImageCache) -> None:
    def taken() -> None:
        fake("image", "remove", "alone:1")

    def held() -> None:
        fake("create", "two:latest", "--name", "late")

    at("msb.decided", lambda: (taken(), held()))
    cache.prune(EVERYTHING)
    cache.remove("app:1", force=True)
    left = fake.references()
    gone = {"app:1", *ALL} - left
    assert "two:latest" in left
    assert "alone:1" in gone
    assert sum(counted(cache).values()) == len(gone)
    assert counted(cache)["remove", "remove"] == 1
    check(cache, fake)


def test_rules_never_run_msbs_own_prune(fake: FakeMsb, cache: ImageCache) -> None:
    report = cache.prune(EVERYTHING)
    assert removed(fake) == [ALL]
    assert (report.image_refs_removed, report.manifests_removed, report.skipped_in_use) == (3, 2, 0)
    assert cache.prune_report(str(report.operation)).policy == {"rule": "policy", "grace": "0s"}
    assert cache.prune(EVERYTHING).operation is None
    check(cache, fake)


def test_what_came_a_moment_ago_stays(fake: FakeMsb, cache: ImageCache) -> None:
    assert cache.prune(PrunePolicy(filter=("reference=*",))).operation is None
    assert fake.references() == {*ALL, "app:1"}
    assert fake.calls == []


@pytest.mark.parametrize("pinned", ["nothere:1", "alone:1", f"sha256:{'f' * 64}"])
def test_while_anything_is_pinned_msbs_own_prune_is_not_run(
    fake: FakeMsb, cache: ImageCache, pinned: str
) -> None:
    pin = cache.pin(pinned)
    assert not pin.enforced
    cache.prune()
    gone = ALL - {pinned}
    assert removed(fake) == [gone]
    assert fake.references() == {"app:1", *ALL} - gone
    assert cache.unpin(pinned) == pin
    cache.prune()
    assert fake.calls == ([["image", "prune", "--yes", "--quiet"]] if pinned == "alone:1" else [])
    check(cache, fake)


def test_at_most_five_at_a_time(fake: FakeMsb, cache: ImageCache) -> None:
    fake.load(ALONE, *(f"alone:{number}" for number in range(2, 14)))
    told: list[tuple[int, int]] = []
    report = cache.prune(EVERYTHING, report=lambda progress: told.append((progress.done, progress.total)))
    assert [len(names) for names in removed(fake)] == [5, 5, 5]
    assert report.image_refs_removed == 15
    assert told == [(5, 15), (10, 15), (15, 15)]
    check(cache, fake)


def moved(fake: FakeMsb) -> None:
    fake.load(IMAGES["next"], "alone:1")


def pulled_again(fake: FakeMsb) -> None:
    time.sleep(0.01)
    fake.load(ALONE, "alone:1")


def held(fake: FakeMsb) -> None:
    fake("create", "alone:1", "--name", "late")


@pytest.mark.parametrize("meanwhile", [moved, pulled_again, held], ids=lambda each: each.__name__)
@pytest.mark.parametrize("step", ["confirm", "msb.planned", "msb.decided"])
def test_what_is_needed_or_used_meanwhile_stays(
    fake: FakeMsb, cache: ImageCache, meanwhile: Callable[[FakeMsb], None], step: str
) -> None:
    at(step, lambda: meanwhile(fake))

    def confirm(shown: object) -> bool:
        steps.reached("confirm")
        return True

    report = cache.prune(EVERYTHING, confirm=confirm)
    assert removed(fake) == [ALL - {"alone:1"}]
    assert "alone:1" in fake.references()
    assert report.image_refs_removed == 2
    kept = {each.subject: each.rule for each in cache.prune_report(str(report.operation)).kept}
    if step == "confirm":
        rules = {"moved": "used-since", "pulled_again": "used-since", "held": "held"}
        assert kept.get("docker.io/library/alone:1") == rules[meanwhile.__name__]
    else:
        assert outcomes(cache, report.operation)["metadata", "docker.io/library/alone:1"].startswith("kept")
    check(cache, fake)


def test_what_is_used_between_two_commands_stays(fake: FakeMsb, cache: ImageCache) -> None:
    fake.load(ALONE, *(f"alone:{number}" for number in range(2, 9)))
    *_, last = cache.preview_prune(EVERYTHING).plan.references  # the longest idle ones go first

    def pull() -> None:
        time.sleep(0.01)
        fake.load(IMAGES["two" if "two" in last else "alone"], last)

    at("msb.asking", pull)  # before msb is asked for the first five
    cache.prune(EVERYTHING)
    assert last in fake.references()
    assert not any(last in names for names in removed(fake))
    check(cache, fake)


def test_a_manifest_without_a_reference_stays(fake: FakeMsb, cache: ImageCache) -> None:
    fake("image", "rm", "--force", "app:1")
    fake("rm", "dev")
    report = cache.prune(EVERYTHING)
    assert fake.rows("SELECT digest FROM manifest") == [(APP.digest,)]
    (kept,) = cache.prune_report(str(report.operation)).kept
    assert (kept.subject, kept.rule) == (APP.digest, "msb-only")
    cache.prune()
    assert fake.rows("SELECT digest FROM manifest") == []
    check(cache, fake)


def test_what_is_pinned_by_its_digest_is_not_forced_away(fake: FakeMsb, cache: ImageCache) -> None:
    cache.pin(ALONE.digest)
    with pytest.raises(ImageInUseError, match=r"^alone:1 is pinned by"):
        cache.remove("alone:1")
    with pytest.raises(ImageInUseError, match=r"^alone:1 is pinned by its digest, which msb does not know"):
        cache.remove("alone:1", force=True)
    assert fake.calls == []
    cache.unpin(ALONE.digest)
    cache.pin("alone:1")
    cache.remove("alone:1", force=True)
    assert "alone:1" not in fake.references()
    (pin,) = cache.pins()
    assert (pin.reference, pin.here) == ("alone:1", False)
    check(cache, fake)


def test_several_are_removed_as_one_operation(fake: FakeMsb, cache: ImageCache) -> None:
    errors: list[Exception] = []
    report = cache.remove(["*two*", "app:1", "none:1"], refused=errors.append)
    assert removed(fake) == [{"two:latest", "example.org/team/two:2"}]
    assert [type(error).__name__ for error in errors] == ["ImageNotFoundError", "ImageInUseError"]
    assert report.image_refs_removed == 2
    check(cache, fake)


def test_a_bound_takes_no_more_than_is_needed(fake: FakeMsb, cache: ImageCache) -> None:
    total = MeasuredFiles(Layout(fake.home)).total_bytes
    policy = PrunePolicy(grace="0s", max_size=total - 1)
    shown = cache.preview_prune(policy)
    assert len(shown.plan.references) == 1
    report = cache.prune(policy)
    assert report.image_refs_removed == 1
    assert MeasuredFiles(Layout(fake.home)).total_bytes <= total - 1
    check(cache, fake)


@pytest.mark.parametrize("number", range(12))
def test_killed_anywhere(fake: FakeMsb, cache: ImageCache, number: int) -> None:
    fake.load(ALONE, *(f"alone:{each}" for each in range(2, 9)))
    cache.pin("alone:3")
    cache.close()

    def prune() -> None:
        with ImageCache(fake.home) as child:
            child.prune(EVERYTHING)

    child = forked(prune, Kill("msb.planned", number))
    os.waitpid(child, 0)
    with ImageCache(fake.home) as again:
        again.prune(EVERYTHING)
        calls = fake.calls
        assert fake.references() == {"app:1", "alone:3"}
        assert ["image", "prune"] not in [words[:2] for words in calls]
        assert counted(again) == {("prune", "due"): 9}
        check(again, fake)


def test_files_of_what_stays_stay(fake: FakeMsb, cache: ImageCache) -> None:
    before = files_of(fake.home)
    cache.prune(PrunePolicy(grace="0s", filter=("reference=alone",)))
    gone = before.keys() - files_of(fake.home).keys()
    assert {name.split("/")[0] for name in gone} == {"manifests", "layers", "fsmeta", "vmdk"}
    assert len(gone) == 4
    check(cache, fake)


@pytest.mark.parametrize("reference", ["alone:1", "two:latest"])
def test_what_is_held_here_after_the_decision_stays(fake: FakeMsb, cache: ImageCache, reference: str) -> None:
    """msb knows nothing of such a hold, so its own prune is not run either."""

    def hold() -> None:
        with ImageCache(fake.home) as other:
            other.hold(reference, "sandbox:late")

    at("msb.decided", hold)
    report = cache.prune()
    assert reference in fake.references()
    assert not any(reference in names for names in removed(fake))
    assert report.skipped_in_use > 0
    cache.release("sandbox:late")
    cache.prune()
    assert fake.references() == {"app:1"}
    check(cache, fake)


def test_a_manifest_without_a_reference_goes_beside_what_msb_holds_too(
    fake: FakeMsb, cache: ImageCache
) -> None:
    fake.load(IMAGES["next"], "app:9")
    fake("create", "app:9", "--name", "other")
    fake("image", "rm", "--force", "app:1")
    fake("rm", "dev")
    cache.hold("app:9", "sandbox:ours")
    cache.remove(["alone:1", "*two*"])
    assert cache.preview_prune().plan.manifests == (APP.digest,)
    cache.prune()
    assert fake.references() == {"app:9"}
    assert fake.rows("SELECT digest FROM manifest") == [(IMAGES["next"].digest,)]
    cache.release("sandbox:ours")
    check(cache, fake)


def pinned_by_digest(cache: ImageCache) -> None:
    cache.pin(ALONE.digest)


def held_here(cache: ImageCache) -> None:
    cache.hold("alone:1", "snapshot:late")


@pytest.mark.parametrize("keep", [pinned_by_digest, held_here], ids=lambda each: each.__name__)
def test_what_msb_would_delete_with_its_reference_is_not_forced_away_meanwhile(
    fake: FakeMsb, cache: ImageCache, keep: Callable[[ImageCache], None]
) -> None:
    def other() -> None:
        with ImageCache(fake.home) as another:
            keep(another)

    at("msb.decided", other)
    with pytest.raises(MicrosandboxError):
        cache.remove("alone:1", force=True)
    assert "alone:1" in fake.references()
    assert fake.calls == []
    with pytest.raises(ImageInUseError, match="which msb does not know"):
        cache.remove("alone:1", force=True)
    cache.release("snapshot:late")
    check(cache, fake)
