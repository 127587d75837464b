"""UUID version 7 (RFC 9562 section 5.7): identifiers that sort by the millisecond they were made in."""

from __future__ import annotations

import os
import time


def uuid7() -> str:
    """Return a new UUIDv7 of now, in its canonical 36-character form.

    Written here because the standard library has it from Python 3.14 only, and importing ``uuid``
    costs more than making the value.
    """
    return uuid7s(1, time.time_ns())[0]


def uuid7s(count: int, now_ns: int) -> list[str]:
    """Return so many new UUIDv7s of one moment, in no order: one question to the kernel instead of many.

    Args:
        count: how many.
        now_ns: the moment, in ns since the epoch; the ids have its milliseconds.
    """
    moment = moment_of(now_ns)
    random = os.urandom(10 * count).hex()
    return [_uuid7(moment, random[start : start + 20]) for start in range(0, 20 * count, 20)]


def moment_of(time_ns: int) -> str:
    """Return how the UUIDv7s of a time, in ns since the epoch, begin; later ones sort behind it."""
    high, low = divmod(time_ns // 1_000_000, 1 << 16)
    return f"{high:08x}-{low:04x}"


def time_of(identifier: str) -> int:
    """Return the time of a UUIDv7, in ns since the epoch, to the millisecond; 0 for what is none."""
    try:
        return int(identifier[:8] + identifier[9:13], 16) * 1_000_000
    except ValueError:
        return 0


def _uuid7(moment: str, random: str) -> str:
    variant = "89ab"[int(random[3], 16) & 3]
    return f"{moment}-7{random[:3]}-{variant}{random[4:7]}-{random[7:19]}"
