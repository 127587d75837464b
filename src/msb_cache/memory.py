"""Memory that a process which stays gives back: a plan of 10,000 images took it, and the next one is far.

The allocator of the C library keeps what was freed for later; only when it is asked does the kernel get it.
"""

from __future__ import annotations

import gc


def give_back() -> None:
    """Give the kernel what this process has freed, as far as the C library can: that of glibc does."""
    import ctypes  # which only processes need that stay

    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
