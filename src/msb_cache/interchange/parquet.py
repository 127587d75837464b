"""Events as a Parquet file, written by DuckDB: the extra ``parquet``.

Rows go into a file of lines in a folder of their own first, so that a long log needs disk and no memory; a
Parquet file says at its end what is in it, and so cannot be written as events come.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from msb_cache.eventstore.store import StoredEvent
from msb_cache.extras import require
from msb_cache.interchange.columns import COLUMNS, row_of
from msb_cache.interchange.privacy import Privacy

if TYPE_CHECKING:
    import duckdb

_MEMORY = "512MB"
_READ = {"integer": "BIGINT", "text": "VARCHAR", "time": "BIGINT"}
_LONGEST_LINE = 64 * 1024 * 1024
"""Bytes of a row as JSON: the 4 MiB that an event's data may have, with room for text within text."""
_ROWS_TOGETHER = 20_000
"""Rows of a group, which DuckDB keeps in memory while it writes them."""


def check_installed() -> None:
    """Refuse where DuckDB is not there.

    Raises:
        UnsupportedError: it is not installed.
    """
    require("parquet", "Parquet", "duckdb")


def write(events: Iterable[StoredEvent], privacy: Privacy, out: BinaryIO) -> None:
    """Write events as a Parquet file, compressed with zstd.

    Times are ``TIMESTAMP_NS`` in UTC, and beside that, as ``occurred_at_ns`` and ``recorded_at_ns``, ns since
    the epoch for programs that know none of so many digits.

    Raises:
        UnsupportedError: DuckDB is not installed.
    """
    check_installed()
    with TemporaryDirectory(prefix=".msb-cache-parquet-", dir=_beside(out)) as folder:
        path = os.path.join(folder, "events.parquet")
        lines = os.path.join(folder, "events.jsonl")
        _spool(events, privacy, lines)
        convert(_select(lines), path)
        with open(path, "rb") as made:
            shutil.copyfileobj(made, out, 1024 * 1024)


def convert(query: str, path: str) -> None:
    """Write what a query of DuckDB's gives as a Parquet file, compressed with zstd.

    What does not fit into memory is spilled into the file's folder.
    """
    with database(os.path.dirname(path)) as duck:
        duck.execute(
            f"COPY ({query}) TO {quoted(path)} "
            f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_ROWS_TOGETHER})"
        )


@contextmanager
def database(folder: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open DuckDB without a file of its own; it spills into the folder what does not fit into memory."""
    import duckdb

    # What it could fetch from elsewhere it need not: Parquet is built in.
    settings: dict[str, Any] = {
        "memory_limit": _MEMORY,
        "temp_directory": os.path.join(folder, "spilled"),
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    with duckdb.connect(config=settings) as connection:
        yield connection


def _beside(out: BinaryIO) -> str | None:
    """Return the folder of the file that is written: it has room for it. None: it is none with a name."""
    name = getattr(out, "name", None)
    return os.path.dirname(os.path.abspath(name)) if isinstance(name, str) and os.path.isfile(name) else None


def _spool(events: Iterable[StoredEvent], privacy: Privacy, path: str) -> None:
    """Write rows as lines of JSON: DuckDB reads a file ten times as fast as values given to it."""
    encode = msgspec.json.Encoder().encode
    with open(path, "wb") as out:  # in a folder that nobody else can enter
        for event in events:
            out.write(encode(dict(zip(COLUMNS, row_of(event, privacy), strict=True))))
            out.write(b"\n")


def _select(path: str) -> str:
    """Return the query that gives the rows of a file of lines with their types."""
    read = ", ".join(f"'{name}': '{_READ[kind]}'" for name, kind in COLUMNS.items())
    columns = [
        f'make_timestamp_ns("{name}") AS "{name}"' if kind == "time" else f'"{name}"'
        for name, kind in COLUMNS.items()
    ]
    columns += [f'"{name}" AS "{name}_ns"' for name, kind in COLUMNS.items() if kind == "time"]
    return f"SELECT {', '.join(columns)} FROM {from_lines(path, read)} ORDER BY seq"  # noqa: S608


def from_lines(path: str, columns: str) -> str:
    """Return how a query reads a file of lines of JSON, with the columns ``'name': 'TYPE', …``."""
    return (
        f"read_json({quoted(path)}, format='newline_delimited', columns={{{columns}}}, "
        f"maximum_object_size={_LONGEST_LINE})"
    )


def quoted(path: str) -> str:
    """Return a path as a text of a query."""
    return "'" + path.replace("'", "''") + "'"
