"""How waits are told of, given up and broken off."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from msb_cache.waiting import (
    TURN_SECONDS,
    Said,
    Wait,
    end_if_asked,
    ended_by,
    is_busy,
    over,
    patiently,
    pause,
    told_to_end,
)


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


def test_a_mark_is_its_threads() -> None:
    with ended_by(lambda: True), ThreadPoolExecutor(1) as pool:
        pool.submit(end_if_asked).result()
        with pytest.raises(KeyboardInterrupt):
            end_if_asked()


def test_a_mark_around_another_counts_as_well() -> None:
    outer: list[int] = []
    with ended_by(lambda: bool(outer)), ended_by(lambda: False):
        end_if_asked()
        outer.append(1)
        with pytest.raises(KeyboardInterrupt):
            end_if_asked()


def test_what_stays_is_over_by_its_own_word_or_by_a_mark() -> None:
    assert not over(lambda: False)
    assert over(lambda: True)
    with ended_by(lambda: True):
        assert over(lambda: True)
        with pytest.raises(KeyboardInterrupt):
            over(lambda: False)


def test_a_wait_that_cannot_look_is_told() -> None:
    asked, told = threading.Event(), threading.Event()
    with told_to_end(told.set):
        assert "msb-cache-mark" not in {thread.name for thread in threading.enumerate()}  # there is no mark
    with ended_by(asked.is_set):
        with told_to_end(told.set):
            pass
        assert not told.is_set()
        with told_to_end(told.set):
            asked.set()
            assert told.wait(10)


def test_a_sentence_is_new_for_one_of_many() -> None:
    said = Said()
    together = threading.Barrier(8)

    def say(_: int) -> bool:
        together.wait(10)
        return said.is_new("the disk is full")

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(say, range(8))) == 1
    assert said.is_new("another")
    said.forget()
    assert said.is_new("another")


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
