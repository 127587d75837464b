"""Which further servers a fleet has."""

from __future__ import annotations

import psycopg
import pytest

from msb_cache.errors import FleetError, ImageNotFoundError, InvalidConfigError
from msb_cache.fleet.admission import init
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


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://user:of-secret@east/fleet",
        "host=east password=of-secret",
        "postgresql://east/fleet?password=of-secret",
        "host=east sslpassword=of-secret",
        "host=east passwd=of-secret",
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
