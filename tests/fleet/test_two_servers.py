"""A fleet of two servers: hosts ship to either, and every question is answered for both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from psycopg.conninfo import make_conninfo

from msb_cache import FleetError
from msb_cache.eventstore.store import as_datetime
from msb_cache.fleet.admission import init
from msb_cache.fleet.connect import Postgres
from msb_cache.fleet.enrolment import enrol
from msb_cache.fleet.fleet import Fleet
from msb_cache.shapes import jsonable
from tests.fleet.asking import check
from tests.fleet.postgres import PASSWORD, Server, running
from tests.fleet.random_lives import Clock, Host

HOSTS = ("ci-1", "ci-2", "dev-1", "dev-2")


class Two(NamedTuple):
    """A fleet of two servers, with two hosts on each.

    Attributes:
        admin: the DSN of the first one's superuser.
        fleet: as the folder asks it, who is enrolled on both.
        east: the further server.
        hosts: those of the first server come first.
        shipping: whereto each ships.
    """

    admin: str
    fleet: Fleet
    east: Server
    hosts: tuple[Host, ...]
    shipping: tuple[str, ...]
    clock: Clock


def dsn(server: str, role: str) -> str:
    return make_conninfo(server, user=role, password=PASSWORD)


@pytest.fixture(scope="module")
def two(postgres: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    clock = Clock()
    with running() as east:
        for server in (postgres, east):
            init(server.admin)
            for role in HOSTS:
                enrol(server.admin, role, password=PASSWORD)
            enrol(server.admin, "folder", kind="folder", password=PASSWORD)
            enrol(server.admin, "reader", kind="reader", password=PASSWORD)
        shipping = tuple(
            dsn(server.admin, role)
            for role, server in zip(HOSTS, (postgres, postgres, east, east), strict=True)
        )
        hosts = tuple(Host(tmp_path_factory.mktemp(name) / "home", name, clock) for name in HOSTS)
        for host, to in zip(hosts, shipping, strict=True):
            for operation in ("use", "hold", "load", "prune"):
                host.do(operation, len(host.name))
            host.cache.ship(to)
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("PGPASSWORD", PASSWORD)
            fleet = Fleet(dsn(postgres.admin, "folder"), clock=clock)
            Fleet(postgres.admin).add_server("east", f"host=127.0.0.1 port={east.port} dbname=fleet")
            fleet.fold()
            yield Two(postgres.admin, fleet, east, hosts, shipping, clock)
        for host in hosts:
            host.cache.close()


def directory(two: Two) -> list[tuple[str, str]]:
    with Postgres(two.fleet.dsn).read() as reading:
        return [(log_id, server) for log_id, server in reading.rows("SELECT * FROM msb_cache.directory")]


def test_the_logs_of_both(two: Two) -> None:
    assert [(log.host, log.size == log.folded_seq > 0) for log in two.fleet.logs()] == [
        (name, True) for name in HOSTS
    ]
    assert [log.host for log in two.fleet.logs(["dev-1"])] == ["dev-1"]


def test_the_directory_is_kept_by_who_folds(two: Two) -> None:
    logs = {log.log_id: log.host for log in two.fleet.logs()}
    assert sorted((logs[log_id], server) for log_id, server in directory(two)) == [
        ("dev-1", "east"),
        ("dev-2", "east"),
    ]
    [east] = Fleet(two.admin).servers()
    assert (east.name, east.logs) == ("east", 2)


def test_every_question_is_answered_for_both(two: Two) -> None:
    reader = Fleet(dsn(two.admin, "reader"), clock=two.clock)
    for host in two.hosts[1:3]:  # one of each server
        check(host, reader)


def test_what_comes_to_the_further_server(two: Two) -> None:
    host, to = two.hosts[2], two.shipping[2]
    [before] = two.fleet.logs([host.name])
    host.do("pin", 1)
    host.cache.ship(to)
    [shipped] = two.fleet.logs([host.name])
    assert (shipped.size, shipped.folded_seq) == (before.size + 1, before.size)
    assert (two.fleet.fold().events, two.fleet.logs([host.name])[0].folded_seq) == (1, before.size + 1)
    check(host, two.fleet)


def test_the_past_of_both_is_one_answer(two: Two) -> None:
    then = as_datetime(two.hosts[-1].cache.events()[3].recorded_at_ns)
    own = {host.name: host.cache.list(as_of=then) for host in two.hosts}
    found = two.fleet.list(as_of=then)
    assert {each.host for each in found} == {*HOSTS}
    for host, mine in own.items():
        assert [jsonable(each.found) for each in found if each.host == host] == jsonable(mine)
    times = [each.found.created_at_ns for each in found]
    assert times == sorted(times, reverse=True)
    assert two.fleet.list(hosts=["dev-2"], as_of="@1") == []
    changes = two.fleet.diff("ci-1", "dev-2", as_of=then).changes
    assert changes.to_position == two.fleet.logs(["dev-2"], as_of=then)[0].folded_seq


def test_one_that_is_down_is_named(two: Two) -> None:
    two.east.stop()
    try:
        for ask in (two.fleet.logs, two.fleet.spread, two.fleet.fold):
            with pytest.raises(FleetError, match="the fleet's server east cannot be asked: ") as caught:
                ask()
            assert caught.value.temporary
    finally:
        two.east.start()
    assert len(two.fleet.logs()) == 4


def test_a_log_on_two_servers_is_told(two: Two) -> None:
    host = two.hosts[3]
    host.cache.ship(dsn(two.admin, host.name))  # someone has set the wrong server
    [first, second] = two.fleet.logs([host.name])
    sentence = (
        f"the log {first.log_id[:12]} is on main and on east, and answers have it twice; "
        "its host must ship to one of them"
    )
    said: list[str] = []
    two.fleet.fold(said=said.append)
    assert (said, first.log_id) == ([sentence], second.log_id)
    assert len(directory(two)) == 1
    then = as_datetime(host.cache.events()[3].recorded_at_ns)
    twice = [each.found.reference for each in two.fleet.list(hosts=[host.name], as_of=then)]
    assert sorted(twice) == sorted(2 * [each.reference for each in host.cache.list(as_of=then)])
