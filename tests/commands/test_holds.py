"""Uses and holds: recorded in either home, and nothing of the cache changes."""

from __future__ import annotations

import pytest

from msb_cache import (
    ImageCache,
    InvalidConfigError,
)
from tests.examples import ONE, archive
from tests.trees import files_below


def test_use_moves_last_used_and_holds_nothing(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    before = cache.get("one:1")
    after = cache.use("one:1", holder="sandbox:dev")
    assert after.created_at_ns == before.created_at_ns
    assert (after.last_used_at_ns or 0) > (before.last_used_at_ns or 0)
    assert cache.holders("one:1") == []
    assert cache.history("one:1")[-1].data.holder == "sandbox:dev"  # type: ignore[attr-defined]


@pytest.mark.parametrize("holder", ["", "dev", "sandbox:", "vm:dev", "sandbox:a\nb", "sandbox:" + "x" * 600])
def test_bad_holders(cache: ImageCache, holder: str) -> None:
    cache.load(archive(ONE))
    with pytest.raises(InvalidConfigError, match="is no holder"):
        cache.hold("one:1", holder)
    with pytest.raises(InvalidConfigError):
        cache.release(holder)


def test_what_only_the_log_knows_can_be_said_in_a_home_of_msb(cache: ImageCache) -> None:
    cache.load(archive(ONE))
    (cache.home / "db/msb.db").touch()
    before = files_below(cache.home / "cache", locks=True)
    cache.use("one:1", holder="sandbox:dev")
    cache.hold("one:1", "sandbox:dev")
    assert cache.holders("one:1") == ["sandbox:dev"]
    assert len(cache.release("sandbox:dev")) == 1
    assert cache.rebuild() == []
    assert files_below(cache.home / "cache", locks=True) == before
