"""Staying to look: how often, when it ends, and what is said once."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache.queries.follow import looks, watch
from tests.logs import new_ledger, some_events


def test_a_sentence_is_said_once_until_it_changes() -> None:
    sentences = ["a", "a", None, "a", "b"]
    left, said = list(sentences), list[str]()
    found = looks(lambda: left.pop(0), stopped=lambda: not left, note=said.append, interval=0)
    assert len([*found]) == len(sentences)  # it is looked all the same
    assert said == ["a", "a", "b"]


def test_a_long_look_is_followed_by_a_longer_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [0.0], list[float]()
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("msb_cache.queries.follow.pause", slept.append)
    lengths = [0.125, 3.0]

    def prepare() -> None:
        now[0] += lengths.pop(0)

    for _ in looks(prepare, stopped=lambda: not lengths, note=pytest.fail, interval=0.5):
        pass
    assert slept == [0.5]
    lengths.append(3.0)
    lengths.append(0.0)
    for _ in looks(prepare, stopped=lambda: not lengths, note=pytest.fail, interval=0.5):
        pass
    assert slept == [0.5, 6.0]


def test_only_what_comes_from_now_on_is_seen(tmp_path: Path) -> None:
    ledger = new_ledger(tmp_path, some_events()[:2])
    asked = []

    def stopped() -> bool:
        asked.append(1)
        if len(asked) == 1:
            with ledger.write("later") as transaction:
                transaction.append(some_events()[2:4])
        return len(asked) > 3

    found = watch(ledger, stopped=stopped, note=pytest.fail, interval=0)
    assert [event.seq for event in found] == [4, 5]
