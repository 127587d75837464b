"""How waits are told of, given up and broken off."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache.waiting import TURN_SECONDS, Wait, end_if_asked, ended_by, is_busy, patiently, pause


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let time pass only while something sleeps; returns how long each sleep was."""
    slept: list[float] = []
    monkeypatch.setattr("time.monotonic", lambda: sum(slept))
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


def test_a_wait_is_told_once_after_a_second(passing: list[float]) -> None:
    said: list[float] = []
    wait = Wait(lambda: said.append(sum(passing)), 10)
    while not wait.over():
        pass
    assert len(said) == 1
    assert 1 <= said[0] < 1.1
    assert 10 <= sum(passing) < 10.1
    assert max(passing) <= 0.05


def test_a_wait_of_no_seconds_tries_once(passing: list[float]) -> None:
    assert Wait(pytest.fail, 0).over()
    assert passing == []


def test_a_wait_is_ended_by_a_mark(passing: list[float]) -> None:
    wait = Wait()
    with ended_by(lambda: len(passing) > 1):
        assert not wait.over()
        assert not wait.over()
        with pytest.raises(KeyboardInterrupt):
            wait.over()
    assert not wait.over()  # the mark counts in the block only
    before = len(passing)
    with ended_by(lambda: len(passing) > before):
        pause(1000)
    assert passing[before:] == [TURN_SECONDS]


def test_long_work_is_ended_by_a_mark() -> None:
    marks: list[int] = []
    with ended_by(lambda: bool(marks)):
        end_if_asked()
        marks.append(1)
        with pytest.raises(KeyboardInterrupt):
            end_if_asked()
    end_if_asked()


def test_a_lock_is_waited_for_and_then_given_up(tmp_path: Path, passing: list[float]) -> None:
    with (
        closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as writer,
        closing(sqlite3.connect(tmp_path / "db", isolation_level=None, timeout=0)) as other,
    ):
        writer.execute("BEGIN IMMEDIATE")
        said: list[str] = []

        def say() -> None:
            said.append("waiting")
            if len(said) == 2:
                writer.execute("ROLLBACK")

        def attempt() -> str:
            other.execute("BEGIN IMMEDIATE")
            return "begun"

        with pytest.raises(sqlite3.OperationalError) as caught:
            patiently(attempt, say, 5)
        assert is_busy(caught.value)
        assert said == ["waiting"]
        assert patiently(attempt, say, 5) == "begun"


def test_what_no_lock_causes_is_not_tried_again(passing: list[float]) -> None:
    with closing(sqlite3.connect(":memory:")) as connection, pytest.raises(sqlite3.OperationalError):
        patiently(lambda: connection.execute("nonsense"), pytest.fail)
    assert passing == []
