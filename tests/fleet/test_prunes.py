"""Prunes of many hosts on one time line, and one in full; in a file and on a server."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from msb_cache import Actor, ImageCache, OperationNotFoundError
from msb_cache.fleet.fleet import Fleet
from msb_cache.shapes import jsonable
from tests.cli.support import APP
from tests.fleet.filled import Filled
from tests.imagebuilder import docker_archive

DAY = 86400 * 10**9
NOW = 1_800_000_000 * 10**9
TIMES = {"ci-1": (9, 5), "ci-2": (7, 8)}
"""Days ago when each removed app; the clock of ``ci-2`` was put back between."""


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("homes")


def cache_of(homes: Path, name: str, days: int) -> ImageCache:
    actor = Actor(user="ci", uid=1000, host=name, program="test")
    return ImageCache(homes / name, actor=actor, clock=lambda: NOW - days * DAY)


@pytest.fixture(scope="module")
def fleet(filled: Filled, homes: Path) -> Fleet:
    for name, times in TIMES.items():
        if not (homes / name).exists():
            for days in times:
                with cache_of(homes, name, days) as cache:
                    cache.load(io.BytesIO(docker_archive(APP)))
                    cache.remove(["app:1", "app:latest"], reason=f"{days} days ago")
        filled.add(homes / name)
    return filled.fleet(clock=lambda: NOW)


def test_they_stand_on_one_time_line(fleet: Fleet) -> None:
    found = [(each.host, each.found.actor.reason) for each in fleet.prunes()]
    assert [host for host, _ in found] == ["ci-1", "ci-2", "ci-2", "ci-1"]
    assert found[0][1] == "5 days ago"
    # Of one host its log says which was later, whatever its clock did.
    assert [reason for host, reason in found if host == "ci-2"] == ["8 days ago", "7 days ago"]
    assert [each.found.actor.reason for each in fleet.prunes(limit=1)] == ["5 days ago"]
    assert fleet.prunes(limit=0) == []


@pytest.mark.parametrize("name", TIMES)
def test_a_host_answers_the_same_itself(fleet: Fleet, homes: Path, name: str) -> None:
    with cache_of(homes, name, 0) as cache:
        for limit in (None, 1):
            found = fleet.prunes(limit=limit, hosts=[name])
            assert [jsonable(each.found) for each in found] == jsonable(cache.prunes(limit=limit))
        for each in fleet.prunes(hosts=[name]):
            report = fleet.prune_report(each.found.operation)
            assert report.host == name
            assert jsonable(report.found) == jsonable(cache.prune_report(each.found.operation))


@pytest.mark.parametrize(
    ("operation", "sentence"),
    [("ffffffff", "no deletion of any host"), ("no", "is no operation id"), ("01a", "is no operation id")],
)
def test_what_is_not_there_is_said(fleet: Fleet, operation: str, sentence: str) -> None:
    with pytest.raises(OperationNotFoundError, match=sentence):
        fleet.prune_report(operation)


def test_several_are_named(fleet: Fleet) -> None:
    beginning = fleet.prunes()[0].found.operation[:4]
    with pytest.raises(OperationNotFoundError, match=r"several deletions begin with .*ci-"):
        fleet.prune_report(beginning)
