"""What is pinned, now and then: a pin or hold that has an end counts up to the moment that is asked about."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from msb_cache import (
    Actor,
    ImageCache,
    ImageInUseError,
    ImageNotFoundError,
    ImageReasons,
    InvalidConfigError,
    PrunePolicy,
)
from msb_cache.queries.as_of import AsOf
from tests.examples import DAY, ONE, START, TWO, Clock, archive


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(tmp_path: Path, clock: Clock) -> Iterator[ImageCache]:
    """A cache in which two:1 is pinned, and one:1 held, from day 1 to day 3; it is day 1."""
    actor = Actor(user="bob", uid=1, host="h", program="test", reason="the demo")
    with ImageCache(tmp_path / "home", actor=actor, clock=clock) as cache:
        cache.load(archive(ONE, TWO))
        clock.days(1)
        cache.pin("two:1", until="2 days")
        cache.hold("one:1", "sandbox:dev", until="2 days")
        yield cache


def last(cache: ImageCache) -> int:
    return cache.events(reverse=True, limit=1)[0].seq


def day(number: float) -> datetime:
    return datetime.fromtimestamp((START + number * DAY) / 10**9, UTC)


def asked(cache: ImageCache, as_of: AsOf | None = None) -> tuple[bool, bool, bool, bool]:
    """Whether something is pinned, and whether it is held, as four questions say."""
    return (
        bool(cache.pins(as_of=as_of)),
        bool(cache.pins("two:1", as_of=as_of)),
        bool(cache.holds(as_of=as_of)),
        bool(cache.holders("one:1", as_of=as_of)),
    )


YES, NO = (True,) * 4, (False,) * 4


def test_the_moment_that_is_asked_about_decides(cache: ImageCache, clock: Clock) -> None:
    seq = last(cache)
    assert asked(cache) == YES
    clock.days(2.5)  # to day 3.5; nothing has happened since
    assert asked(cache) == NO
    for as_of in (day(0.5), seq - 2):
        assert asked(cache, as_of) == NO, as_of
    for as_of in (day(1), day(2), day(2.999), str(day(2)), seq, f"@{seq}"):
        assert asked(cache, as_of) == YES, as_of
    for as_of in (day(3), day(3.25), "now", day(3.5)):
        assert asked(cache, as_of) == NO, as_of
    # A position is the moment at which it was recorded, also when more came at another time.
    cache.use("one:1")
    assert asked(cache, seq) == YES
    assert asked(cache, last(cache)) == NO


def test_a_position_of_a_clock_that_was_ahead_is_not_later_than_now(cache: ImageCache, clock: Clock) -> None:
    clock.days(9)
    cache.use("one:1")
    seq = last(cache)
    assert asked(cache, seq) == NO
    clock.days(-9)
    assert asked(cache) == YES
    assert asked(cache, seq) == YES


def test_an_image_has_the_pins_of_its_name_and_of_its_manifest(cache: ImageCache) -> None:
    cache.pin(TWO.digest, reason="its bytes")
    cache.pin("never:1")
    assert [(pin.reference, pin.reason) for pin in cache.pins("two:1")] == [
        ("two:1", "the demo"),
        (None, "its bytes"),
    ]
    assert [pin.reference for pin in cache.pins(TWO.digest[:12])] == ["two:1", None]
    assert cache.pins("one:1") == []
    assert len(cache.pins()) == 3
    with pytest.raises(ImageNotFoundError):
        cache.pins("never:1")
    with pytest.raises(InvalidConfigError):
        cache.pins(as_of="tomorrow")


def test_who_and_why(cache: ImageCache) -> None:
    (pin,) = cache.pins()
    assert (pin.by, pin.reason, pin.since, pin.until) == ("bob", "the demo", day(1), day(3))
    assert (pin.reference, pin.manifest_digest, pin.here, pin.enforced) == ("two:1", TWO.digest, True, True)


def test_a_pin_of_the_past_is_told_as_it_was(cache: ImageCache, clock: Clock) -> None:
    then = last(cache)
    clock.days(1)
    cache.pin("two:1", reason="for good")
    cache.remove("two:1", force=True)
    (pin,) = cache.pins(as_of=then)
    assert (pin.reason, pin.here, pin.until) == ("the demo", True, day(3))
    (pin,) = cache.pins()
    assert (pin.reason, pin.here, pin.until) == ("for good", False, None)
    cache.unpin("two:1")
    assert cache.pins() == []
    assert cache.pins(as_of=day(1.5))[0].reason == "the demo"


def test_everything_that_counts_or_keeps_asks_when_it_is(cache: ImageCache, clock: Clock) -> None:
    policy = PrunePolicy(unused_for="1h")
    assert (cache.info().pins, cache.info().holds) == (1, 1)
    assert {each.rule for each in cache.preview_prune().images()} == {"pinned", "held"}
    (pinned,) = (each for each in cache.preview_prune(policy).images() if each.rule == "pinned")
    assert (pinned.by, pinned.until_ns) == (("bob",), START + 3 * DAY)
    for name in ("one:1", "two:1"):
        with pytest.raises(ImageInUseError):
            cache.remove(name)
    assert cache.prune(policy).operation is None
    clock.days(2)
    assert (cache.info().pins, cache.info().holds) == (0, 0)
    assert {each.rule for each in cache.preview_prune().images()} == {"unused"}
    # Held until just now, it has been idle for no time at all; a pin is no use.
    assert [each.goes for each in cache.preview_prune(policy).images()] == [False, True]
    clock.days(1)
    assert cache.prune(policy).image_refs_removed == 2


def test_why(cache: ImageCache, clock: Clock) -> None:
    def reasons(name: str) -> ImageReasons:
        found = cache.why(name, policy=PrunePolicy(unused_for="1h"))
        assert isinstance(found, ImageReasons)
        return found

    found = reasons("two:1")
    assert found.pin is not None
    assert (found.pin.type, found.fate and found.fate.rule) == ("image.pinned", "pinned")
    assert found.policy is not None
    assert (found.policy.goes, found.policy.at_ns) == (False, START + 3 * DAY)
    assert [hold.type for hold in reasons("one:1").holds] == ["image.held"]
    clock.ns = START + 3 * DAY
    assert (reasons("two:1").pin, reasons("one:1").holds) == (None, ())
    assert reasons("two:1").policy.goes  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "rules",
    [
        {"unused_for": "14d"},
        {"older_than": "20d"},
        {"unused_for": "3d", "older_than": "9d", "grace": "10d"},
        {"unused_for": "1d", "grace": "2 days"},
    ],
    ids=str,
)
def test_at_the_time_that_why_says_the_prune_takes_it(
    cache: ImageCache, clock: Clock, rules: dict[str, str]
) -> None:
    policy = PrunePolicy(**rules)  # type: ignore[arg-type]
    found = cache.why("two:1", policy=policy)
    assert isinstance(found, ImageReasons)
    assert found.policy is not None
    when = found.policy.at_ns
    assert when is not None
    clock.ns = when - 1
    assert cache.prune(policy).operation is None
    clock.ns = when
    cache.prune(policy)
    assert [handle.reference for handle in cache.list()] in ([], ["one:1"])


def test_what_time_alone_does_not_decide_has_none(cache: ImageCache, clock: Clock) -> None:
    def when(name: str, policy: PrunePolicy) -> int | None:
        found = cache.why(name, policy=policy)
        assert isinstance(found, ImageReasons)
        assert found.policy is not None
        return found.policy.at_ns

    assert when("two:1", PrunePolicy(max_size=1)) is None
    assert when("two:1", PrunePolicy(keep_last=1)) is None
    assert when("two:1", PrunePolicy(unused_for="1d", exclude=("two",))) is None
    assert when("two:1", PrunePolicy(unused_for="1d", filter=("reference=other",))) is None
    cache.pin("two:1")
    assert when("two:1", PrunePolicy(unused_for="1d")) is None
