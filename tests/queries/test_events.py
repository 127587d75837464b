"""Which events are asked for, and reading them page by page."""

from __future__ import annotations

from functools import partial
from typing import Any

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
        cache.prune_report(operation)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("type", "did you mean types=?"),
        ("sinc", "did you mean since=?"),
        ("zzz", "there are: since, until, "),
    ],
)
def test_a_filter_that_there_is_not(cache: ImageCache, name: str, hint: str) -> None:
    cache.load(archive(ONE))
    given: dict[str, Any] = {name: "image.pulled"}
    for ask in (cache.events, cache.iter_events, cache.follow, partial(cache.history, "one:1")):
        with pytest.raises(TypeError) as caught:
            ask(**given)
        assert str(caught.value).startswith(f"unexpected keyword argument {name!r}; {hint}")
