"""Prunes by a policy, from what is asked to what lies on the disk: what goes and stays, what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from msb_cache import (
    Actor,
    BoundNotKeptError,
    ImageCache,
    ImageVerdict,
    InvalidConfigError,
    InvalidReferenceError,
    Preview,
    PrunePolicy,
)
from msb_cache.artifacts.layout import Layout
from msb_cache.engines.decision import Progress
from tests.examples import DAY, SHARED, Clock, archive, types
from tests.imagebuilder import BuiltImage, file, image, layer

KIB = 1024


def built(reference: str, label: str = "green") -> BuiltImage:
    """An image with 64 KiB of its own, on a layer that all of them have."""
    own = layer([file("own", reference.encode() * (64 * KIB // len(reference)))])
    return image([SHARED, own], reference, config={"Labels": {"team": label}})


IMAGES = {name: built(name) for name in ("repo:1", "repo:2", "repo:3")}
OTHER = built("ghcr.io/acme/other:1", "blue")
NAMES = ["ghcr.io/acme/other:1", "repo:1", "repo:2", "repo:3"]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(tmp_path: Path, clock: Clock) -> Iterator[ImageCache]:
    """A cache in which those of ``repo`` are idle for 30, 20 and 10 days, and the other one for 5."""
    actor = Actor(user="alice", uid=1, host="h", program="test")
    with ImageCache(tmp_path / "home", actor=actor, clock=clock) as cache:
        cache.load(archive(IMAGES["repo:1"]))
        cache.load(archive(OTHER))
        for name in ("repo:2", "repo:3"):
            clock.days(10)
            cache.load(archive(IMAGES[name]))
        clock.days(5)
        cache.use("ghcr.io/acme/other:1")
        clock.days(5)
        yield cache


def left(cache: ImageCache) -> list[str]:
    return sorted(handle.reference for handle in cache.list())


def going(shown: Preview) -> list[str]:
    return sorted(name for each in shown.images() if each.goes and (name := as_shown(each)))


def as_shown(each: ImageVerdict) -> str:
    return (each.reference or each.manifest_digest).removeprefix("docker.io/library/")


def on_disk(cache: ImageCache) -> int:
    """What the files of the cache take of the disk."""
    folders = os.walk(cache.home / "cache")
    return sum(os.stat(os.path.join(at, name)).st_blocks * 512 for at, _, names in folders for name in names)


POLICIES: list[tuple[dict[str, Any], str]] = [
    ({}, "other 1 2 3"),
    ({"unused_for": "14d"}, "1 2"),
    ({"unused_for": timedelta(days=14)}, "1 2"),
    ({"unused_for": "30d"}, "1"),
    ({"unused_for": "31d"}, ""),
    ({"older_than": "25d"}, "other 1"),
    ({"older_than": "25d", "unused_for": "14d"}, "1"),
    ({"keep_last": 1}, "1 2"),
    ({"keep_last": 2}, "1"),
    ({"keep_last": 1, "unused_for": "25d"}, "1"),
    ({"grace": "7d"}, "1 2 3"),
    ({"grace": "0s"}, "other 1 2 3"),
    ({"filter": ("reference=repo",)}, "1 2 3"),
    ({"filter": ("reference=repo:latest",)}, ""),
    ({"filter": ("reference=docker.io/repo:2", "reference=repo:3")}, "2 3"),
    ({"filter": ("reference=repo*", "label=team=blue")}, ""),
    ({"filter": ("label=team=blue",)}, "other"),
    ({"filter": ("label!=team=blue",)}, "1 2 3"),
    ({"filter": ("label=owner",)}, ""),
    ({"filter": ("dangling",)}, ""),
    ({"filter": ("dangling=false",)}, "other 1 2 3"),
    ({"filter": (f"digest={OTHER.digest[7:15]}",)}, "other"),
    ({"exclude": ("repo",)}, "other"),
    ({"exclude": ("library/repo:1", "ghcr.io/*")}, "2 3"),
    ({"exclude": (OTHER.digest,)}, "1 2 3"),
    ({"max_size": "1TiB"}, ""),
    ({"max_size": 1, "best_effort": True, "exclude": ("repo:3",)}, "other 1 2"),
    ({"min_free": "100%", "best_effort": True}, "other 1 2 3"),
    ({"min_free": 1}, ""),
    ({"max_delete": 4}, "other 1 2 3"),
    ({"unused_for": "14d", "max_delete": "50%"}, "1 2"),
]


@pytest.mark.parametrize(("rules", "names"), POLICIES, ids=str)
def test_what_a_policy_takes(cache: ImageCache, rules: dict[str, Any], names: str) -> None:
    expected = sorted("ghcr.io/acme/other:1" if name == "other" else f"repo:{name}" for name in names.split())
    policy, length, before = PrunePolicy(**rules), len(types(cache)), on_disk(cache)
    asked = cache.plan_prune(policy)
    shown = asked.preview()
    asked.check(shown)
    assert going(shown) == expected
    assert shown.freed_bytes == sum(each.freed_bytes for each in shown.images())
    dry = cache.prune(policy, dry_run=True)
    assert (len(types(cache)), on_disk(cache)) == (length, before)

    report = cache.prune(policy)
    assert replace(report, operation=None) == (dry if expected else replace(dry, bytes_reclaimed=None))
    assert left(cache) == [name for name in NAMES if name not in expected]
    assert before - on_disk(cache) == shown.freed_bytes
    assert cache.verify().disk == []
    assert cache.prune(policy).operation is None
    if report.operation is not None:
        told = cache.prune_report(report.operation)
        assert told.policy == {"rule": "policy" if policy.has_rules else "unused", **policy.recorded()}
        assert {each.subject.rpartition("/")[2] for each in told.going} == (
            {each.rpartition("/")[2] for each in expected} if policy.has_rules else set()
        )


def test_every_image_is_considered_with_what_decided(cache: ImageCache) -> None:
    cache.hold("repo:1", "sandbox:dev")
    cache.pin("repo:2")
    shown = cache.preview_prune(PrunePolicy(unused_for="7d", keep_last=1, exclude=("ghcr.io/*",)))
    found = {as_shown(each): (each.goes, each.rule, each.by) for each in shown.images()}
    assert found == {
        "repo:1": (False, "held", ("sandbox:dev",)),
        "repo:2": (False, "pinned", ("alice",)),
        "repo:3": (False, "keep-last", ()),
        "ghcr.io/acme/other:1": (False, "excluded", ()),
    }
    (third,) = (each for each in shown.images() if as_shown(each) == "repo:3")
    assert (third.idle_ns, third.age_ns, third.rank) == (10 * DAY, 10 * DAY, 1)


def test_room_is_made_by_the_longest_idle(cache: ImageCache) -> None:
    """And the files that several images share come free with the last of them."""
    total = cache.preview_prune().files.total_bytes
    one = cache.preview_prune(PrunePolicy(filter=("reference=repo:1",))).freed_bytes
    for bound, expected in ((total, []), (total - 1, ["repo:1"]), (total - one, ["repo:1"])):
        assert going(cache.preview_prune(PrunePolicy(max_size=bound))) == expected
    policy = PrunePolicy(max_size=total - one - 1)
    assert going(cache.preview_prune(policy)) == ["repo:1", "repo:2"]
    cache.prune(policy)
    assert left(cache) == ["ghcr.io/acme/other:1", "repo:3"]
    assert cache.prune(policy).operation is None


def test_what_lacks_is_said_and_nothing_goes(cache: ImageCache) -> None:
    cache.hold("repo:3", "sandbox:dev")
    length, policy = len(types(cache)), PrunePolicy(max_size=1)
    shown = cache.preview_prune(policy)
    assert going(shown) == []
    assert {each.rule for each in shown.images()} == {"held", "too-little"}
    asked = []
    with pytest.raises(
        BoundNotKeptError, match=r"frees [\d.]+ KiB too little, so nothing was deleted; `--best"
    ):
        cache.prune(policy, confirm=lambda shown: bool(asked.append(shown)) or True)
    assert (asked, len(types(cache)), left(cache)) == ([], length, NAMES)
    assert cache.prune(replace(policy, best_effort=True)).image_refs_removed == 3
    assert left(cache) == ["repo:3"]
    with pytest.raises(BoundNotKeptError):
        cache.prune(policy)  # also where nothing is left that may go
    assert cache.prune(replace(policy, best_effort=True)).operation is None


@pytest.mark.parametrize(
    ("most", "said"),
    [
        (1, r"2 of 4 images would go, and at most 1 may: repo:1, repo:2; nothing was deleted"),
        (0, r"2 of 4 images would go, and at most 0 may"),
        ("49.9%", r"2 of 4 images would go, and at most 49\.9 % may"),
    ],
)
def test_the_brake(cache: ImageCache, most: int | str, said: str) -> None:
    policy, length = PrunePolicy(unused_for="14d", max_delete=most), len(types(cache))
    with pytest.raises(BoundNotKeptError, match=said):
        cache.prune(policy)
    assert (len(types(cache)), left(cache)) == (length, NAMES)
    assert cache.prune(policy, dry_run=True).image_refs_removed == 2
    assert cache.prune(replace(policy, max_delete="50%")).image_refs_removed == 2


def test_the_brake_names_no_more_than_ten(cache: ImageCache) -> None:
    cache.load(archive(IMAGES["repo:1"]), tag=[f"repo:t{number:02}" for number in range(12)])
    with pytest.raises(BoundNotKeptError, match=r"16 of 16 images .*: (\S+, ){9}\S+ and 6 more; nothing"):
        cache.prune(PrunePolicy(max_delete=3))


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"unused_for": "14"}, "'14' is no duration"),
        ({"unused_for": timedelta(days=-1)}, "is negative"),
        ({"grace": ""}, "'' is no duration"),
        ({"max_size": "20 parsecs"}, "'20 parsecs' is no size"),
        ({"min_free": "101%"}, "'101%' is more than 100%"),
        ({"keep_last": 0}, "'0' keeps none; give a number from 1 on"),
        ({"keep_last_by": "size"}, "'size' is no way to count"),
        ({"keep_last_by": "pulled"}, "keep-last-by says what keep-last calls recent"),
        ({"max_delete": "-1"}, "'-1' is no number of images and no share"),
        ({"best_effort": True}, "best-effort is about a bound"),
        ({"filter": ("name=a",)}, "'name=a' is no filter"),
        ({"filter": ("label=",)}, "names nothing"),
        ({"filter": ("dangling=perhaps",)}, "dangling is true or false"),
    ],
)
def test_what_makes_no_sense_is_refused(cache: ImageCache, rules: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidConfigError, match=said):
        cache.plan_prune(PrunePolicy(**rules))


@pytest.mark.parametrize(
    "rules", [{"exclude": ("$$",)}, {"filter": ("reference=A:1",)}, {"filter": ("digest=x",)}]
)
def test_what_is_no_name_is_refused(cache: ImageCache, rules: dict[str, Any]) -> None:
    with pytest.raises(InvalidReferenceError):
        cache.prune(PrunePolicy(**rules))


MEANWHILE: dict[str, Callable[[ImageCache], object]] = {
    "used": lambda other: other.use("repo:1"),
    "pinned": lambda other: other.pin("repo:1"),
    "pinned by its digest": lambda other: other.pin(IMAGES["repo:1"].digest),
    "held": lambda other: other.hold("repo:1", "sandbox:late"),
    "pulled again": lambda other: other.load(archive(IMAGES["repo:1"])),
    "moved": lambda other: other.load(archive(image(OTHER.layers, "repo:1"))),
}


@pytest.mark.parametrize("what", MEANWHILE)
def test_what_comes_to_be_needed_while_somebody_is_asked_stays(
    cache: ImageCache, clock: Clock, what: str
) -> None:
    def confirm(shown: Preview) -> bool:
        assert going(shown) == ["repo:1", "repo:2"]
        clock.days(0.5)
        with ImageCache(cache.home, clock=clock) as other:
            MEANWHILE[what](other)
            other.load(archive(built("late:1")))
        clock.days(20)  # by now all that stayed would go
        return True

    report = cache.prune(PrunePolicy(unused_for="14d"), confirm=confirm)
    assert (report.image_refs_removed, report.skipped_in_use) == (1, 1)
    assert left(cache) == sorted([*{*NAMES} - {"repo:2"}, "late:1"])
    assert cache.verify().disk == []
    told = cache.prune_report(report.operation or "")
    assert [each.subject for each in told.going] == ["docker.io/library/repo:2"]


def test_nothing_is_left_of_what_was_shown(cache: ImageCache) -> None:
    def confirm(shown: Preview) -> bool:
        with ImageCache(cache.home) as other:
            other.hold("repo:1", "sandbox:late")
        return True

    assert cache.prune(PrunePolicy(filter=("reference=repo:1",)), confirm=confirm).operation is None
    assert left(cache) == NAMES
    assert "deletion.started" not in types(cache)


def test_declined(cache: ImageCache) -> None:
    length = len(types(cache))
    assert cache.prune(PrunePolicy(unused_for="1d"), confirm=lambda shown: False).operation is None
    assert (len(types(cache)), left(cache)) == (length, NAMES)


def test_a_manifest_without_a_reference_is_judged_by_when_it_lost_it(cache: ImageCache, clock: Clock) -> None:
    cache.hold("repo:1", "sandbox:dev")
    cache.remove("repo:1", force=True)
    clock.days(1)
    cache.release("sandbox:dev")
    clock.days(2)
    digest = IMAGES["repo:1"].digest
    assert going(cache.preview_prune(PrunePolicy(filter=("dangling",), unused_for="3d"))) == []
    shown = cache.preview_prune(PrunePolicy(filter=("dangling",), unused_for="2d"))
    assert going(shown) == [digest]
    (verdict,) = (each for each in shown.images() if each.goes)
    assert (verdict.reference, verdict.idle_ns) == (None, 2 * DAY)
    report = cache.prune(PrunePolicy(filter=("dangling",), unused_for="2d"))
    assert (report.image_refs_removed, report.manifests_removed) == (0, 1)
    assert left(cache) == ["ghcr.io/acme/other:1", "repo:2", "repo:3"]


def test_keep_last_counts_manifests_and_keeps_all_their_tags(cache: ImageCache) -> None:
    cache.load(archive(IMAGES["repo:3"]), tag="repo:stable")
    policy = PrunePolicy(keep_last=1, keep_last_by="pulled", grace="0s")
    assert going(cache.preview_prune(policy)) == ["repo:1", "repo:2"]
    cache.use("repo:1")
    assert going(cache.preview_prune(policy)) == ["repo:1", "repo:2"]
    cache.remove(["repo:3", "repo:stable"])
    assert going(cache.preview_prune(replace(policy, keep_last_by="used"))) == ["repo:2"]
    assert going(cache.preview_prune(policy)) == ["repo:1"]


def test_orphans_only(cache: ImageCache) -> None:
    stray = Layout(cache.home).layer(f"sha256:{'0' * 64}")
    stray.write_bytes(bytes(5000))
    assert cache.preview_prune().orphans == 0
    for rules in ({"unused_for": "1d"}, {"max_delete": 1}, {"exclude": ("repo",)}):
        with pytest.raises(InvalidConfigError, match="orphans-only takes no image"):
            cache.plan_prune(PrunePolicy(**rules), orphans_only=True)
    dry = cache.prune(dry_run=True, orphans_only=True)
    shown = cache.preview_prune(orphans_only=True)
    assert (shown.orphans, shown.images(), shown.freed_bytes) == (1, [], on_disk_of(stray))
    report = cache.prune(orphans_only=True)
    assert (report.image_refs_removed, report.orphans_removed, report.bytes_reclaimed) == (0, 1, 5000)
    assert dry == replace(report, operation=None)
    assert left(cache) == NAMES
    assert not stray.exists()
    assert cache.prune_report(report.operation or "").policy == {"rule": "orphans"}
    assert cache.prune(orphans_only=True).operation is None


def on_disk_of(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_it_is_told_how_far_it_is(cache: ImageCache) -> None:
    steps: list[Progress] = []
    report = cache.prune(PrunePolicy(unused_for="14d"), report=steps.append)
    told = cache.prune_report(report.operation or "")
    files = [each for each in told.artifacts if each.kind != "manifest"]
    assert [step.done for step in steps] == [*range(len(files) + 1)]
    assert {step.total for step in steps} == {len(files)}


def test_a_home_without_anything(tmp_path: Path) -> None:
    with ImageCache(tmp_path / "none") as cache:
        shown = cache.preview_prune(PrunePolicy(unused_for="1d", min_free="1%", max_size="1GiB"))
        assert (shown.images(), shown.freed_bytes, shown.plan.shortfall) == ([], 0, 0)
        assert cache.prune(PrunePolicy(max_size=0)).operation is None
    assert not (tmp_path / "none").exists()
