"""Fleets for tests of what is asked: hosts' real logs, taken into a file, or sent to a server and folded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from msb_cache.fleet.admission import init
from msb_cache.fleet.enrolment import enrol
from msb_cache.fleet.fleet import Fleet
from tests.fleet.postgres import PASSWORD, VERIFIER, Server
from tests.fleet.sent import log_of, send


class Filled:
    """A fleet that takes homes' logs, as often as it is told to.

    Attributes:
        options: what its class, or its command, is told to find it.
    """

    def __init__(self, options: dict[str, str], *, sender: str = "", folder: str = "") -> None:
        self.options = options
        self.sender, self._folder = sender, folder
        self._sent: dict[str, int] = {}

    def fleet(self, **more: object) -> Fleet:
        return Fleet(**self.options, **more)  # type: ignore[arg-type]

    def add(self, home: Path) -> str:
        """Take what is new in a home's log; return the log's id."""
        log_id = self.send(home)
        self.fold()
        return log_id

    def send(self, home: Path, until: int | None = None) -> str:
        """Send what is new, up to a position; in a file it is folded by the way."""
        rows = log_of(home)
        log_id = str(rows[0][0])
        if "db" in self.options:
            [*_] = self.fleet().take([home / "db" / "msb-cache.db"])
        else:
            sent = self._sent.get(log_id, 0)
            new = rows[max(sent - 1, 0) : until]
            assert send(self.sender, new, log_id=log_id).verdict == "accepted"
            self._sent[log_id] = new[-1][1]
        return log_id

    def fold(self) -> None:
        if self._folder:
            Fleet(self._folder).fold()


@contextmanager
def in_file(folder: Path) -> Iterator[Filled]:
    """A fleet in a file."""
    yield Filled({"db": str(folder / "fleet.db")})


@contextmanager
def on_server(server: Server) -> Iterator[Filled]:
    """A fleet in a database of its own, which is sent to, folded and asked by three roles."""
    name = f"db_{os.urandom(4).hex()}"
    with psycopg.connect(server.admin, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[call-overload]
    admin = server.dsn("admin", PASSWORD, database=name)
    init(admin)
    enrol(admin, f"h-{name}", 10_000, password=PASSWORD)
    enrol(admin, f"f-{name}", kind="folder", password=PASSWORD)
    enrol(admin, f"r-{name}", kind="reader", password=PASSWORD)
    with psycopg.connect(server.admin, autocommit=True) as connection:
        for kind in "hfr":
            connection.execute(f"ALTER ROLE \"{kind}-{name}\" PASSWORD '{VERIFIER}'")  # type: ignore[call-overload]
    dsn = {each: server.dsn(f"{each}-{name}", database=name) for each in "hfr"}
    try:
        yield Filled({"dsn": dsn["r"]}, sender=dsn["h"], folder=dsn["f"])
    finally:
        with psycopg.connect(server.admin, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')  # type: ignore[call-overload]
