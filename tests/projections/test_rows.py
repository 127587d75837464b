"""Rows as they are declared: keys, indexes and questions are about fields that they have."""

from __future__ import annotations

import pytest

from msb_cache.projections.rows import ROW_TYPES, Row


def test_each_has_a_table_of_its_own() -> None:
    assert len({row.table for row in ROW_TYPES}) == len(ROW_TYPES)
    names = [name for row in ROW_TYPES for name in row.indexes]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("row", ROW_TYPES, ids=lambda row: row.table)
def test_it_declares_only_what_it_has(row: type[Row]) -> None:
    fields = row.__struct_fields__
    assert 0 < row.key_length < len(fields)
    assert row.asked_by is None or row.asked_by in fields
    for on in row.indexes.values():
        columns = on.partition(" WHERE ")[0].replace(" DESC", "").split(", ")
        assert set(columns) <= set(fields)
    assert row.only_grows or not row.insert_only  # the past could not take such a row out again
