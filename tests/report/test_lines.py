"""Events in words: the newest, short, and without what is not told."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.interchange.privacy import Privacy
from msb_cache.report import lines as room
from msb_cache.report.lines import lines
from tests.logs import PYTHON, digest, pulled
from tests.report.chronicles import cut_of

HELD = ev.ImageHeld(holder="sandbox:dev", labels={"token": "hidden"}, until_ns=1_800_000_000 * 10**9)


def test_words(tmp_path: Path) -> None:
    log = [NewEvent(pulled(digest(1), previous=digest(2)), PYTHON), NewEvent(HELD, digest(1))]
    with cut_of(tmp_path, log) as (cut, store):
        held, moved, created = lines(cut, store, Privacy())
    assert (created.seq, created.type) == (1, "log.created")
    assert (moved.subject, moved.who) == ("python:3.12", "alice@host (test)")
    assert moved.words == f"moved {digest(1)[:19]}, was {digest(2)[:19]}, from python.tar"
    assert held.subject == digest(1)[:19]
    assert held.words == "held, by sandbox:dev, token=…, until 2027-01-15T08:00:00Z"


def test_as_much_is_told_as_may_be(tmp_path: Path) -> None:
    with cut_of(tmp_path, [NewEvent(HELD, digest(1))], people=False) as (cut, store):
        held, _ = lines(cut, store, Privacy(config=True, people=False))
    assert "token=hidden" in held.words
    assert held.who == "test"


def test_the_newest_of_many_and_not_all_of_a_long_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "MOST", 2)
    failed = ev.ImagePullFailed(reason="x" * 10_000)
    with cut_of(tmp_path, [NewEvent(pulled(digest(1)), PYTHON), NewEvent(failed, PYTHON)]) as (cut, store):
        found = lines(cut, store, Privacy())
    assert [each.seq for each in found] == [3, 2]
    assert found[0].words.endswith("xxx…")
    assert len(found[0].words) == 300
