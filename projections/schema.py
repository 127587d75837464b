"""The projection tables' SQL schema, made of their rows' declarations, and the views of it.

The tables hold nothing that the log does not, so no migration carries them over: where they are of another
fold they are dropped, made anew and filled.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from functools import cache

import msgspec

from msb_cache.projections import views
from msb_cache.projections.rows import ROW_TYPES, Row

_RETIRED: tuple[str, ...] = ()
"""Tables that earlier folds had."""


@cache
def statements(row_type: type[Row]) -> list[str]:
    """Return what makes a row type's table and its indexes."""
    fields = msgspec.inspect.type_info(row_type)
    assert isinstance(fields, msgspec.inspect.StructType)  # noqa: S101
    columns = [f"{field.encode_name} {_declared(field.type)}" for field in fields.fields]
    key = ", ".join(row_type.__struct_fields__[: row_type.key_length])
    made = [f"CREATE TABLE {row_type.table} ({', '.join(columns)}, PRIMARY KEY ({key})) WITHOUT ROWID"]
    for name, on in row_type.indexes.items():
        on, where, condition = on.partition(" WHERE ")
        made.append(f"CREATE INDEX {name} ON {row_type.table} ({on}){where}{condition}")
    return made


def create(connection: sqlite3.Connection) -> None:
    """Make every projection table anew, empty, and the views, within the caller's transaction."""
    for table in (*_RETIRED, *(row_type.table for row_type in ROW_TYPES)):
        connection.execute(f"DROP TABLE IF EXISTS {table}")
    for row_type in ROW_TYPES:
        for statement in statements(row_type):
            connection.execute(statement)
    views.create(connection)


def _declared(column: msgspec.inspect.Type) -> str:
    types: Iterable[msgspec.inspect.Type] = (
        column.types if isinstance(column, msgspec.inspect.UnionType) else (column,)
    )
    names = []
    null = " NOT NULL"
    for each in types:
        if isinstance(each, msgspec.inspect.NoneType):
            null = ""
        else:
            names.append("TEXT" if isinstance(each, msgspec.inspect.StrType) else "INTEGER")
    (name,) = names
    return name + null
