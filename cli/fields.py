"""Images and holds as fields for JSON, the same in every command that prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.models import ImageHandle
    from msb_cache.queries.as_of import Hold
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


def image_fields(handle: ImageHandle) -> dict[str, Any]:
    """Return an image as fields for JSON, with the names that msb gives them."""
    found: dict[str, Any] = jsonable(handle)
    return found


def hold_fields(hold: Hold) -> dict[str, Any]:
    """Return a hold as fields for JSON."""
    found: dict[str, Any] = jsonable(hold)
    return found


def pin_subject(pin: Pin) -> str:
    """Return what a pin is of, whole: a reference, else a digest."""
    return pin.reference or pin.manifest_digest or "-"


PIN_FIELDS = ("reference", "digest", "by", "reason", "since", "until", "here", "enforced")
"""What ``pin_fields`` has."""


def pin_fields(pin: Pin) -> dict[str, Any]:
    """Return a pin as fields for JSON."""
    found: dict[str, Any] = jsonable(pin)
    return found
