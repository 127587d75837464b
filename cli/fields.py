"""Images and holds as fields for JSON, the same in every command that prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msb_cache.cli import output

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
    return {
        "reference": handle.reference,
        "digest": handle.manifest_digest,
        "size_bytes": handle.size_bytes,
        "architecture": handle.architecture,
        "os": handle.os,
        "layer_count": handle.layer_count,
        "created_at": output.rfc3339(handle.created_at_ns),
        "last_used_at": output.rfc3339(handle.last_used_at_ns),
        "in_use_by": list(handle.in_use_by),
        "in_use_since": output.rfc3339(handle.in_use_since_ns),
        "idle_since": output.rfc3339(handle.idle_since_ns),
        "held_by": list(handle.held_by),
    }


def hold_fields(hold: Hold) -> dict[str, Any]:
    """Return a hold as fields for JSON."""
    return {
        "holder": hold.holder,
        "digest": hold.manifest_digest,
        "reference": hold.reference,
        "since": output.rfc3339(hold.since_ns),
        "status": hold.status,
        "root": hold.root,
        "labels": dict(hold.labels),
        "until": output.rfc3339(hold.until_ns),
    }


def pin_subject(pin: Pin) -> str:
    """Return what a pin is of, whole: a reference, else a digest."""
    return pin.reference or pin.manifest_digest or "-"


PIN_FIELDS = ("reference", "digest", "here", "by", "reason", "since", "until", "enforced")
"""What ``pin_fields`` has."""


def pin_fields(pin: Pin) -> dict[str, Any]:
    """Return a pin as fields for JSON."""
    return {
        "reference": pin.reference,
        "digest": pin.manifest_digest,
        "here": pin.here,
        "by": pin.by,
        "reason": pin.reason,
        "since": output.rfc3339(pin.since_ns),
        "until": output.rfc3339(pin.until_ns),
        "enforced": pin.enforced,
    }
