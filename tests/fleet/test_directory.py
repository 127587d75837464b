"""Which log is on which server: kept on the first one. Files stand for servers here."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from msb_cache.fleet.directory import keep, kept
from msb_cache.fleet.file import FleetFile

Known = list[tuple[str, str]]


def place(folder: Path, name: str, *logs: str) -> FleetFile:
    """A place that has these logs."""
    file = FleetFile(str(folder / f"{name}.db"))
    with file.write(make=True) as connection:
        connection.execute("DELETE FROM msb_cache.head")
        connection.executemany(
            "INSERT INTO msb_cache.head VALUES "
            "(?, 'ci', 1, zeroblob(32), 0, 0, 0, 1, NULL, NULL, NULL, NULL)",
            [(log,) for log in logs],
        )
    file.name = name
    return file


def directory(first: FleetFile) -> Known:
    with first.read() as reading:
        return [(log, name) for log, name in reading.rows("SELECT * FROM msb_cache.directory ORDER BY 1")]


def test_it_says_what_the_others_have(tmp_path: Path) -> None:
    said: list[str] = []
    first = place(tmp_path, "main", "a")
    keep([first, place(tmp_path, "east", "b", "c"), place(tmp_path, "west", "d")], said.append)
    assert directory(first) == [("b", "east"), ("c", "east"), ("d", "west")]
    keep([first, place(tmp_path, "east", "b"), place(tmp_path, "west", "c", "d")], said.append)  # c was moved
    assert (directory(first), said) == ([("b", "east"), ("c", "west"), ("d", "west")], [])


def test_one_server_needs_none(tmp_path: Path) -> None:
    first = place(tmp_path, "main", "a")
    before = Path(first.path).read_bytes()
    keep([first], pytest.fail)
    with kept([first], pytest.fail):
        pass
    assert Path(first.path).read_bytes() == before


def test_logs_on_several_are_told(tmp_path: Path) -> None:
    said: list[str] = []
    logs = [letter * 32 for letter in "abcdefgh"]
    first = place(tmp_path, "main", logs[0])
    places = [first, place(tmp_path, "east", *logs), place(tmp_path, "west", *logs[1:])]
    keep(places, said.append)
    assert said[0] == (
        "the log aaaaaaaaaaaa is on main and on east, and answers have it twice; "
        "its host must ship to one of them"
    )
    assert "the log bbbbbbbbbbbb is on east and on west" in said[1]
    assert (len(said), said[-1]) == (6, "3 more logs are on several servers")
    assert {server for _, server in directory(first)} == {"east"}


def test_it_is_kept_while_somebody_folds(tmp_path: Path) -> None:
    said: list[str] = []
    first, east = place(tmp_path, "main", "a"), place(tmp_path, "east", "a")
    with kept([first, east], said.append, every=0.01):
        deadline = time.monotonic() + 10
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
        os.rename(east.path, f"{east.path}.away")  # a server that is down for a while
        time.sleep(0.05)
        os.rename(f"{east.path}.away", east.path)
        place(tmp_path, "east", "a", "b")
        while not directory(first) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert directory(first) == [("b", "east")]
    assert len(said) == 1
