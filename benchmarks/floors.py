"""What the machine needs for the same work without us: plain ``sqlite3`` and ``os``, nothing of ours.

Each floor reads and writes the same rows and files, on the same file system, with the same pragmas.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

Rows = Sequence[Sequence[Any]]

EVENT_COLUMNS = "seq, id, type, version, subject, operation, occurred_at, recorded_at, actor, data, hash"
HANDLE = (
    "SELECT reference, size_bytes, manifest_digest, architecture, os, layer_count, created_at, last_used_at "
    "FROM image "
)

PRINT_IMAGES = f"""
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
for row in connection.execute({HANDLE + "ORDER BY created_at DESC, seq DESC"!r}):
    print(*row)
"""
"""A whole program that prints the index at the path it is given."""

COMPLETE = """
import sqlite3, sys
import click.shell_completion
connection = sqlite3.connect(f"file:{sys.argv[1]}?immutable=1", uri=True)
between = ("ghcr.io/acme/app-1", "ghcr.io/acme/app-1\\U0010ffff")
for row in connection.execute("SELECT name FROM image WHERE name >= ? AND name < ? LIMIT 200", between):
    print(*row)
"""
"""A whole program that prints references that begin so, as a shell asks for them."""

SQL = "select * from v_images limit 50"
PRINT_SQL = f"""
import sys
import click
from sqlite_utils import Database

for row in Database(sys.argv[1], execute_plugins=False).query({SQL!r}):
    print(*row.values())
"""
"""The same with sqlite-utils, of what a view says of the newest images."""

PRINT_METRICS = """
import sqlite3, sys
import click
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.openmetrics.exposition import generate_latest

connection = sqlite3.connect(sys.argv[1])
families = []
for query in (
    "SELECT 'image', count(*), sum(last_used_at / 1e9) FROM image",
    "SELECT 'manifest', sum(fsmeta_bytes), sum(vmdk_bytes) FROM manifest",
    "SELECT 'layer', count(*), sum(erofs_bytes) FROM layer",
    "SELECT type, count(*), 0 FROM events GROUP BY type",
):
    for name, *numbers in connection.execute(query):
        family = GaugeMetricFamily(name.replace(".", "_"), name, labels=["column"])
        for column, number in enumerate(numbers):
            family.add_metric([str(column)], number or 0)
        families.append(family)

class Collected:
    collect = staticmethod(lambda: families)

print(generate_latest(Collected).decode())
"""
"""A whole program that adds up the tables of the index at the path it is given, and prints metrics."""


def connect(path: str | Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cache_size = -65536")
    return connection


def empty_tables(path: Path, source: str | Path, names: Sequence[str]) -> sqlite3.Connection:
    """A new database with some of the source's tables and their indexes, without its triggers and rows."""
    with_schema = sqlite3.connect(source)
    schema = with_schema.execute(
        f"SELECT sql FROM sqlite_master WHERE tbl_name IN ({', '.join('?' * len(names))}) "
        "AND type IN ('table', 'index') AND sql > '' ORDER BY type DESC",
        names,
    ).fetchall()
    with_schema.close()
    connection = connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    for (statement,) in schema:
        connection.execute(statement)
    return connection


def bare_table(path: str | Path) -> sqlite3.Connection:
    connection = connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE bare (seq INTEGER PRIMARY KEY, data TEXT NOT NULL)")
    return connection


def append_row(connection: sqlite3.Connection, data: str) -> None:
    """One row in one durable transaction."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO bare (data) VALUES (?)", (data,))
    connection.execute("COMMIT")


def insert_rows(connection: sqlite3.Connection, tables: Mapping[str, Rows]) -> None:
    """Many rows in one durable transaction."""
    connection.execute("BEGIN IMMEDIATE")
    for table, rows in tables.items():
        connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
    connection.execute("COMMIT")


def decode_events(connection: sqlite3.Connection, decoders: Mapping[str, Callable[[str], object]]) -> int:
    """SELECT every event and decode its data into its type; nothing is hashed, kept or folded."""
    count = 0
    for row in connection.execute(f"SELECT {EVENT_COLUMNS} FROM events ORDER BY seq"):
        decoders[row[2]](row[9])
        count += 1
    return count


def hash_twice(connection: sqlite3.Connection) -> int:
    """SELECT every event's hash; a leaf and a node of SHA-256 for each, and nothing of a tree."""
    count = 0
    for (stored,) in connection.execute("SELECT hash FROM events ORDER BY seq"):
        leaf = sha256(b"\x00" + stored).digest()
        sha256(b"\x01" + leaf + leaf).digest()
        count += 1
    return count


def select_images(connection: sqlite3.Connection) -> Rows:
    return connection.execute(HANDLE + "ORDER BY created_at DESC, seq DESC").fetchall()


def select_image(connection: sqlite3.Connection, reference: str) -> Sequence[Any]:
    row: Sequence[Any] = connection.execute(HANDLE + "WHERE reference = ?", (reference,)).fetchone()
    return row


def open_and_select_image(path: str | Path, reference: str) -> None:
    connection = connect(path)
    select_image(connection, reference)
    connection.close()


def unlink(paths: Iterable[str]) -> None:
    for path in paths:
        os.unlink(path)


def sizes(folders: Iterable[str]) -> dict[str, int]:
    """What each file in these folders measures, by its name; lock files are left out."""
    found = {}
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.endswith(".lock"):
                    found[entry.name] = entry.stat(follow_symlinks=False).st_size
    return found


def read_tables(path: str | Path, tables: Iterable[str]) -> list[Rows]:
    """Every row of another program's tables, read-only."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return [connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables]
    finally:
        connection.close()
