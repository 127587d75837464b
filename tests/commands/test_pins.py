"""Pins: what they keep from whom, that they outlive the image, and when they end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from msb_cache import (
    Actor,
    ImageCache,
    ImageInUseError,
    ImageNotFoundError,
    InvalidConfigError,
    InvalidReferenceError,
    PrunePolicy,
)
from msb_cache.errors import MicrosandboxError
from tests.examples import DAY, ONE, START, TWO, Clock, archive, types
from tests.imagebuilder import image
from tests.trees import files_below

ONE_AS_TWO = image(TWO.layers, "one:1")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(tmp_path: Path, clock: Clock) -> Iterator[ImageCache]:
    actor = Actor(user="root", uid=0, host="h", program="test", login="alice", login_uid=1000)
    with ImageCache(tmp_path / "new" / "home", actor=actor, clock=clock) as cache:
        yield cache


def names(cache: ImageCache) -> list[str]:
    return sorted(handle.reference for handle in cache.list())


def pinned(cache: ImageCache) -> list[str | None]:
    return [pin.reference or pin.manifest_digest for pin in cache.pins()]


def test_a_pinned_image_stays(cache: ImageCache) -> None:
    cache.load(archive(ONE, TWO))
    pin = cache.pin("one:1", reason="the demo")
    assert (pin.reference, pin.manifest_digest, pin.here, pin.enforced) == ("one:1", ONE.digest, True, True)
    assert (pin.by, pin.reason, pin.since_ns, pin.until_ns, pin.until) == (
        "alice",
        "the demo",
        START,
        None,
        None,
    )
    assert pin.since == datetime.fromtimestamp(START / 10**9, UTC)
    assert cache.pins() == [pin]
    assert cache.prune().image_refs_removed == 1
    for policy in (PrunePolicy(grace="0s"), PrunePolicy(max_size=1, grace="0s", best_effort=True)):
        assert cache.prune(policy).operation is None
    assert names(cache) == ["one:1"]
    assert cache.verify().sound


def test_a_reference_is_kept_wherever_it_points(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    cache.pin("one:1")
    cache.load(archive(ONE_AS_TWO))
    report = cache.prune()
    assert (report.image_refs_removed, report.manifests_removed) == (0, 1)
    assert cache.get("one:1").manifest_digest == TWO.digest
    (pin,) = cache.pins()
    assert (pin.reference, pin.manifest_digest) == ("one:1", TWO.digest)


def test_a_digest_is_kept_whatever_points_there(cache: ImageCache) -> None:
    cache.load(archive(ONE, TWO), tag="alias:1")
    pin = cache.pin(ONE.digest[7:15])
    assert (pin.reference, pin.manifest_digest, pin.here) == (None, ONE.digest, True)
    cache.load(archive(ONE_AS_TWO))
    report = cache.prune()
    assert names(cache) == ["alias:1"]
    assert report.manifests_removed == 1
    cache.remove("alias:1", force=True)
    assert cache.prune().operation is None
    cache.unpin(ONE.digest)
    assert cache.prune().manifests_removed == 1


def test_only_force_removes_it_and_the_pin_stays(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    cache.pin("one:1")
    before = files_below(cache.home / "cache")
    with pytest.raises(ImageInUseError, match=r"^one:1 is pinned by alice$") as caught:
        cache.remove("one:1")
    assert (caught.value.pinned, caught.value.forcible) == ("one:1", True)
    assert files_below(cache.home / "cache") == before
    report = cache.remove("one:1", force=True)
    assert (report.image_refs_removed, report.manifests_removed) == (1, 1)
    (pin,) = cache.pins()
    assert (pin.reference, pin.here, pin.manifest_digest) == ("one:1", False, None)
    cache.load(archive(ONE))
    assert cache.prune().operation is None
    assert cache.unpin("one:1").here
    assert cache.prune().image_refs_removed == 1


def test_a_manifest_pinned_by_its_digest_stays_when_its_last_name_goes(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    cache.pin(ONE.digest)
    with pytest.raises(ImageInUseError) as caught:
        cache.remove("one:1")
    assert caught.value.pinned == ONE.digest[:19]
    report = cache.remove("one:1", force=True)
    assert (report.image_refs_removed, report.manifests_removed) == (1, 0)
    assert cache.prune().operation is None
    for force in (False, True):
        with pytest.raises(ImageInUseError, match="is pinned by alice") as caught:
            cache.remove(ONE.digest, force=force)
        assert not caught.value.forcible  # all that is left of it
    assert cache.verify().disk == []
    cache.unpin(ONE.digest[:12])
    assert cache.remove(ONE.digest).manifests_removed == 1


def test_before_the_image_is_there(cache: ImageCache) -> None:
    notes: list[str] = []
    with ImageCache(cache.home, note=notes.append) as first:
        assert not first.pin("one:1").here
    assert len(notes) == 1
    assert "is new and kept by msb-cache itself" in notes[0]
    pin = cache.pin(TWO.digest)
    assert (pin.manifest_digest, pin.here) == (TWO.digest, False)
    cache.load(archive(ONE, TWO))
    assert cache.prune().operation is None
    assert names(cache) == ["one:1", "two:1"]


@pytest.mark.parametrize(
    "text", ["*", "one*", "UPPER:1", "", "one:1@sha256:12", "a b", "sha256:" + "g" * 64, "x" * 400]
)
def test_what_names_nothing_makes_no_home(cache: ImageCache, text: str) -> None:
    with pytest.raises(InvalidReferenceError):
        cache.pin(text)
    with pytest.raises(InvalidReferenceError if not text.startswith("sha256") else ImageNotFoundError):
        cache.unpin(text)
    assert not cache.home.exists()


@pytest.mark.parametrize("text", ["abcd", "sha256:abcd", "abcdef0123"])
def test_the_beginning_of_no_digest_is_no_pin(cache: ImageCache, text: str) -> None:
    """A mistake in a digest must not end as a name to come."""
    for _ in range(2):
        with pytest.raises(ImageNotFoundError, match="no such digest is in the cache"):
            cache.pin(text)
        cache.load(archive(ONE))
    assert cache.pins() == []
    assert cache.pin("abcd:latest").reference == "abcd:latest"
    assert cache.unpin("abcd").reference == "abcd:latest"


def test_several_digests_that_begin_so(cache: ImageCache) -> None:
    for end in ("0", "1"):
        cache.pin(f"sha256:{'ab' * 31}a{end}")
    with pytest.raises(InvalidReferenceError, match="several digests begin with 'abab'"):
        cache.unpin("abab")
    assert cache.unpin("ab" * 31 + "a0").manifest_digest == f"sha256:{'ab' * 31}a0"
    assert cache.unpin("abab").manifest_digest == f"sha256:{'ab' * 31}a1"


def test_pinning_again(cache: ImageCache, clock: Clock) -> None:
    cache.load(archive(ONE))
    first = cache.pin("one:1", reason="a")
    length = len(types(cache))
    clock.days(1)
    for spelling in ("one:1", "library/one:1", "docker.io/library/one:1", "index.docker.io/library/one:1"):
        assert cache.pin(spelling, reason="a") == first
    assert len(types(cache)) == length
    # Another end or reason replaces what was there.
    until = datetime.fromtimestamp(clock() / 10**9, UTC) + timedelta(days=2)
    later = cache.pin("one:1", until=until)
    assert (later.since_ns, later.until, later.reason) == (clock(), until, None)
    assert cache.pin("one:1", until=until) == later
    assert len(types(cache)) == length + 1
    assert cache.pin("one:1").until is None
    assert len(cache.pins()) == 1
    assert cache.unpin("docker.io/one:1").reference == "one:1"
    assert types(cache).count("image.unpinned") == 1


def test_a_reference_as_it_was_typed(cache: ImageCache) -> None:
    assert cache.pin("docker.io/library/one:1").reference == "docker.io/library/one:1"
    assert cache.unpin("one:1").reference == "docker.io/library/one:1"
    assert cache.pin("one").reference == "one"
    cache.unpin("one:latest")
    assert cache.pins() == []


@pytest.mark.parametrize("text", ["one:1", "one:2", "abcd", ONE.digest, TWO.digest, f"two@{ONE.digest}"])
def test_unpin_what_is_not_pinned(cache: ImageCache, text: str) -> None:
    with pytest.raises(ImageNotFoundError, match="is not pinned"):
        cache.unpin(text)
    assert not cache.home.exists()
    cache.load(archive(ONE))
    cache.pin("two:1")
    with pytest.raises(ImageNotFoundError, match=r"is not pinned; `msb-cache pins` lists what is"):
        cache.unpin(text)
    assert "image.unpinned" not in types(cache)


def test_a_pin_by_name_and_digest(cache: ImageCache) -> None:
    """It is of the manifest, as for an image that was pulled so it is of that name."""
    text = f"one:1@{ONE.digest}"
    assert cache.pin(text).manifest_digest == ONE.digest
    assert pinned(cache) == [ONE.digest]
    assert cache.unpin(text).manifest_digest == ONE.digest


def test_one_with_an_end(cache: ImageCache, clock: Clock) -> None:
    cache.load(archive(ONE))
    for wrong in ("yesterday", "2001-01-01", "soon", "", datetime(2001, 1, 1, tzinfo=UTC)):
        with pytest.raises(InvalidConfigError):
            cache.pin("one:1", until=wrong)
    with pytest.raises(InvalidConfigError, match="has no time zone"):
        cache.pin("one:1", until=datetime(2099, 1, 1))
    pin = cache.pin("one:1", until="2 days")
    assert pin.until_ns == START + 2 * DAY
    clock.days(2)
    clock.ns -= 1
    with pytest.raises(ImageInUseError):
        cache.remove("one:1")
    assert cache.prune().operation is None
    clock.ns += 1
    assert cache.pins() == []
    with pytest.raises(ImageNotFoundError, match="is not pinned"):
        cache.unpin("one:1")
    # Pinned anew after it ended: that is another pin.
    assert cache.pin("one:1").since_ns == clock()
    cache.unpin("one:1")
    assert cache.remove("one:1").image_refs_removed == 1


def test_the_end_of_a_hold(cache: ImageCache, clock: Clock) -> None:
    cache.load(archive(ONE))
    held = cache.hold("one:1", "sandbox:dev", until="1 day")
    assert (held.until_ns, held.until) == (START + DAY, datetime.fromtimestamp((START + DAY) / 10**9, UTC))
    length = len(types(cache))
    cache.hold("one:1", "sandbox:dev", until="1 day")
    assert len(types(cache)) == length
    assert cache.hold("one:1", "sandbox:dev").until is None
    cache.hold("one:1", "sandbox:dev", until="1 day")
    assert [hold.until_ns for hold in cache.holds()] == [START + DAY]
    clock.days(1)
    assert (cache.holders("one:1"), cache.holds(), cache.release("sandbox:dev")) == ([], [], [])
    # It was not idle before that hold ended.
    (verdict,) = cache.preview_prune(PrunePolicy(grace="0s")).images()
    assert (verdict.goes, verdict.idle_ns) == (True, 0)
    assert cache.remove("one:1").image_refs_removed == 1


def test_in_a_home_of_msb_a_pin_is_not_enforced(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    (cache.home / "db" / "msb.db").touch()
    pin = cache.pin("one:1")
    assert not pin.enforced
    assert cache.pins() == [pin]
    assert not cache.unpin("one:1").enforced


def test_several_at_once(cache: ImageCache) -> None:
    """Patterns, digests and names as one operation, with what is refused told and the rest gone."""
    cache.load(archive(ONE, TWO), tag="alias:1")
    cache.hold("two:1", "sandbox:dev")
    cache.pin("alias:1")
    refused: list[MicrosandboxError] = []
    wanted = ["*:1", "none:*", "Bad", "gone:1"]
    shown = cache.preview_remove(wanted, refused=refused.append)
    length = len(types(cache))
    assert [*shown.plan.references] == ["docker.io/library/one:1"]
    assert len(types(cache)) == length
    said = [str(error) for error in refused]
    assert said == [
        "no image matches 'none:*'",
        "'Bad' is not an image reference: a repository name must be lower case",
        "image not found: gone:1; did you mean one:1?",
        "alias:1 is pinned by alice",
        "two:1 is in use by sandbox:dev",
    ]
    refused.clear()
    dry = cache.remove(wanted, dry_run=True, refused=refused.append)
    assert len(refused) == 5
    refused.clear()
    report = cache.remove(wanted, refused=refused.append)
    assert [str(error) for error in refused] == said
    assert (report.image_refs_removed, report.manifests_removed) == (1, 0)
    assert (dry.image_refs_removed, dry.bytes_reclaimed) == (1, report.bytes_reclaimed)
    assert names(cache) == ["alias:1", "two:1"]
    with pytest.raises(ImageInUseError):
        cache.remove(["two:1", "alias:1"])
    assert cache.remove(["*"], force=True).image_refs_removed == 2
    assert len(cache.prunes()) == 2
