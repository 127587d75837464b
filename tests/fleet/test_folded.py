"""Rows of one log before the tables of all: as in memory, whatever is asked, and over transactions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple

from msb_cache.fleet import schema
from msb_cache.fleet.folded import FoldedTable, LogRows, Prefix, clear, decoded, encoded, prefix_of
from msb_cache.fleet.place import SCHEMA, Values
from msb_cache.fleet.writing import FileWriting
from msb_cache.projections.rows import (
    ROW_TYPES,
    DeletionOutcomeRow,
    ManifestLayerRow,
    PinRow,
)
from msb_cache.projections.tables import Table

NAMES = ("a", "b", "c")
names, numbers = st.sampled_from(NAMES), st.integers(0, 2)
rows = st.builds(
    ManifestLayerRow, names, numbers, names, st.just("blob"), st.none(), st.integers(0, 9) | st.none()
)
keys = st.tuples(names, numbers)
steps = st.one_of(
    st.tuples(st.just("put"), rows),
    st.tuples(st.sampled_from(["get", "delete", "change"]), keys),
    st.tuples(st.sampled_from(["having", "has"]), names),
    st.tuples(st.just("store"), st.none()),
)


@contextmanager
def writing() -> Iterator[FileWriting]:
    """Give a transaction of a new file in memory."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(f"ATTACH ':memory:' AS {SCHEMA}")
        for statement in (*schema.tables(postgres=False), *schema.read_models(postgres=False)):
            connection.execute(statement)
        yield FileWriting(connection)


def step(table: Table[ManifestLayerRow], what: str, argument: object) -> object:
    match what:
        case "put":
            # A copy: two tables that are compared must not share what changes in place.
            table.put(ManifestLayerRow(*astuple(argument)))  # type: ignore[arg-type]
            return None
        case "store":
            if isinstance(table, FoldedTable):
                table.store()
            return None
        case "change":
            row = table.get(argument)
            if row is not None:
                row.compressed_bytes = (row.compressed_bytes or 0) + 1
                table.changed(argument)
            return row
    return getattr(table, what)(argument)


@given(
    before=st.lists(rows, unique_by=lambda row: (row.manifest_digest, row.position)),
    taken=st.lists(steps, max_size=40),
    whole=st.booleans(),
)
def test_rows_before_a_place_are_as_rows_in_memory(
    before: list[ManifestLayerRow], taken: list[tuple[str, object]], whole: bool
) -> None:
    with writing() as into:
        other = ("of another log", "a", 0, "a", "blob", None, 1)
        into.insert("manifest_layer", ("log_id", *ManifestLayerRow.__struct_fields__), [other])
        memory = Table(ManifestLayerRow, "diff_id")
        first = FoldedTable(ManifestLayerRow, "diff_id", LogRows("mine", into), is_new=True, whole=whole)
        for row in before:
            step(memory, "put", row)
            step(first, "put", row)
        first.store()
        folding = first
        if len(before) % 2:  # a worker goes on, or another begins
            folding = FoldedTable(
                ManifestLayerRow, "diff_id", LogRows("mine", into), is_new=False, whole=whole
            )
        for what, argument in taken:
            assert step(folding, what, argument) == step(memory, what, argument), (what, argument)
        folding.store()
        found = into.rows("SELECT * FROM msb_cache.manifest_layer ORDER BY log_id, manifest_digest, position")
        expected = [("mine", *astuple(memory.rows[key])) for key in sorted(memory.rows)]
        assert found == [*expected, other]


@given(
    times=st.dictionaries(names, st.integers(0, 9)),
    changed=st.dictionaries(names, st.integers(0, 9)),
    whole=st.booleans(),
    limit=st.integers(0, 9),
)
def test_rows_of_a_later_time_are_stored_ones_and_changed_ones(
    times: dict[str, int], changed: dict[str, int], whole: bool, limit: int
) -> None:
    with writing() as into:
        into.insert(
            "pin",
            ("log_id", *PinRow.__struct_fields__),
            [("mine", name, None, since, None, 1) for name, since in times.items()],
        )
        table = FoldedTable(PinRow, None, LogRows("mine", into), is_new=False, whole=whole)
        for name, since in changed.items():
            table.put(PinRow(name, None, since, None, 2))
        expected = {name for name, since in {**times, **changed}.items() if since > limit}
        assert {row.subject for row in table.later("since", limit)} == expected
        assert table.empty is not bool(times or changed)


def test_what_is_written_once_does_not_stay_in_memory() -> None:
    with writing() as into:
        table = FoldedTable(DeletionOutcomeRow, None, LogRows("mine", into), is_new=True, whole=True)
        for number in range(3):
            table.put(DeletionOutcomeRow("operation", "layer", str(number), "deleted"))
            table.store()
            assert not table.rows
        assert len(into.rows("SELECT * FROM msb_cache.deletion_outcome")) == 3
        clear(into, "another")
        assert len(into.rows("SELECT * FROM msb_cache.deletion_outcome")) == 3
        clear(into, "mine")
        assert into.rows("SELECT * FROM msb_cache.deletion_outcome") == []


@given(
    st.lists(rows, unique_by=lambda row: (row.manifest_digest, row.position)),
    st.none() | st.text(),
    st.none() | st.binary(),
)
def test_the_beginning_of_a_log_is_the_same_bytes_for_the_same_rows(
    layers: list[ManifestLayerRow], host: str | None, tree: bytes | None
) -> None:
    found: list[Values] = [astuple(row) for row in layers]

    def of(row_type: type, order: int) -> list[Values]:
        return found[::order] if row_type is ManifestLayerRow else []

    prefix = prefix_of(lambda row_type: of(row_type, 1), host, tree)
    data = encoded(prefix)
    assert data == encoded(prefix_of(lambda row_type: of(row_type, -1), host, tree))
    again = decoded(data)
    assert (again.host, again.tree) == (host, tree)
    assert again.tables["manifest_layer"] == sorted(found, key=lambda row: row[:2])
    assert {*again.tables} == {row_type.table for row_type in ROW_TYPES}


def test_what_is_no_beginning_is_refused() -> None:
    for data in (
        b"",
        b"\xc1",
        msgspec.msgpack.encode({"tables": {"image": [[1.5]]}}),
        encoded(Prefix({}))[:-1],
    ):
        with pytest.raises(msgspec.MsgspecError):
            decoded(data)
