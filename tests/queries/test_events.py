"""Which events are asked for, and reading them page by page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from msb_cache import ImageCache, InvalidConfigError, LogError
from msb_cache.eventstore.events import ImageUsed
from msb_cache.eventstore.store import NewEvent, StoredEvent
from tests.examples import ONE, archive

DAY = 86_400 * 10**9


@pytest.mark.parametrize("operation", ["", "abc", "zzzz", "0000", "%%%%", "' OR 1=1"])
def test_unknown_deletions(cache: ImageCache, operation: str) -> None:
    cache.load(archive(ONE))
    cache.prune()
    with pytest.raises(LogError):
        cache.prune_report(operation)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("type", "did you mean types=?"),
        ("sinc", "did you mean since=?"),
        ("zzz", "there are: since, until, "),
    ],
)
def test_a_filter_that_there_is_not(cache: ImageCache, name: str, hint: str) -> None:
    cache.load(archive(ONE))
    given: dict[str, Any] = {name: "image.pulled"}
    for ask in (cache.events, cache.iter_events, cache.follow, partial(cache.history, "one:1")):
        with pytest.raises(TypeError) as caught:
            ask(**given)
        assert str(caught.value).startswith(f"unexpected keyword argument {name!r}; {hint}")


@pytest.fixture
def jumpy(tmp_path: Path) -> Iterator[ImageCache]:
    """Return a cache whose clock was far ahead for a while, and 600 events with times of their own."""
    now = [DAY]
    with ImageCache(tmp_path / "jumpy", clock=lambda: now[0]) as cache:
        cache.load(archive(ONE))
        for day in (2, 400, 3, 4):
            now[0] = DAY * day
            cache.use("one:1")
        # As what msb did, some of it at times that the clock that recorded it has not reached yet.
        used = ImageUsed(manifest_digest=ONE.digest)
        with cache._ledger.write("0" * 32, owner="any") as transaction:
            transaction.append(
                [
                    NewEvent(used, "docker.io/library/one:1", DAY * (4 if number % 50 else 90) - number)
                    for number in range(600)
                ]
            )
        yield cache


def seqs(events: Iterable[StoredEvent]) -> list[int]:
    return [event.seq for event in events]


def test_since_and_until_are_exact_whatever_the_clocks_did(jumpy: ImageCache) -> None:
    everything = jumpy.events()
    whole = jumpy.history("one:1")
    for edge in {everything[place].occurred_at_ns for place in (0, 9, 12, 20, -2, -1)} | {DAY * 300}:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=edge // 1000)
        ns = edge // 1000 * 1000
        later = seqs(each for each in everything if each.occurred_at_ns >= ns)
        earlier = seqs(each for each in everything if each.occurred_at_ns <= ns)
        assert seqs(jumpy.events(since=moment)) == later
        assert seqs(jumpy.events(until=moment)) == earlier
        assert seqs(jumpy.events(since=moment, limit=600)) == later[-600:]
        assert seqs(jumpy.events(until=moment, limit=3, reverse=True)) == earlier[::-1][:3]
        assert seqs(jumpy.events(since=moment, types=["image.used", "clock.jumped"])) == [
            each.seq
            for each in everything
            if each.seq in later and each.type in ("image.used", "clock.jumped")
        ]
        own = seqs(whole)
        assert seqs(jumpy.history("one:1", since=moment)) == [seq for seq in own if seq in later]
        assert seqs(jumpy.history("one:1", until=moment)) == [seq for seq in own if seq in earlier]


def test_a_limit_keeps_the_newest_and_behind_a_position_the_first_that_come(jumpy: ImageCache) -> None:
    everything = seqs(jumpy.iter_events())
    own = seqs(jumpy.history("one:1"))
    for limit in (0, 1, 2, 499, 500, 501, len(everything) + 5):
        newest = everything[len(everything) - min(limit, len(everything)) :]
        assert seqs(jumpy.events(limit=limit)) == newest
        assert seqs(jumpy.events(limit=limit, reverse=True)) == newest[::-1]
        assert seqs(jumpy.history("one:1", limit=limit)) == own[max(0, len(own) - limit) :]
        assert seqs(jumpy.events(after=3, limit=limit)) == everything[3:][:limit]
        assert seqs(jumpy.events(after=0, limit=limit)) == everything[:limit]
        assert seqs(jumpy.events(since="@4", limit=limit)) == everything[3:][-limit:] or not limit
    followed = jumpy.follow(since="@4", limit=2, stopped=lambda: True)
    assert seqs(followed) == [4, 5]


@pytest.mark.parametrize("beginning", [{"after": 0}, {"since": "@1"}, {"recorded_since": "@0"}])
def test_what_is_followed_from_the_first_event_on_is_everything(
    jumpy: ImageCache, beginning: dict[str, Any]
) -> None:
    everything = seqs(jumpy.events())
    assert seqs(jumpy.follow(stopped=lambda: True, **beginning)) == everything
    assert seqs(jumpy.follow(stopped=lambda: True)) == everything[-10:]


def test_a_position_is_a_time_of_the_log(jumpy: ImageCache) -> None:
    everything = seqs(jumpy.events())
    assert seqs(jumpy.events(since="@5", until=" @9 ")) == [5, 6, 7, 8, 9]
    assert seqs(jumpy.events(recorded_since="@5", until="@9")) == [5, 6, 7, 8, 9]
    assert seqs(jumpy.events(until="@0")) == []
    assert seqs(jumpy.events(since="@0")) == everything
    assert seqs(jumpy.events(since=f"@{10**18}")) == []
    assert seqs(jumpy.events(since="@5", until="@9", limit=2, reverse=True)) == [9, 8]
    for wrong in ("@", "@-1", "@5x", "5"):
        with pytest.raises(InvalidConfigError, match="is no time"):
            jumpy.events(since=wrong)


def test_times_are_text_datetimes_or_so_long_ago(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    everything = seqs(cache.events())
    ago = timedelta(hours=1)
    for since in (ago, "1 hour ago", "1h", datetime.now(UTC) - ago):
        assert seqs(cache.events(since=since)) == everything
        assert seqs(cache.events(until=since)) == []
    assert cache.list(as_of=timedelta(0)) == cache.list()


def test_older_names_of_the_times_warn(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    with pytest.warns(DeprecationWarning, match="occurred_since is called since") as warned:
        assert seqs(cache.events(occurred_since="1h")) == seqs(cache.events())
    assert warned[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="until"), pytest.raises(InvalidConfigError, match="give one"):
        cache.events(until="now", occurred_until="now")
