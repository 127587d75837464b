"""Events of logs at several places come in one order, as if they were at one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from msb_cache import FleetError, ImageNotFoundError, InvalidReferenceError
from msb_cache.fleet import events as of_events
from msb_cache.fleet.place import Place, Reading
from msb_cache.fleet.timeline import Timeline
from tests.fleet.filled import in_file
from tests.fleet.random_lives import BEGIN, Life

NOW = BEGIN + 10**12


def timeline(*places: Place) -> Timeline:
    def everywhere(question: Callable[[Reading], Iterable[Any]]) -> list[Any]:
        found = []
        for place in places:
            with place.read() as reading:
                found += question(reading)
        return found

    return Timeline(everywhere, lambda: [*places], NOW)


@pytest.fixture
def apart(tmp_path: Path) -> Iterator[tuple[Timeline, Timeline, list[Life]]]:
    """Two hosts at a place, and the same hosts at a place of its own each."""
    lives = [Life(tmp_path / name, name) for name in ("one", "two")]
    for number, step in enumerate((("load", "app:1", 2), ("use", "app:1", 1), ("remove", "app:1", 3)) * 2):
        lives[number % 2].step(step)
    for name in ("both", "a", "b"):
        (tmp_path / f"at-{name}").mkdir()
    with (
        in_file(tmp_path / "at-both") as both,
        in_file(tmp_path / "at-a") as first,
        in_file(tmp_path / "at-b") as second,
    ):
        for life, own in zip(lives, (first, second), strict=True):
            both.add(life.home)
            own.add(life.home)
        places = [each.fleet()._places()[0] for each in (both, first, second)]
        yield timeline(places[0]), timeline(*places[1:]), lives


@pytest.mark.parametrize(
    "filters", [{}, {"limit": 5}, {"reverse": True}, {"reverse": True, "limit": 3}, {"after": 0, "limit": 4}]
)
def test_several_places_are_as_one(apart, filters) -> None:
    together, several, _ = apart
    found = [*together.events(filters)]
    assert len(found) == filters.get("limit", len(found)) > 0
    assert [*several.events(filters)] == found
    assert several.history("app:1", filters) == together.history("app:1", filters)
    assert several.history("app:*", filters) == together.history("app:*", filters)


def test_names_are_looked_up_at_all_places(apart) -> None:
    _, several, lives = apart
    with lives[1].cache() as cache:
        [event, *_] = cache.events(types=["image.removed"])
    found = [*several.events({"operation": event.operation[:24], "types": ["image.removed"]})]
    assert [(each.host, each.found.seq) for each in found] == [("two", event.seq)]
    assert several.known_references() == ["docker.io/library/app:1"]
    with pytest.raises(ImageNotFoundError, match="did you mean app:1"):
        several.history("ap:1", {})
    with pytest.raises(InvalidReferenceError, match="is no digest"):
        several.events({"digest": "x"})


def test_the_last_ten_come_first(apart) -> None:
    together, several, _ = apart
    assert [*several.follow(None, {}, [None, None])] == [*together.events({"limit": 10})]
    assert [*several.follow("app:1", {}, [None])] == together.history("app:1", {"limit": 10})
    assert [*several.follow(None, {"limit": 3, "after": 0}, [None])] == [*together.events({})][:3]


def test_a_server_that_goes_away_is_waited_for(apart) -> None:
    together, several, _ = apart
    away, passes, said = False, True, []

    def everywhere(question: Callable[[Reading], Iterable[Any]]) -> list[Any]:
        if away:
            raise FleetError("the fleet cannot be asked", temporary=passes)
        return several.everywhere(question)

    def looks() -> Iterator[None]:
        nonlocal away
        yield
        away = True
        yield from [None] * 40
        assert len(asked) > 1
        away = False
        yield from [None] * 80

    asked: list[Any] = []
    mine = several._replace(everywhere=lambda question: asked.append(question) or everywhere(question))
    assert [*mine.follow(None, {}, looks(), said.append)] == [*together.events({"limit": 10})]
    assert said == [
        "the fleet cannot be asked; it is tried again until that passes",
        "the fleet can be asked again",
    ]
    assert len(asked) < 100  # and not with every look
    away = True
    with pytest.raises(FleetError):  # it is to be seen at once that it cannot be asked
        [*mine.follow(None, {}, [None], said.append)]
    away, passes = False, False
    with pytest.raises(FleetError):
        [*mine.follow(None, {}, looks(), said.append)]


def test_what_was_told_before_a_server_went_away_is_not_told_again(apart, monkeypatch) -> None:
    together, several, _ = apart
    ends, come, looked = of_events.ends, Timeline._come, 0

    def some_ends(reading: Reading, ids: Any) -> dict[str, int]:
        return ends(reading, ids) if looked > 1 else {}

    def cut(self: Timeline, *given: Any) -> Iterator[Any]:
        found = come(self, *given)
        if looked > 2:
            yield from found
        else:
            yield from itertools.islice(found, 3)
            raise FleetError("the connection is lost", temporary=True)

    def looks() -> Iterator[None]:
        nonlocal looked
        for number in range(1, 9):
            looked = number
            yield

    monkeypatch.setattr(of_events, "ends", some_ends)
    monkeypatch.setattr(Timeline, "_come", cut)
    found = [*several.follow(None, {"after": 0}, looks())]
    assert sorted((each.log_id, each.found.seq) for each in found) == sorted(
        (each.log_id, each.found.seq) for each in together.events({})
    )
