"""Handles and reports are values."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import astuple

from msb_cache import (
    ImageCache,
    ImageHandle,
    InvalidConfigError,
)
from msb_cache.models import Origin


def handle(**changes: Any) -> ImageHandle:
    fields: dict[str, Any] = {
        "reference": "app:1",
        "size_bytes": None,
        "manifest_digest": None,
        "architecture": None,
        "os": None,
        "layer_count": 1,
        "created_at_ns": None,
        "last_used_at_ns": None,
    }
    return ImageHandle(**{**fields, **changes})


def test_times_are_utc_and_exact_to_the_microsecond() -> None:
    moment = handle(created_at_ns=1_764_000_000_123_456_789, last_used_at_ns=-1)
    expected = datetime(2025, 11, 24, 16, 0, tzinfo=UTC) + timedelta(microseconds=123_456)
    assert moment.created_at == expected
    assert moment.last_used_at == datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    assert handle().created_at is None
    assert handle().last_used_at is None


def test_a_handle_is_a_value() -> None:
    one, other = (handle(origin=Origin(root, ImageCache)) for root in ("/a", "/b"))
    assert one == other
    assert hash(one) == hash(handle())
    assert one.home == Path("/a")
    assert handle(layer_count=2) != handle()
    assert handle() != astuple(handle())
    assert "/a" not in repr(one)
    with pytest.raises(AttributeError):
        handle().reference = "other:1"  # type: ignore[misc]


def test_a_handle_of_no_cache_says_so() -> None:
    with pytest.raises(InvalidConfigError, match="not made by a cache"):
        asyncio.run(handle().inspect())
    with pytest.raises(InvalidConfigError, match="not made by a cache"):
        asyncio.run(handle().remove())
