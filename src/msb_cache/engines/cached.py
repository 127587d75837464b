"""A pull that finds its image in the cache: recorded in the same words by both engines."""

from __future__ import annotations

import time

from msb_cache.engines.engine import Pulled, PullRequest, operation_of, undone_by
from msb_cache.engines.reused import Reused
from msb_cache.errors import ImageNotFoundError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.ledger import Ledger
from msb_cache.oci.reference import Reference
from msb_cache.projections import images


def record_cached(
    ledger: Ledger, request: PullRequest, name: str, digest: str, reused: Reused | None = None
) -> Pulled:
    """Append ``image.pulled`` for an image that is here already, under this name and with this manifest.

    What was measured of its files is recorded with it.

    Raises:
        ImageNotFoundError: it is not, or not any more.
    """
    reference = request.reference
    with ledger.write(operation_of(request), owner="any") as transaction:
        row = images.handle(transaction.connection, name)
        if row is None or row.manifest_digest != digest:
            raise ImageNotFoundError(f"{reference.familiar} changed while it was pulled; try again")
        pulled = ev.ImagePulled(
            manifest_digest=digest,
            changed=False,
            source=request.source,
            spelling=reference.spelling if name == reference.canonical else name,
            bytes_fetched=0,
            bytes_reused=row.size_bytes,
            duration_ns=time.monotonic_ns() - request.began_ns,
            undoes=undone_by(request),
        )
        *_, recorded = transaction.append([NewEvent(pulled, reference.canonical)])
        if reused is not None:
            reused.record(transaction)
        row = images.handle(transaction.connection, name)
        assert row is not None  # noqa: S101
        return Pulled(row, recorded)


def not_cached(reference: Reference) -> ImageNotFoundError:
    """Return the error of a pull that may not ask the registry."""
    return ImageNotFoundError(
        f"image not found: {reference.familiar}, and the policy `never` forbids to pull it"
    )
