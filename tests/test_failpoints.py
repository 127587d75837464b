"""Failpoints: each step is told to the observer, and to none where there is none."""

from __future__ import annotations

import pytest

from msb_cache import failpoints


def test_steps_are_told_to_the_observer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    failpoints.reached("before")
    monkeypatch.setattr(failpoints, "observer", seen.append)
    failpoints.reached("first")
    failpoints.reached("second")
    assert seen == ["first", "second"]
