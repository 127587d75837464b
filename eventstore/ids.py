"""UUID version 7 (RFC 9562 section 5.7): identifiers that sort by the millisecond they were made in."""

from __future__ import annotations

import os
import time


def uuid7() -> str:
    """Return a new UUIDv7 in its canonical 36-character form.

    Written here because the standard library has it from Python 3.14 only, and importing ``uuid``
    costs more than making the value.
    """
    value = bytearray((time.time_ns() // 1_000_000).to_bytes(6, "big") + os.urandom(10))
    value[6] = value[6] & 0x0F | 0x70
    value[8] = value[8] & 0x3F | 0x80
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
