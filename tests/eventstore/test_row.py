"""Rows of the log: each column has its type, and no other that SQLite would hold in its place."""

from __future__ import annotations

import pytest

from msb_cache.eventstore.row import COLUMNS, misfit

ROW = (1, "id", "image.used", 1, "subject", "operation", 2, 2, "{}", "{}")


@pytest.mark.parametrize("column", COLUMNS)
def test_a_value_of_another_type_is_named(column: str) -> None:
    assert misfit(ROW) is None
    at = COLUMNS.index(column)
    integer = isinstance(ROW[at], int)
    for value in (None, 1.0, b"x", True, "1" if integer else 1):
        row = (*ROW[:at], value, *ROW[at + 1 :])
        assert misfit(row) == f"its {column} is {'no integer' if integer else 'no text'}"
