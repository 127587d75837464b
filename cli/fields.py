"""Images and holds as fields for JSON, the same in every command that prints them."""

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
"""What ``image_fields`` has."""


def pin_subject(pin: Pin) -> str:
    """Return what a pin is of, whole: a reference, else a digest."""
    return pin.reference or pin.manifest_digest or "-"


PIN_FIELDS = ("reference", "digest", "by", "reason", "since", "until", "here", "enforced")
"""What ``pin_fields`` has."""
