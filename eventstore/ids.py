"""UUID version 7 (RFC 9562 section 5.7): identifiers that sort by the millisecond they were made in."""

from __future__ import annotations

import os
import time


def uuid7() -> str:
    """Return a new UUIDv7 in its canonical 36-character form.

    Written here because the standard library has it from Python 3.14 only, and importing ``uuid``
    costs more than making the value.
    """
    return uuid7s(1)[0]


def uuid7s(count: int) -> list[str]:
    """Return so many new UUIDv7s of this moment, in no order: one question to the kernel instead of many."""
    moment = (time.time_ns() // 1_000_000).to_bytes(6, "big").hex()
    random = os.urandom(10 * count).hex()
    return [_uuid7(moment, random[start : start + 20]) for start in range(0, 20 * count, 20)]


def _uuid7(moment: str, random: str) -> str:
    variant = "89ab"[int(random[3], 16) & 3]
    return f"{moment[:8]}-{moment[8:]}-7{random[:3]}-{variant}{random[4:7]}-{random[7:19]}"
