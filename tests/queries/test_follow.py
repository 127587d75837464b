"""Staying to look: how often, when it ends, and what is said once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache import ImageCache, LogError
from msb_cache.artifacts.layout import Layout
from msb_cache.artifacts.locks import is_free
from msb_cache.home.ledger import Ledger
from msb_cache.queries.follow import looks, watch
from tests.fakemsb import FakeMsb
from tests.imagebuilder import sample
from tests.logs import new_ledger, some_events
from tests.msbhome import MsbHome


def test_a_sentence_is_said_once_until_it_changes() -> None:
    sentences = ["a", "a", None, "a", "b"]
    left, said = list(sentences), list[str]()
    found = looks(lambda: left.pop(0), stopped=lambda: not left, note=said.append, interval=0)
    assert len([*found]) == len(sentences)  # it is looked all the same
    assert said == ["a", "a", "b"]


def test_a_long_look_is_followed_by_a_longer_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [0.0], list[float]()
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("msb_cache.queries.follow.pause", slept.append)
    lengths = [0.125, 3.0]

    def prepare() -> None:
        now[0] += lengths.pop(0)

    for _ in looks(prepare, stopped=lambda: not lengths, note=pytest.fail, interval=0.5):
        pass
    assert slept == [0.5]
    lengths.append(3.0)
    lengths.append(0.0)
    for _ in looks(prepare, stopped=lambda: not lengths, note=pytest.fail, interval=0.5):
        pass
    assert slept == [0.5, 3.0, 3.0]


def test_only_what_comes_from_now_on_is_seen(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events()[:2])
    asked = []

    def stopped() -> bool:
        asked.append(1)
        if len(asked) == 1:
            with ledger.write("later") as transaction:
                transaction.append(some_events()[2:4])
        return len(asked) > 3

    found = watch(ledger, stopped=stopped, note=pytest.fail, interval=0)
    assert [event.seq for event in found] == [4, 5]


class _Stays:
    """Says that it is over after so many looks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def __call__(self) -> bool:
        self.looks -= 1
        return self.looks < 0


class _Refused:
    """A witness to which something is refused at its first look."""

    closed = False

    def __init__(self, *_: object) -> None:
        pass

    def begin(self) -> None:
        raise PermissionError(13, "Permission denied", "/h/db/msb.db")

    def close(self) -> None:
        _Refused.closed = True


@pytest.fixture
def msb_home(tmp_path: Path) -> Iterator[MsbHome]:
    found = MsbHome(tmp_path / "msb")
    found.load("app:1", "one")
    yield found
    found.close()


def test_where_the_kernel_does_not_tell_it_goes_on_and_says_so_once(
    msb_home: MsbHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("msb_cache.msb.fanotify.Listener", refused)
    assert "CAP_SYS_ADMIN" in _sentence(msb_home)


def test_where_the_database_is_another_users_it_goes_on_and_says_so_once(
    msb_home: MsbHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msb_cache.msb.witness.Witness", _Refused)
    assert "/h/db/msb.db belongs to another user" in _sentence(msb_home)
    assert _Refused.closed


def _sentence(home: MsbHome) -> str:
    said = list[str]()
    with closing(Ledger(home.layout)) as ledger:
        found = watch(ledger, stopped=_Stays(5), note=said.append, interval=0.01)
        assert "image.pulled" in {event.type for event in found}
    (sentence,) = said
    return sentence


def test_a_home_of_ours_needs_nothing_of_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("msb_cache.msb.fanotify.Listener", pytest.fail)
    assert [*watch(new_ledger(tmp_path, []), stopped=_Stays(3), note=pytest.fail, interval=0)] == []


def test_digests_that_the_log_lacks_are_taken_on_the_way(
    own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeMsb(tmp_path / "msb", own_home)
    fake.load(sample("one:1"))
    ledger = Ledger(Layout(fake.home))
    asked: list[int] = []

    def stopped() -> bool:
        asked.append(1)
        return len(asked) > 30

    seen = [event.type for event in watch(ledger, stopped=stopped, note=pytest.fail, interval=0)]
    assert seen[-1] == "artifact.digested"
    assert seen.count("artifact.digested") == len([*ledger.layout.files()])
    ledger.close()


def test_that_they_cannot_be_recorded_is_said_once(
    own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeMsb(tmp_path / "msb", own_home)
    fake.load(sample("one:1"))
    with ImageCache(fake.home) as cache:
        cache.sync()

    def refused(*_: object, **__: object) -> None:
        raise LogError("it is full")

    ledger = Ledger(Layout(fake.home))
    monkeypatch.setattr("msb_cache.engines.background.Background._record", refused)
    asked: list[int] = []
    said: list[str] = []

    def stopped() -> bool:
        asked.append(1)
        return len(asked) > 10

    assert [*watch(ledger, stopped=stopped, note=said.append, interval=0)] == []
    assert said == ["the digests of files cannot be recorded: it is full"]
    ledger.close()


def test_others_see_that_one_runs_in_a_home_of_msb(tmp_path: Path) -> None:
    home = MsbHome(tmp_path)
    home.load("app:1", "one")
    lock = Layout(tmp_path).watch_lock
    with closing(home), ImageCache(tmp_path) as cache:
        with closing(cache.watch(interval=0)) as one, closing(cache.watch(interval=0)) as two:
            next(one), next(two)
            assert not is_free(lock)
            one.close()
            assert not is_free(lock)
        assert is_free(lock)


def test_a_home_of_ours_needs_no_watch(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events()[:2])
    assert [*watch(ledger, stopped=lambda: True, note=pytest.fail, interval=0)] == []
    assert not ledger.layout.watch_lock.exists()
