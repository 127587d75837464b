"""What is not installed is said in one sentence, and nothing is imported for it."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from msb_cache.errors import UnsupportedError
from msb_cache.extras import require


def test_what_is_missing_is_named_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UnsupportedError) as raised:
        require("web", "the server", "json", "uvicorn", "no_such_module")
    assert str(raised.value) == (
        "the server needs uvicorn, no_such_module; `pip install 'msb-cache[web]'` installs what is missing"
    )


def test_what_is_there_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "this", raising=False)
    require("web", "the server", "this")
    assert "this" not in sys.modules


def test_the_extras_that_are_named_are_those_of_the_package() -> None:
    here = Path(__file__).parents[1]
    declared = tomllib.loads((here / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        name
        for room in ("src/msb_cache", "cli")
        for path in (here / room).rglob("*.py")
        for name in re.findall(r'\brequire\(\s*"(\w+)"', path.read_text())
    }
    assert named == {*declared} - {"dev"}
