"""Record that an image is used, held, or held no longer."""

from __future__ import annotations

from msb_cache.errors import InvalidConfigError
from msb_cache.eventstore.events import ImageHeld, ImageReleased, ImageUsed
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import NewEvent
from msb_cache.projections import images
from msb_cache.projections.images import HandleRow
from msb_cache.queries import resolve
from msb_cache.queries.times import Moment, until_ns
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


def hold(
    session: Session, reference: str, holder: str, until: Moment | None = None
) -> tuple[HandleRow, int | None, bool]:
    """Hold the manifest of a reference; parameters and errors as for ``ImageCache.hold``.

    Returns:
        Its row, when the hold ends by itself (ns since the epoch, UTC; None: it does not), and whether every
        program that deletes in this home knows it.
    """
    resolve.check_holder(holder)
    ends = None if until is None else until_ns(until, session.ledger.clock())
    _begin(session, reference)
    with session.ledger.write(uuid7(), owner="any") as transaction:
        connection = transaction.connection
        row = resolve.image(connection, reference)
        seen = images.is_held_in_msb(connection, row.manifest_digest, holder)
        if seen and ends is not None:
            raise InvalidConfigError(
                f"{holder} is msb's own, and holds until msb deletes it; leave `--until` out"
            )
        held = [each for each in images.holds(connection, row.manifest_digest) if each.holder == holder]
        if not held or held[0].until != ends:
            event = ImageHeld(holder=holder, reference=row.reference, until_ns=ends)
            transaction.append([NewEvent(event, row.manifest_digest)])
    return row, ends, seen or not session.kept_by_msb


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
