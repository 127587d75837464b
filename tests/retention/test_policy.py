"""A policy: whether it has rules, and what the log keeps of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from msb_cache.retention.policy import PrunePolicy


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (PrunePolicy(), False),
        (PrunePolicy(unused_for="1d"), True),
        (PrunePolicy(unused_for=timedelta(0)), True),
        (PrunePolicy(older_than="1d"), True),
        (PrunePolicy(keep_last=1), True),
        (PrunePolicy(keep_last_by="pulled"), False),
        (PrunePolicy(max_size=0), True),
        (PrunePolicy(min_free=0), True),
        (PrunePolicy(filter=("dangling",)), True),
        (PrunePolicy(exclude=("a",)), True),
        (PrunePolicy(grace=timedelta(0)), True),
        (PrunePolicy(max_delete=0), False),
        (PrunePolicy(best_effort=True), False),
    ],
    ids=repr,
)
def test_whether_it_has_rules(policy: PrunePolicy, expected: bool) -> None:
    assert policy.has_rules is expected


@pytest.mark.parametrize(
    ("policy", "recorded"),
    [
        (PrunePolicy(), {}),
        (PrunePolicy(unused_for="14d"), {"unused_for": "14d", "grace": "1h"}),
        (
            PrunePolicy(unused_for=timedelta(days=1, seconds=1), older_than=timedelta(0)),
            {"unused_for": "86401 seconds", "older_than": "0 seconds", "grace": "1h"},
        ),
        (PrunePolicy(older_than="1d", grace="0s"), {"older_than": "1d", "grace": "0s"}),
        (PrunePolicy(grace=timedelta(minutes=2)), {"grace": "120 seconds"}),
        (PrunePolicy(grace=timedelta(seconds=1, milliseconds=50)), {"grace": "1.05 seconds"}),
        (PrunePolicy(keep_last=3), {"keep_last": 3, "keep_last_by": "used", "grace": "1h"}),
        (
            PrunePolicy(keep_last=1, keep_last_by="pulled"),
            {"keep_last": 1, "keep_last_by": "pulled", "grace": "1h"},
        ),
        (PrunePolicy(keep_last_by="pulled"), {}),
        (
            PrunePolicy(filter=("label=a", "dangling"), exclude=("b",)),
            {"filter": ["label=a", "dangling"], "exclude": ["b"], "grace": "1h"},
        ),
        (
            PrunePolicy(max_size="20GiB", best_effort=True),
            {"max_size": "20GiB", "best_effort": True, "grace": "1h"},
        ),
        (PrunePolicy(max_size=0, min_free=0), {"max_size": 0, "min_free": 0, "grace": "1h"}),
        (PrunePolicy(max_delete=0), {"max_delete": 0}),
        (PrunePolicy(max_delete="50%"), {"max_delete": "50%"}),
    ],
    ids=repr,
)
def test_what_is_recorded(policy: PrunePolicy, recorded: dict[str, Any]) -> None:
    assert policy.recorded() == recorded
    assert msgspec.json.decode(msgspec.json.encode(policy.recorded())) == recorded


def test_what_is_no_policy() -> None:
    with pytest.raises(TypeError):
        PrunePolicy(unused="1d")  # type: ignore[call-arg]
