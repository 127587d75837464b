"""Which further servers a fleet has."""

from __future__ import annotations

import psycopg
import pytest

from msb_cache.errors import FleetError, ImageNotFoundError, InvalidConfigError
from msb_cache.fleet.admission import init
from msb_cache.fleet.enrolment import enrol
from msb_cache.fleet.servers import add_server, remove_server, servers


def test_added_changed_and_removed(admin):
    with pytest.raises(FleetError, match="msb-cache fleet init"):
        servers(admin)
    init(admin)
    assert servers(admin) == []
    first = add_server(admin, "west", "host=west dbname=fleet")
    add_server(admin, "east", "postgresql://east.example/fleet")
    again = add_server(admin, "west", "service=west")
    assert again.added_at_ns == first.added_at_ns
    assert [(each.name, each.dsn, each.logs) for each in servers(admin)] == [
        ("east", "postgresql://east.example/fleet", 0),
        ("west", "service=west", 0),
    ]
    assert remove_server(admin, "west").name == "west"
    with pytest.raises(ImageNotFoundError, match="no server 'west'"):
        remove_server(admin, "west")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("INSERT INTO msb_cache.directory VALUES ('x', 'east')")
    with pytest.raises(FleetError, match=r"has 1 log on east, .* --add east DSN"):
        remove_server(admin, "east")
    assert [each.logs for each in servers(admin)] == [1]
    assert remove_server(admin, "east", force=True).logs == 1
    assert servers(admin) == []
    assert add_server(admin, "east", "host=east").logs == 0  # the directory has forgotten them


def test_who_asks_may_list_them_and_change_none(admin):
    init(admin)
    add_server(admin, "west", "host=west dbname=fleet")
    for kind in ("reader", "folder"):
        made = enrol(admin, f"lists-{kind}", kind=kind, password="its own")
        dsn = f"{made.dsn} password='its own'"
        assert servers(dsn) == servers(admin)
        with pytest.raises(FleetError, match="may not change this fleet"):
            add_server(dsn, "east", "host=east")
        with pytest.raises(FleetError, match="may not change this fleet"):
            remove_server(dsn, "west")
    made = enrol(admin, "lists-none", password="its own")
    with pytest.raises(FleetError, match="permission denied"):
        servers(f"{made.dsn} password='its own'")
    assert [each.name for each in servers(admin)] == ["west"]


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://user:of-secret@east/fleet",
        "host=east password=of-secret",
        "postgresql://east/fleet?password=of-secret",
        "host=east sslpassword=of-secret",
        "host=east passwd=of-secret",
        "host=east oauth_client_secret=of-secret",  # of a libpq that has them; another one refuses the DSN
        "host=east scram_client_key=of-secret",
    ],
)
def test_no_password_is_kept(dsn):
    with pytest.raises(InvalidConfigError) as caught:
        add_server("host=nowhere", "east", dsn)
    assert "of-secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["main", "", "A", "a b", "x" * 64, "a\n"])
def test_names(name):
    with pytest.raises(InvalidConfigError, match="no name for a server"):
        add_server("host=nowhere", name, "host=x")
