"""Writing into a server and into a file: the same, and what differs is nobody's matter."""

from __future__ import annotations

import pytest

from msb_cache.errors import FleetError, InvalidConfigError
from msb_cache.fleet.connect import Postgres
from msb_cache.fleet.place import Place
from msb_cache.fleet.writing import UnkeepableError, writable
from tests.fleet.postgres import Server
from tests.fleet.randomlogs import ask

HOLD = ("log_id", "manifest_digest", "holder", "since", "seq")
GOING = ("log_id", "operation", "name", "rule")


def test_many_rows_come_and_go_by_their_keys(place: Place) -> None:
    rows = [("a" * 32, f"m{number}", "h", number, number) for number in range(5)]
    with writable(place) as into:
        with into.transaction() as writing:
            writing.insert("hold", HOLD, [*rows, ("b" * 32, *rows[0][1:])])
        with into.transaction() as writing:
            writing.delete("hold", HOLD[1:3], "a" * 32, [("m1", "h"), ("m3", "other"), ("none", "h")])
            writing.delete("hold", HOLD[1:3], "a" * 32, [])
    assert ask(place, "SELECT manifest_digest FROM msb_cache.hold WHERE log_id = ? ORDER BY 1", "a" * 32) == [
        ("m0",),
        ("m2",),
        ("m3",),
        ("m4",),
    ]
    assert ask(place, "SELECT seq FROM msb_cache.hold WHERE log_id = ?", "b" * 32) == [(0,)]


def test_keys_that_are_numbers(place: Place) -> None:
    with writable(place) as into, into.transaction() as writing:
        writing.insert("told", ("log_id", "seq", "data"), [("x", number, "{}") for number in range(4)])
        writing.delete("told", ("seq",), "x", [(1,), (2**62,)])
        assert writing.rows("SELECT seq FROM msb_cache.told ORDER BY seq") == [(0,), (2,), (3,)]
        assert [*writing.stream("SELECT seq FROM msb_cache.told WHERE seq > ?", (2,))] == [(3,)]


@pytest.mark.parametrize(
    ("table", "columns", "rows"),
    [
        ("going", GOING, [("x", "o", "n", "r"), ("x", "o", "n", "r")]),
        ("going", GOING, [("x", "o", "n", "r"), ("x", "o", "m", None)]),
        ("told", ("log_id", "seq", "data"), [("x", 1, "{}"), ("x", 2**63, "{}")]),
    ],
)
def test_what_cannot_be_kept_is_said_and_nothing_of_it_stays(
    place: Place, table: str, columns: tuple[str, ...], rows: list[tuple[object, ...]]
) -> None:
    with writable(place) as into:
        with pytest.raises(UnkeepableError, match="cannot keep it: "), into.transaction() as writing:
            writing.insert(table, columns, rows)
        with into.transaction() as writing:
            assert writing.rows(f"SELECT * FROM msb_cache.{table}") == []


@pytest.mark.parametrize("text", ["a\0b", "".join(map(chr, range(0x4E00, 0x6E00)))])
def test_what_postgresql_alone_cannot_keep(server: Postgres, text: str) -> None:
    with (
        writable(server) as into,
        pytest.raises(UnkeepableError, match="PostgreSQL cannot keep it: "),
        into.transaction() as writing,
    ):
        writing.insert("going", GOING, [("x", "o", text, "r")])


def test_rows_that_another_has_are_left_out_or_waited_for(server: Postgres) -> None:
    sql = "SELECT t.seq FROM msb_cache.told t WHERE t.log_id = ?"
    with writable(server) as one, writable(server) as other:
        with one.transaction() as writing:
            writing.insert("told", ("log_id", "seq", "data"), [("x", 1, "{}")])
        with one.transaction() as writing:
            assert writing.locked(sql, ("x",), "t") == [(1,)]
            with other.transaction() as second:
                assert second.locked(sql, ("x",), "t") == []
                second.run("SET LOCAL lock_timeout = '50ms'")
                with pytest.raises(Exception, match="lock timeout"):
                    second.locked(sql, ("x",), "t", wait=True)
        with other.transaction() as second:
            assert second.locked(sql, ("x",), "t", wait=True) == [(1,)]


def test_a_server_that_goes_away_passes(server: Postgres, postgres: Server) -> None:
    with writable(server) as into:
        postgres.restart("immediate")
        with pytest.raises(FleetError) as caught, into.transaction() as writing:
            writing.rows("SELECT 1")
    assert caught.value.temporary


def test_a_place_that_is_only_read_is_refused() -> None:
    class Read:
        name = "a picture"

    with pytest.raises(InvalidConfigError, match="a picture cannot be written to"), writable(Read()):  # type: ignore[arg-type]
        pass
