"""Named points of the work on disk and log, where a test can stop, kill or interleave a process.

``reached`` does nothing unless an observer is set; nothing but a test sets one.
"""

from __future__ import annotations

from collections.abc import Callable

observer: Callable[[str], None] | None = None
"""Called with a step's name each time one is reached."""


def reached(step: str) -> None:
    """Tell the observer that this point of the work is reached."""
    if observer is not None:
        observer(step)
