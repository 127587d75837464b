from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from msb_cache.fleet.connect import Postgres
from msb_cache.fleet.place import SCHEMA, FileReading, Reading, marks, within


@pytest.mark.parametrize(
    ("logs", "wanted"),
    [(None, ("true", [])), ([], ("false", [])), (["a", "b"], ("x.log_id IN (?, ?)", ["a", "b"]))],
)
def test_a_question_is_restricted_to_logs(logs: list[str] | None, wanted: tuple[str, list[str]]) -> None:
    assert within("x.log_id", logs) == wanted
    if logs != []:
        assert marks(logs or ["c"]) == ", ".join("?" for _ in logs or ["c"])


def test_a_file_answers_rows_at_once_and_as_they_come() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        reading: Reading = FileReading(connection)
        assert reading.rows("SELECT ? || '%', 1", ("a",)) == [("a%", 1)]
        assert [*reading.stream("SELECT 1 UNION ALL SELECT 2")] == [(1,), (2,)]


def test_texts_are_ordered_byte_by_byte_as_a_host_orders_them(server: Postgres) -> None:
    with server.read() as reading:
        other = reading.rows(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = ? "
            "AND data_type = 'text' AND collation_name IS DISTINCT FROM 'C' AND table_name IN "
            "('events', 'head', 'image', 'hold', 'manifest', 'pin')",
            (SCHEMA,),
        )
    assert other == []
