"""Rows that differ, as people and programs get them: changed, missing and one too many."""

from __future__ import annotations

import pytest

from msb_cache.cli.differences import print_differences
from msb_cache.projections.live import Difference
from msb_cache.shapes import jsonable

CHANGED = Difference("layer", ("a",), ("a", 1), ("a", 2))
MISSING = Difference("hold", ("d", "sandbox:\x1b[31m"), None, ("d", "sandbox:\x1b[31m", 5))
EXTRA = Difference("image", ("r",), ("r", None), None)


def test_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    print_differences([CHANGED, MISSING, EXTRA])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.splitlines() == [
        "layer a",
        "  index  ('a', 1)",
        "  log    ('a', 2)",
        "hold d sandbox:\\x1b[31m",
        "  index  None",
        "  log    ('d', 'sandbox:\\x1b[31m', 5)",
        "image r",
        "  index  ('r', None)",
        "  log    None",
    ]


def test_for_programs() -> None:
    assert [jsonable(each) for each in (CHANGED, EXTRA)] == [
        {"table": "layer", "key": ["a"], "live": ["a", 1], "folded": ["a", 2]},
        {"table": "image", "key": ["r"], "live": ["r", None], "folded": None},
    ]
