"""Images and holds as fields for JSON, the same in every command that prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msb_cache.cli import output

if TYPE_CHECKING:
    from msb_cache.models import ImageHandle
    from msb_cache.queries.as_of import Hold


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
    }
