"""UUIDv7: form, version and variant bits, order."""

from __future__ import annotations

import time
import uuid

from msb_cache.eventstore.ids import uuid7


def test_uuid7_has_version_variant_and_time() -> None:
    before = time.time_ns() // 10**6
    value = uuid.UUID(uuid7())
    after = time.time_ns() // 10**6
    assert value.version == 7
    assert value.variant == uuid.RFC_4122
    assert before <= value.int >> 80 <= after
    assert str(value) == str(value).lower()


def test_uuid7_differ() -> None:
    assert len({uuid7() for _ in range(1000)}) == 1000
