"""Record that an image is used, held, or held no longer."""

from __future__ import annotations

from msb_cache.eventstore.events import ImageHeld, ImageReleased, ImageUsed
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import NewEvent
from msb_cache.projections import images
from msb_cache.projections.images import HandleRow
from msb_cache.queries import resolve
from msb_cache.session import Session


def use(session: Session, reference: str, holder: str | None) -> HandleRow:
    """Record a use of a reference; parameters and errors as for ``ImageCache.use``."""
    if holder is not None:
        resolve.check_holder(holder)
    _begin(session, reference)
    with session.ledger.write(uuid7(), owner="any") as transaction:
        row = resolve.reference(transaction.connection, reference)
        used = ImageUsed(manifest_digest=row.manifest_digest, spelling=row.spelling, holder=holder)
        transaction.append([NewEvent(used, row.reference)])
        found = images.handle(transaction.connection, row.name)
        assert found is not None  # noqa: S101
        return found


def hold(session: Session, reference: str, holder: str) -> tuple[HandleRow, bool]:
    """Hold the manifest of a reference; parameters and errors as for ``ImageCache.hold``.

    Returns:
        Its row, and whether every program that deletes in this home knows the hold.
    """
    resolve.check_holder(holder)
    _begin(session, reference)
    with session.ledger.write(uuid7(), owner="any") as transaction:
        row = resolve.image(transaction.connection, reference)
        if holder not in images.holders(transaction.connection, row.manifest_digest):
            held = ImageHeld(holder=holder, reference=row.reference)
            transaction.append([NewEvent(held, row.manifest_digest)])
        seen = images.is_held_in_msb(transaction.connection, row.manifest_digest, holder)
    return row, seen or not session.kept_by_msb


def release(session: Session, holder: str) -> list[str]:
    """End the holds of a holder; parameters and result as for ``ImageCache.release``."""
    resolve.check_holder(holder)
    session.begin_writing()
    with session.ledger.read() as connection:
        if connection is None or not images.held_by(connection, holder):
            return []
    with session.ledger.write(uuid7(), owner="any") as transaction:
        digests = images.held_by(transaction.connection, holder)
        transaction.append([NewEvent(ImageReleased(holder=holder), digest) for digest in digests])
    return digests


def _begin(session: Session, reference: str) -> None:
    session.begin_writing()
    with session.index() as connection:
        resolve.image(connection, reference)  # nothing is made for an image that is not there
