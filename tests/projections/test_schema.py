"""The projection tables in SQL: as their rows declare them, and made anew without a trace of what was."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from msb_cache.projections import schema
from msb_cache.projections.rows import ROW_TYPES, ImageRow


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        schema.create(connection)
        yield connection


def test_tables_have_the_columns_of_their_rows(connection: sqlite3.Connection) -> None:
    for row in ROW_TYPES:
        columns = connection.execute(
            f"SELECT name, type, pk FROM pragma_table_info('{row.table}')"
        ).fetchall()
        assert [name for name, _, _ in columns] == [*row.__struct_fields__]
        assert {kind for _, kind, _ in columns} <= {"TEXT", "INTEGER"}
        assert [name for name, _, key in columns if key] == [*row.__struct_fields__[: row.key_length]]
        indexes = connection.execute(f"SELECT name FROM pragma_index_list('{row.table}')").fetchall()
        assert set(row.indexes) == {name for (name,) in indexes if not name.startswith("sqlite_")}


def test_only_what_may_be_none_may_be_null(connection: sqlite3.Connection) -> None:
    optional = [
        name
        for (name,) in connection.execute("SELECT name FROM pragma_table_info('image') WHERE NOT \"notnull\"")
    ]
    assert optional == [
        "spelling",
        "msb_row",
        "size_bytes",
        "architecture",
        "os",
        "layer_count",
        "in_use_by",
        "in_use_since",
        "idle_since",
        "idle_seq",
    ]
    with pytest.raises(sqlite3.IntegrityError, match=r"NOT NULL.*created_at"):
        connection.execute("INSERT INTO image (name, reference, manifest_digest) VALUES ('r', 'r', 'm')")


def test_made_anew_they_are_empty_whatever_they_were(connection: sqlite3.Connection) -> None:
    connection.execute(f"DROP TABLE {ImageRow.table}")
    connection.execute(f"CREATE TABLE {ImageRow.table} (of_another_fold)")
    connection.execute("INSERT INTO layer VALUES ('d', 1, 1)")
    schema.create(connection)
    for row in ROW_TYPES:
        names = ", ".join(row.__struct_fields__)
        assert connection.execute(f"SELECT {names} FROM {row.table}").fetchall() == []
