from __future__ import annotations

import sqlite3
from contextlib import closing

from msb_cache.fleet import schema
from msb_cache.fleet.connect import Postgres, connected
from msb_cache.fleet.place import SCHEMA
from msb_cache.projections.rows import ROW_TYPES


def test_both_places_have_the_same_columns_in_the_same_order(server: Postgres) -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as file, connected(server.dsn) as there:
        file.execute(f"ATTACH ':memory:' AS {SCHEMA}")
        for statement in (*schema.tables(postgres=False), *schema.read_models(postgres=False)):
            file.execute(statement)
        for table in ("events", *schema.TABLES, *(row_type.table for row_type in ROW_TYPES)):
            here = [(row[1], row[2].lower()) for row in file.execute(f"PRAGMA {SCHEMA}.table_info({table})")]
            found = there.execute(
                "SELECT column_name, data_type FROM information_schema.columns "
                "WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
                (SCHEMA, table),
            ).fetchall()
            assert [(name, {"bytea": "blob"}.get(kind, kind)) for name, kind in found] == here, table


def test_a_row_of_a_read_model_is_a_host_s_row_behind_its_log() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as file:
        file.execute(f"ATTACH ':memory:' AS {SCHEMA}")
        for statement in schema.read_models(postgres=False):
            file.execute(statement)
        for row_type in ROW_TYPES:
            info = file.execute(f"PRAGMA {SCHEMA}.table_info({row_type.table})").fetchall()
            assert [row[1] for row in info] == ["log_id", *row_type.__struct_fields__]
            keys = [row[1] for row in sorted(info, key=lambda row: row[5]) if row[5]]
            assert keys == ["log_id", *row_type.__struct_fields__[: row_type.key_length]]
        for statement in schema.dropped():
            file.execute(statement)
        assert file.execute(f"SELECT count(*) FROM {SCHEMA}.sqlite_master").fetchone() == (0,)


def test_each_partition_keeps_few_statistics(server: Postgres) -> None:
    with connected(server.dsn) as connection:
        found = connection.execute(
            "SELECT i.inhrelid::regclass::text, json_object_agg(a.attname, a.attstattarget) "
            "FROM pg_inherits i JOIN pg_attribute a ON a.attrelid = i.inhrelid AND a.attnum > 0 "
            "WHERE i.inhparent = 'msb_cache.events'::regclass AND a.attstattarget >= 0 GROUP BY 1"
        ).fetchall()
    assert len(found) == schema.PARTITIONS
    assert {*schema.STATISTICS} < {*schema.EVENT_COLUMNS}
    assert [kept for _, kept in found] == [schema.STATISTICS] * schema.PARTITIONS
