"""The sql command: what a person and a program get of a query, and how it ends."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msb_cache.cli import sql
from msb_cache.projections.views import VIEWS
from tests.cli.support import FAILED, PROGRAM, USAGE, Call, on_terminal

ODD = "SELECT 'a,\"b\"\n' AS t, x'00ff' AS b, NULL AS n, 9e999 AS f, 1.5 AS r, 7 AS i"


def test_a_table_for_people(home: Path, call: Call) -> None:
    done = call("sql", "SELECT image, size_bytes, in_use, idle_since, NULL AS n FROM v_images ORDER BY image")
    header, *rows = done.out.splitlines()
    assert header.split() == ["image", "size_bytes", "in_use", "idle_since", "n"]
    assert [row.split()[0] for row in rows] == ["app:1", "app:latest", "example.org/team/tool:2"]
    assert all(row.endswith("Z   -") for row in rows)
    assert done.code == 0


def test_every_format_for_programs(home: Path, call: Call) -> None:
    wanted = {"t": 'a,"b"\n', "b": "00ff", "n": None, "f": None, "r": 1.5, "i": 7}
    assert json.loads(call("sql", ODD, "--format", "json").out) == [wanted]
    assert [json.loads(line) for line in call("sql", ODD, "--format", "jsonl").out.splitlines()] == [wanted]
    (row,) = csv.DictReader(io.StringIO(call("sql", ODD, "--format", "csv").out, newline=""))
    assert row == {"t": 'a,"b"\n', "b": "00ff", "n": "", "f": "", "r": "1.5", "i": "7"}


def test_without_rows(home: Path, call: Call) -> None:
    query = "SELECT * FROM v_images WHERE 0"
    assert call("sql", query).err == "No rows.\n"
    assert json.loads(call("sql", query, "--format", "json").out) == []
    for format_ in ("jsonl", "csv", "table"):
        assert call("sql", query, "--format", format_).out == ""


def test_without_a_query_it_lists_what_there_is_to_ask(home: Path, call: Call) -> None:
    rows = json.loads(call("sql", "--format", "json").out)
    assert [(row["view"], row["column"]) for row in rows] == [
        (view.name, column.name) for view in VIEWS for column in view.columns
    ]
    assert all(row["meaning"] for row in rows)


def test_values_come_by_name(home: Path, call: Call) -> None:
    query = "SELECT image FROM v_images WHERE image = :name AND size_bytes > :least"
    done = call("sql", query, "-p", "name", "app:1", "-p", ":least", "5", "--format", "csv")
    assert done.out == "image\napp:1\n"
    done = call("sql", "SELECT typeof(:a) AS a, typeof(:b) AS b", "-p", "a", "-5", "-p", "b", "007")
    assert done.out.split()[-2:] == ["integer", "text"]


@given(st.integers(-(2**70), 2**70) | st.text(max_size=5))
def test_only_what_is_written_as_a_number_is_one(value: int | str) -> None:
    found = sql._value(str(value))
    assert str(found) == str(value)  # so that text that is compared with it is the same
    if isinstance(value, int):
        assert isinstance(found, int) == (abs(value) < 10**18)


def test_a_query_from_standard_input(home: Path) -> None:
    command = [PROGRAM, "sql", "-", "--format", "csv"]
    done = subprocess.run(command, input=b"SELECT count(*) AS n\nFROM v_images", capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"n\n3\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["selct 1"], USAGE, 'near "selct": syntax error'),
        (["DELETE FROM events"], USAGE, "only reads"),
        (["SELECT * FROM image", "--timeout", "soon"], USAGE, "soon"),
        (
            [
                "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c",
                "--timeout",
                "1 second",
            ],
            FAILED,
            "stopped after 1 s",
        ),
    ],
)
def test_how_it_ends(arguments: list[str], code: int, said: str, home: Path, call: Call) -> None:
    done = call("sql", *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert done.err.count("\n") == 1


def test_a_terminal_gets_no_escapes_of_a_database(home: Path) -> None:
    for format_ in ("table", "json", "jsonl", "csv"):
        found = on_terminal(["sql", "SELECT 'a' || char(27) || '[2J' AS t", "--format", format_])
        assert "\x1b[2J" not in str(found)
        assert "[2J" in str(found)
