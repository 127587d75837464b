"""The benchmarks run, do the work that they claim, and have not become grossly slower."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
GROSS = 3.0  # times the target: what a busy machine does to a small measurement is less


@pytest.fixture(scope="module")
def works() -> Any:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import works

        yield works
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


SMALL: dict[str, Callable[[Any, Path], Any]] = {
    "append": lambda works, folder: works.append(folder, images=50, rounds=40),
    "list": lambda works, folder: works.list_(folder, images=1000, rounds=7),
    "get": lambda works, folder: works.get(folder, images=200, rounds=200),
    "open and get": lambda works, folder: works.open_and_get(folder, images=200, rounds=30),
    "prune": lambda works, folder: works.prune(folder, images=200, rounds=1),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_small_measurement_is_not_grossly_over_its_target(works: Any, name: str, tmp_path: Path) -> None:
    measured = SMALL[name](works, tmp_path)
    assert measured.times.ratio <= GROSS * measured.target, measured


def test_the_floors_use_nothing_of_ours() -> None:
    source = (ROOT / "benchmarks" / "floors.py").read_text()
    assert "msb_cache" not in source
    assert "homes" not in source
