"""Where a fold keeps its rows: those before SQL tables are as those in memory, and comparing misses none."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple

from msb_cache.projections import live
from msb_cache.projections.rows import ManifestLayerRow
from msb_cache.projections.tables import StoredTable, Table, stored_rows
from tests.logs import PYTHON, new_ledger, some_events

SCHEMA = """
CREATE TABLE manifest_layer (manifest_digest TEXT, position INTEGER, diff_id TEXT, blob_digest TEXT,
media_type TEXT, compressed_bytes INTEGER, PRIMARY KEY (manifest_digest, position)) WITHOUT ROWID
"""

keys = st.tuples(st.sampled_from("MN"), st.integers(0, 1))
layers = st.sampled_from("xyz")
rows = st.builds(lambda key, diff_id: ManifestLayerRow(*key, diff_id, "blob", "tar", 5), keys, layers)
steps = st.one_of(
    st.tuples(st.just("put"), rows),
    st.tuples(st.sampled_from(["get", "delete", "change"]), keys),
    st.tuples(st.sampled_from(["has", "having"]), layers),
)


def step(table: Table[ManifestLayerRow], what: str, argument: object) -> object:
    if what == "put":
        # A copy: two tables that are compared must not share what changes in place.
        return table.put(ManifestLayerRow(*astuple(argument)))
    if what == "change":
        row = table.get(argument)
        if row is not None:
            row.compressed_bytes += 1
            table.changed(argument)
        return row
    return getattr(table, what)(argument)


@given(
    st.lists(rows, unique_by=lambda row: (row.manifest_digest, row.position)), st.lists(steps, max_size=30)
)
def test_rows_before_sql_are_as_rows_in_memory(
    before: list[ManifestLayerRow], taken: list[tuple[str, object]]
) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute(SCHEMA)
    memory = Table(ManifestLayerRow, "diff_id")
    for row in before:
        memory.put(ManifestLayerRow(*astuple(row)))
    memory.write(connection)
    stored = StoredTable(ManifestLayerRow, "diff_id", connection)
    for what, argument in taken:
        assert step(stored, what, argument) == step(memory, what, argument), (what, argument)
    stored.write(connection)
    assert {row[:2]: row for row in stored_rows(connection, ManifestLayerRow)} == {
        key: astuple(row) for key, row in memory.rows.items()
    }
    connection.close()


def test_a_row_under_another_key_is_two_differences(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events()[:2])
    with ledger.read() as connection:
        assert connection is not None
        fold = live.fold_until(ledger.store(connection))
    changed = sqlite3.connect(ledger.layout.database)
    changed.execute("UPDATE image SET name = 'docker.io/library/other:1'")
    found = live.compare(changed, fold)
    changed.close()
    other = ("docker.io/library/other:1",)
    assert [(each.key, each.live is None, each.folded is None) for each in found] == [
        (other, False, True),
        ((PYTHON,), True, False),
    ]
