"""No observer outlives its test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from msb_cache import failpoints


@pytest.fixture(autouse=True)
def no_observer() -> Iterator[None]:
    yield
    failpoints.observer = None
