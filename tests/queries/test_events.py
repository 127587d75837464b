"""Which events are asked for, and reading them page by page."""

from __future__ import annotations

import pytest

from msb_cache import (
    ImageCache,
    LogError,
)
from tests.examples import ONE, archive


@pytest.mark.parametrize("operation", ["", "abc", "zzzz", "0000", "%%%%", "' OR 1=1"])
def test_unknown_deletions(cache: ImageCache, operation: str) -> None:
    cache.load(archive(ONE))
    cache.prune()
    with pytest.raises(LogError):
        cache.deletion(operation)
