"""Events as a Parquet file, written by DuckDB: the extra ``parquet``.

Rows go into a database of DuckDB's in a folder of their own first, so that a long log needs disk and no
memory; a Parquet file says at its end what is in it, and so cannot be written as events come.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO

from msb_cache.errors import UnsupportedError
from msb_cache.eventstore.store import StoredEvent
from msb_cache.interchange.columns import COLUMNS, Value, row_of
from msb_cache.interchange.privacy import Privacy
from msb_cache.shapes import rfc3339

if TYPE_CHECKING:
    import duckdb

_AT_ONCE = 5_000
_AT_ONCE_BYTES = 16 * 1024 * 1024
_MEMORY = "512MB"
_TYPES = {"integer": "BIGINT", "text": "VARCHAR", "time": "TIMESTAMP_NS"}
_ROWS_TOGETHER = 20_000
"""Rows of a group, which DuckDB keeps in memory while it writes them."""


def check_installed() -> None:
    """Refuse where DuckDB is not there.

    Raises:
        UnsupportedError: it is not installed.
    """
    _duckdb()


def write(events: Iterable[StoredEvent], privacy: Privacy, out: BinaryIO) -> None:
    """Write events as a Parquet file, compressed with zstd.

    Times are ``TIMESTAMP_NS`` in UTC, and beside that, as ``occurred_at_ns`` and ``recorded_at_ns``, ns since
    the epoch for programs that know none of so many digits.

    Raises:
        UnsupportedError: DuckDB is not installed.
    """
    duckdb = _duckdb()
    with TemporaryDirectory(prefix=".msb-cache-parquet-", dir=_beside(out)) as folder:
        # What it could fetch from elsewhere it need not: Parquet is built in.
        settings: dict[str, Any] = {
            "memory_limit": _MEMORY,
            "temp_directory": os.path.join(folder, "spilled"),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        path = os.path.join(folder, "events.parquet")
        with duckdb.connect(os.path.join(folder, "events.duckdb"), config=settings) as database:
            _fill(database, events, privacy)
            database.execute(
                f"COPY events TO {_text(path)} "
                f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_ROWS_TOGETHER})"
            )
        with open(path, "rb") as made:
            shutil.copyfileobj(made, out, 1024 * 1024)


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError:
        raise UnsupportedError(
            "Parquet files are written by DuckDB, which is not installed; `pip install 'msb-cache[parquet]'`"
        ) from None
    return duckdb


def _beside(out: BinaryIO) -> str | None:
    """Return the folder of the file that is written: it has room for it. None: it is none with a name."""
    name = getattr(out, "name", None)
    return os.path.dirname(os.path.abspath(name)) if isinstance(name, str) and os.path.isfile(name) else None


def _fill(database: duckdb.DuckDBPyConnection, events: Iterable[StoredEvent], privacy: Privacy) -> None:
    columns = [f'"{name}" {_TYPES[kind]}' for name, kind in COLUMNS.items()]
    values = [f"unnest(?::VARCHAR[])::{_TYPES[kind]}" for kind in COLUMNS.values()]
    for name, kind in COLUMNS.items():
        if kind == "time":
            columns.append(f'"{name}_ns" BIGINT')
            values.append("unnest(?::BIGINT[])")
    database.execute(f"CREATE TABLE events ({', '.join(columns)})")
    insert = f"INSERT INTO events SELECT {', '.join(values)}"
    for rows in _together(row_of(event, privacy) for event in events):
        database.execute(insert, _by_column(rows))


def _together(rows: Iterator[tuple[Value, ...]]) -> Iterator[list[tuple[Value, ...]]]:
    """Yield rows by thousands, and fewer of large ones."""
    data = [*COLUMNS].index("data")
    while some := [*islice(rows, 1)]:
        length = len(str(some[0][data]))
        for row in rows:
            some.append(row)
            length += len(str(row[data]))
            if len(some) >= _AT_ONCE or length >= _AT_ONCE_BYTES:
                break
        yield some


def _by_column(rows: list[tuple[Value, ...]]) -> list[list[Any]]:
    columns: list[list[Any]] = [[*column] for column in zip(*rows, strict=True)]
    times = [number for number, kind in enumerate(COLUMNS.values()) if kind == "time"]
    exact = [columns[number] for number in times]
    for number in times:
        # Without the offset, which the type has no place for: it is UTC.
        columns[number] = [(rfc3339(ns) or "")[:-6] for ns in columns[number]]
    return columns + exact


def _text(path: str) -> str:
    return "'" + path.replace("'", "''") + "'"
