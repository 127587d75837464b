"""A PostgreSQL for a module's tests, and a database of its own for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from msb_cache.fleet.admission import init
from msb_cache.fleet.connect import Postgres
from msb_cache.fleet.place import Place
from tests.fleet.filled import Filled, in_file, on_server
from tests.fleet.postgres import PASSWORD, Server
from tests.fleet.randomlogs import new_file


@pytest.fixture(scope="module")
def postgres(postgres_cluster: Server) -> Server:
    """A server without databases and roles of other modules."""
    postgres_cluster.clear()
    return postgres_cluster


@pytest.fixture
def admin(postgres: Server) -> Iterator[str]:
    """The superuser's DSN of an empty database; roles are the server's, and stay."""
    import psycopg

    name = f"db_{os.urandom(4).hex()}"
    with psycopg.connect(postgres.admin, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    yield postgres.dsn("admin", PASSWORD, database=name)
    with psycopg.connect(postgres.admin, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def server(admin: str) -> Postgres:
    """A server with a fleet's tables, as its superuser asks it."""
    init(admin)
    return Postgres(admin)


@pytest.fixture(params=["server", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A server and a file in turn, with a fleet's tables."""
    if request.param == "server":
        found: Place = request.getfixturevalue("server")
        return found
    return new_file(tmp_path / "fleet.db")


@pytest.fixture(scope="module", params=["file", "server"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """A fleet in a file, and one on a server: what is asked has the same answer."""
    if request.param == "file":
        with in_file(tmp_path_factory.mktemp("fleet")) as found:
            yield found
    else:
        with on_server(request.getfixturevalue("postgres")) as found:
            yield found
