"""What a rule decided of an image, to be changed in what a test is about."""

from __future__ import annotations

from typing import Any

from msb_cache import ImageVerdict
from tests.logs import PYTHON, digest

DAY = 86_400 * 10**9


def verdict(**changed: Any) -> ImageVerdict:
    """Return a verdict on an image that lay idle for 20 days and is due."""
    given = {
        "reference": PYTHON,
        "spelling": None,
        "manifest_digest": digest(1),
        "goes": True,
        "rule": "due",
        "by": (),
        "idle_ns": 20 * DAY,
        "age_ns": 30 * DAY,
        "rank": None,
        "until_ns": None,
        "size_bytes": 5000,
        "freed_bytes": 4096,
    }
    return ImageVerdict(**{**given, **changed})
