"""A home of the real msb is copied as a golden image is, and the copy's log goes on under a new id."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from msb_cache import Actor, DataRequest, FleetError, ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.fleet.enrolment import enrol
from msb_cache.fleet.fleet import Fleet
from msb_cache.fleet.place import Place
from tests.audit.test_begin_anew import answers, check_begun, check_sound, rows_of
from tests.cli.support import execute
from tests.fleet.conftest import admin as admin
from tests.fleet.conftest import postgres as postgres
from tests.fleet.conftest import server as server
from tests.fleet.postgres import PASSWORD
from tests.peers.realmsb import Msb, copied, short_home


def opened(home: Path, host: str) -> ImageCache:
    return ImageCache(home, actor=Actor(user="ci", uid=1000, host=host, program="test"))


@pytest.fixture
def golden(real: Msb) -> Msb:
    """What msb-cache has seen: images that msb loaded, moved and removed, and sandboxes of them."""
    with opened(real.home, "golden") as cache:
        cache.list()
        real.load("next")  # app:1 moves on
        real("image", "rm", "-q", "alone:1")
        cache.pin("app:1")
        real.load("alone")
        assert cache.prune(reason="before it is copied").image_refs_removed == 1
    return real


@pytest.fixture
def clone(golden: Msb) -> Iterator[Msb]:
    """A copy of it, on another machine."""
    with short_home() as home:
        copied(golden.home, home)
        yield Msb(golden.program, home, golden.archives)


def anew(home: Path) -> dict[str, object]:
    done = execute("--home", home, "log", "anew", "--yes", "--reason", "cloned", "--format", "json")
    assert (done.code, done.err) == (0, "")
    found = done.json
    assert isinstance(found, dict)
    return found


def go_on(msb: Msb, host: str) -> None:
    """Live on as a host does: msb loads, boots and removes, and msb-cache is asked and prunes."""
    with opened(msb.home, host) as cache:
        msb.load("alone")
        msb.create("alone:1", f"of-{host}")
        cache.use("app:1", holder=f"sandbox:{host}")
        msb("image", "rm", "-f", "-q", "two:latest")
        assert {each.reference for each in cache.list()} == msb.references()
        assert f"sandbox:of-{host}" in cache.holders("alone:1")
        cache.prune(reason=f"on {host}")
        assert {each.reference for each in cache.list()} == msb.references()


def check_whole(msb: Msb) -> None:
    with ImageCache(msb.home) as cache:
        found = cache.verify(data=DataRequest())
        assert (found.disk, found.differences, found.sound) == ([], [], True)
        assert cache.sync(force=True).events == ()
        assert cache.rebuild() == []


def test_it_answers_as_before_and_both_go_on(golden: Msb, clone: Msb) -> None:
    before = rows_of(Layout(clone.home).database)
    with opened(clone.home, "clone") as cache:
        asked = answers(cache)
        assert asked["holds"]
        report = cache.begin_log_anew(reason="cloned")
        assert answers(cache) == asked
        assert cache.sync(force=True).events == ()
    check_begun(clone.home, before, report)
    go_on(golden, "golden")
    go_on(clone, "clone")
    for msb in (golden, clone):
        check_whole(msb)
        with ImageCache(msb.home) as cache:
            check_sound(cache)
    assert rows_of(Layout(golden.home).database)[: len(before)] == before
    after = rows_of(Layout(clone.home).database)
    assert [row[:-1] for row in after[1 : len(before)]] == [row[:-1] for row in before[1:]]


def test_commands_say_what_they_said(clone: Msb) -> None:
    commands = (
        ("list", "--format", "json"),
        ("holders", "--format", "json"),
        ("why", "app:1"),
        ("why", "alone:1"),
        ("history", "app:1"),
        ("prunes", "--format", "json"),
    )

    def said() -> list[str]:
        found = []
        for command in commands:
            done = execute("--home", clone.home, *command, TZ="UTC", COLUMNS="200")
            assert (done.code, done.err) == (0, ""), command
            found.append(done.out)
        return found

    before = said()
    log_id = anew(clone.home)["log_id"]
    assert said() == before
    assert execute("--home", clone.home, "info", "--format", "json").json["log_id"] == log_id
    assert execute("--home", clone.home, "verify").code == 0


def test_one_fleet_takes_both(golden: Msb, clone: Msb, server: Place, admin: str) -> None:
    enrol(admin, "runners", 10, password=PASSWORD)
    dsn = admin.replace("//admin:", "//runners:")
    with opened(golden.home, "golden") as cache:
        cache.ship(dsn)
    go_on(golden, "golden")
    go_on(clone, "clone")
    with opened(golden.home, "golden") as cache, opened(clone.home, "clone") as copy:
        cache.ship(dsn)
        with pytest.raises(FleetError, match="log anew"):
            copy.ship(dsn)
        report = anew(clone.home)
        shipped = copy.ship(dsn)
        assert (shipped.log_id, shipped.events) == (report["log_id"], report["events"])
        fleet = Fleet(admin)
        assert fleet.fold().stopped == ()
        assert [(log.host, log.folded_seq == log.size) for log in fleet.logs()] == [
            ("clone", True),
            ("golden", True),
        ]
        assert all(each.sound for each in fleet.verify())
        for host, asked in (("golden", cache), ("clone", copy)):
            found = fleet.list(hosts=[host])
            assert [each.found.reference for each in found] == [each.reference for each in asked.list()]
            assert {each.found.holder for each in fleet.holds(hosts=[host])} == {
                each.holder for each in asked.holds()
            }
    clone.load("two")
    with opened(clone.home, "clone") as copy:
        assert "two:latest" in {each.reference for each in copy.list()}
        assert copy.ship(dsn).events
    fleet.fold()
    assert [each.sound for each in fleet.verify(["clone"], against=Layout(clone.home).database)] == [True]
