"""A fleet in a PostgreSQL of its own: what ships into it, and what is asked of it when it is large."""

from __future__ import annotations

import itertools
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import homes
import psycopg
from setting import ROOT, Setting
from table import Measured, measured
from timing import Run, timed, turns

from msb_cache import Fleet, ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore.chain import link, raw_rows
from msb_cache.eventstore.row import COLUMNS, GENESIS
from msb_cache.fleet import admission
from msb_cache.fleet.enrolment import enrol
from msb_cache.projections.rows import ROW_TYPES

sys.path.append(str(ROOT))
from tests.fleet.postgres import Server, programs, running

AVAILABLE = programs() is not None
_HOSTS_WITH_ONE = 40
"""On so many hosts is one image, at most."""
_BATCH = 5000
_PASSWORD = "of-the-host"
_GROUPED = frozenset({"subject", "reference", "name"})


@contextmanager
def database(server: Server, name: str) -> Iterator[tuple[str, str]]:
    """A fleet in a database of its own: its administrator's DSN, and that of a host's role."""
    with psycopg.connect(server.admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    dsn = server.dsn("admin", database=name)
    admission.init(dsn)
    enrol(dsn, f"host-{name}", password=_PASSWORD)
    yield dsn, server.dsn(f"host-{name}", _PASSWORD, database=name)
    with psycopg.connect(server.admin, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def ingest(setting: Setting, *, images: int = 1000, uses: int = 49, rounds: int = 5) -> Measured:
    """A log shipped, against a bare COPY of its rows into the same table with a check in this process."""
    numbers = itertools.count()
    with setting.home(images, uses=uses) as home, running(durable=True) as server, ImageCache(home) as cache:
        [last] = cache.events(reverse=True, limit=1)

        def into(work: Callable[[str, str], object]) -> Run:
            with database(server, f"of{next(numbers)}") as (admin, host):
                run = timed(lambda: work(admin, host))()
                with psycopg.connect(admin) as connection:
                    found = connection.execute("SELECT count(*) FROM msb_cache.events").fetchone()
                assert found == (last.seq,)
            return run

        runs = turns(
            {
                "ours": lambda: into(lambda _, host: cache.ship(host)),
                "floor": lambda: into(lambda admin, _: _copied(home, admin)),
            },
            rounds,
        )
    return measured(f"ship {last.seq:,} events / COPY them, checked by the client", runs, 2.0)


def _copied(home: Path, dsn: str) -> None:
    names = ", ".join(("log_id", *COLUMNS, "hash"))
    previous = GENESIS
    with closing(sqlite3.connect(Layout(home).database)) as database, psycopg.connect(dsn) as connection:
        rows = raw_rows(database)
        while batch := [*itertools.islice(rows, _BATCH)]:
            statement = f"COPY msb_cache.events ({names}) FROM STDIN".encode()
            with connection.cursor().copy(statement) as copy:
                for row, stored in batch:
                    assert link(previous, row) == stored
                    previous = stored
                    copy.write_row(("0" * 32, *row, stored))
            connection.commit()


@contextmanager
def _large(setting: Setting, logs: int, images: int, uses: int) -> Iterator[tuple[str, int]]:
    """A fleet of hosts whose logs are copies of one, with images of another name for each forty."""
    with (
        setting.home(images, uses=uses) as home,
        running() as server,
        ImageCache(home) as cache,
        database(server, "large") as (admin, host),
    ):
        cache.ship(host)
        Fleet(admin).fold()
        with psycopg.connect(admin, autocommit=True) as connection:
            multiply(connection, logs)
            (events,) = connection.execute("SELECT count(*) FROM msb_cache.events").fetchone() or (0,)
        yield admin, events


def multiply(connection: psycopg.Connection[tuple[int, ...]], logs: int) -> None:
    (first,) = connection.execute("SELECT log_id FROM msb_cache.head").fetchone() or (0,)
    groups = max(1, logs // _HOSTS_WITH_ONE)
    for table in ("events", "told", "head", "fold_state", *(row_type.table for row_type in ROW_TYPES)):
        found = connection.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = 'msb_cache' "
            "AND table_name = %s ORDER BY ordinal_position",
            (table,),
        )
        columns = [str(name) for (name,) in found]
        for number in range(1, logs):
            values = ", ".join(_value(name, number, number % groups) for name in columns)
            statement = (
                f"INSERT INTO msb_cache.{table} ({', '.join(columns)}) "
                f"SELECT {values} FROM msb_cache.{table} WHERE log_id = %s"
            )
            connection.execute(statement.encode(), (f"{number:032x}", first))
    connection.execute("VACUUM ANALYZE")


def _value(column: str, number: int, group: int) -> str:
    if column == "log_id":
        return "%s"
    if column == "recorded_at":  # no two hosts record at the same time
        return f"{column} + {number}"
    return f"replace({column}, '/acme/', '/acme{group}/')" if column in _GROUPED else column


def last_used(
    setting: Setting, *, logs: int = 200, images: int = 1000, uses: int = 48, rounds: int = 30
) -> Measured:
    """Where an image was last used across a fleet, against a statement on a connection made for it."""
    return _asked(setting, "last-used", Fleet.last_used, logs, images, uses, rounds)


def history(
    setting: Setting, *, logs: int = 200, images: int = 1000, uses: int = 48, rounds: int = 30
) -> Measured:
    """The newest 50 events of an image across a fleet, against the same."""

    def ask(fleet: Fleet, reference: str) -> object:
        return fleet.history(reference, limit=50)

    return _asked(setting, "history -n 50", ask, logs, images, uses, rounds)


def _asked(
    setting: Setting,
    what: str,
    ask: Callable[[Fleet, str], object],
    logs: int,
    images: int,
    uses: int,
    rounds: int,
) -> Measured:
    with _large(setting, logs, images, uses) as (dsn, events), Fleet(dsn) as fleet:
        reference = homes.reference(7).replace("/acme/", "/acme0/" if logs > 1 else "/acme/")
        assert ask(fleet, reference)
        floor = timed(lambda: connected(dsn))
        runs = turns({"ours": timed(lambda: ask(fleet, reference)), "floor": floor}, rounds)
    return measured(f"fleet {what}, {events:,} events / to connect and ask for heads", runs, 3.0)


def connected(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT * FROM msb_cache.head ORDER BY log_id LIMIT 40").fetchall()
