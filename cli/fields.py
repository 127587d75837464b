"""Which fields the JSON of an image and of a pin has, for commands that check a template beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from msb_cache.queries.pins import Pin


IMAGE_FIELDS = (
    "reference",
    "digest",
    "size_bytes",
    "architecture",
    "os",
    "layer_count",
    "created_at",
    "last_used_at",
    "in_use_by",
    "in_use_since",
    "idle_since",
    "held_by",
)
"""Those of an ``ImageHandle``."""


def pin_subject(pin: Pin) -> str:
    """Return what a pin is of, whole: a reference, else a digest."""
    return pin.reference or pin.manifest_digest or "-"


PIN_FIELDS = ("reference", "digest", "by", "reason", "since", "until", "here", "enforced")
"""Those of a ``Pin``."""
