"""What a fleet has that begins so: few rows of however many, whatever was typed."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache.errors import BusyError, FleetError
from msb_cache.fleet import beginnings
from msb_cache.fleet.connect import Postgres
from msb_cache.fleet.enrolment import enrol
from msb_cache.fleet.place import Place
from msb_cache.fleet.servers import add_server
from msb_cache.fleet.writing import writable
from tests.fleet.randomlogs import new_file

HEAD = "(log_id, role, size, hash, recorded_at, claimed_at, seen_at, host_size)"
STATE = "(log_id, seq, hash, recorded_at, folded_at, host)"
IMAGE = "(log_id, name, reference, manifest_digest, created_at, last_used_at, seq, pointed_since, pulled_at)"
ODD = [
    "it's",
    '"; DROP TABLE msb_cache.head; --',
    "100%",
    "10_0",
    "back\\slash",
    "*",
    "Ä",
    "\U0001f419",
    "Z",
    "a b",
]
"""Names that mean something to a database or a shell."""
PREFIXES = [
    "",
    "i",
    "it'",
    '"',
    "1",
    "10",
    "10_",
    "100%",
    "back\\",
    "*",
    "Ä",
    "\U0001f419",
    "a ",
    "ci-",
    "ci-0",
    "no",
]


def put(place: Place, hosts: list[str], references: list[str]) -> None:
    """Put logs of these hosts into a place, each with all these images."""
    digest = b"\1" * 32
    with writable(place) as into, into.transaction() as writing:
        for number, host in enumerate(hosts):
            log_id = f"{number:032x}"
            writing.run(
                f"INSERT INTO msb_cache.head {HEAD} VALUES (?, ?, 1, ?, 1, 1, 1, 1)",
                (log_id, f"role-{host}", digest),
            )
            writing.run(
                f"INSERT INTO msb_cache.fold_state {STATE} VALUES (?, 1, ?, 1, 1, ?)", (log_id, digest, host)
            )
            for reference in references:
                writing.run(
                    f"INSERT INTO msb_cache.image {IMAGE} VALUES (?, ?, ?, ?, 1, 1, 1, 1, 1)",
                    (log_id, reference, reference, f"sha256:{number % 3:064x}"),
                )


def expected(names: list[str], prefix: str) -> list[str]:
    """The first ones and the last, in the order of their bytes."""
    found = sorted({name for name in names if name.startswith(prefix)}, key=str.encode)
    return found if len(found) <= beginnings.MOST else [*found[: beginnings.MOST], found[-1]]


def test_each_once_whatever_is_typed(place: Place) -> None:
    names = [*ODD, *(f"ci-{number:03}" for number in range(300))]
    put(place, [*names, *ODD], [])
    with place.read() as reading:
        for prefix in PREFIXES:
            found = beginnings.hosts(reading, prefix)
            roles = expected([f"role-{name}" for name in names], prefix)
            assert found == expected(names, prefix) + roles, prefix


def test_references_and_digests(place: Place) -> None:
    references = [f"docker.io/library/{name}" for name in ("app:1", "app:2", "tool:1")]
    put(place, ["a", "b", "c", "d"], references)
    with place.read() as reading:
        assert beginnings.references(reading, ["docker.io/library/app"], gone=False) == references[:2]
        assert beginnings.references(reading, ["x", ""], gone=False) == references
        assert beginnings.references(reading, [""], gone=True) == []
        assert beginnings.digests(reading, "sha256:", gone=False) == [f"sha256:{n:064x}" for n in range(3)]
        assert beginnings.digests(reading, "", gone=False) == []
        assert beginnings.digests(reading, "sha256:", gone=True) == []


def test_logs_are_named_by_what_can_be_the_beginning_of_an_id(place: Place) -> None:
    put(place, ["a", "b"], [])
    with place.read() as reading:
        assert beginnings.logs(reading, "0000") == [(f"{0:032x}", "a"), (f"{1:032x}", "b")]
        assert beginnings.logs(reading, f"{1:032x}") == [(f"{1:032x}", "b")]
        assert [beginnings.logs(reading, prefix) for prefix in ("", "000", "00'0", "zzzz", "0" * 33)] == [
            []
        ] * 5


def test_of_a_hundred_thousand_hosts_with_the_same_images(server: Postgres) -> None:
    digest = "decode(repeat('01', 32), 'hex')"
    logs = "SELECT lpad(to_hex(n), 32, '0')"
    series = "FROM generate_series(1, 100000) n"
    with writable(server) as into, into.transaction() as writing:
        writing.run(f"INSERT INTO msb_cache.head {HEAD} {logs}, 'runners', 1, {digest}, 1, 1, 1, 1 {series}")
        writing.run(
            f"INSERT INTO msb_cache.fold_state {STATE} {logs}, 1, {digest}, 1, 1, "
            f"'host-' || lpad(n::text, 6, '0') {series}"
        )
        writing.run(
            f"INSERT INTO msb_cache.image {IMAGE} {logs}, r, r, 'sha256:00', 1, 1, 1, 1, 1 {series}, "
            "unnest(ARRAY['docker.io/library/app:1', 'docker.io/library/tool:2']) r"
        )
    questions: list[tuple[Callable[..., list[str]], str, list[str]]] = [
        (
            beginnings.hosts,
            "host-",
            [*(f"host-{n:06}" for n in range(1, beginnings.MOST + 1)), "host-100000"],
        ),
        (beginnings.hosts, "host-09999", [f"host-09999{n}" for n in range(10)]),
        (beginnings.hosts, "run", ["runners"]),
    ]
    began = time.monotonic()
    with server.peek() as reading:  # which gives up after a second
        for question, prefix, answers in questions:
            assert question(reading, prefix) == answers
        found = beginnings.references(reading, [""], gone=False)
        assert found == ["docker.io/library/app:1", "docker.io/library/tool:2"]
        assert len(beginnings.logs(reading, "0000")) == beginnings.MOST
    assert time.monotonic() - began < 2.0


def test_operations_are_read_from_an_index_of_all_hosts(server: Postgres) -> None:
    with writable(server) as into, into.transaction() as writing:
        for table in ("deletion", "undoing"):
            found = writing.rows(
                "SELECT indexdef FROM pg_indexes WHERE schemaname = 'msb_cache' AND tablename = ?", (table,)
            )
            assert any("(operation, log_id)" in made and " WHERE " not in made for (made,) in found), table


def test_who_is_enrolled_and_further_servers(server: Postgres) -> None:
    enrol(server.dsn, "beg-host")
    enrol(server.dsn, "beg-reader", kind="reader")
    add_server(server.dsn, "east", "host=east.fleet.example dbname=fleet")
    with server.read() as reading:
        assert beginnings.enrolled(reading, "beg-") == ["beg-host", "beg-reader"]
        assert beginnings.enrolled(reading, "beg_") == []
        assert beginnings.enrolled(reading, "pos") == []
        assert (beginnings.servers(reading, "e"), beginnings.servers(reading, "main")) == (["east"], [])


def test_a_file_is_peeked_at_as_it_is(tmp_path: Path) -> None:
    place = new_file(tmp_path / "fleet.db")
    put(place, ["a"], [])
    with place.peek() as reading:
        assert beginnings.hosts(reading, "") == ["a", "role-a"]
        with pytest.raises(Exception, match=r"readonly|read-only"):
            reading.rows("DELETE FROM msb_cache.head")
    slow = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with pytest.raises(FleetError, match="interrupted"), place.peek() as reading:
        reading.rows(slow)
    with closing(sqlite3.connect(place.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(BusyError), place.peek() as reading:
            beginnings.hosts(reading, "")


def test_a_server_is_not_waited_for(server: Postgres) -> None:
    with pytest.raises(FleetError, match="statement timeout"), server.peek() as reading:
        reading.rows("SELECT pg_sleep(5)")
    with server.peek() as reading:
        assert reading.rows("SHOW statement_timeout") == [("1s",)]
    with server.read() as reading:
        assert reading.rows("SHOW statement_timeout") == [("0",)]
