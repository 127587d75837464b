from __future__ import annotations

import ctypes
import gc
from typing import Any

import pytest

from msb_cache.memory import give_back


def test_what_is_garbage_goes_and_the_c_library_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    class Library:
        malloc_trim = staticmethod(asked.append)

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library)
    gc.disable()
    try:
        circle: list[Any] = []
        circle.append(circle)
        del circle
        give_back()
        assert gc.collect() == 0
    finally:
        gc.enable()
    assert asked == [0]


def test_another_c_library_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    give_back()
