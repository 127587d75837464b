"""Record that a person keeps an image, and that no longer."""

from __future__ import annotations

from msb_cache.eventstore.events import ImagePinned, ImageUnpinned
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import NewEvent
from msb_cache.projections import images
from msb_cache.queries import pins as queries
from msb_cache.queries.times import Moment, until_ns
from msb_cache.session import Session


def pin(session: Session, text: str, until: Moment | None) -> queries.Pin:
    """Pin a reference or digest; parameters, result and errors as for ``ImageCache.pin``."""
    ends = None if until is None else until_ns(until, session.ledger.clock())
    with session.index() as connection:
        queries.subject(connection, text)  # what means nothing makes no home
    session.begin_writing()
    ledger = session.ledger
    with session.making_home(), ledger.write(uuid7(), owner="any") as transaction:
        connection = transaction.connection
        subject, spelling = queries.subject(connection, text)
        store = ledger.store(connection)
        row = images.pin(connection, subject)
        before = None if row is None else store.at(row.seq)
        same = row is not None and row.until == ends
        if not same or before is None or before.actor.reason != ledger.actor.reason:
            transaction.append([NewEvent(ImagePinned(until_ns=ends, spelling=spelling), subject)])
            row = images.pin(connection, subject)
        assert row is not None  # noqa: S101
        return queries.pin(connection, row, store.at(row.seq), enforced=not session.kept_by_msb)


def unpin(session: Session, text: str) -> queries.Pin:
    """End a pin; parameters, result and errors as for ``ImageCache.unpin``."""
    session.begin_writing()
    with session.index() as connection:
        queries.pinned_subject(connection, text)
    with session.ledger.write(uuid7(), owner="any") as transaction:
        connection = transaction.connection
        subject, spelling = queries.pinned_subject(connection, text)
        row = images.pin(connection, subject)
        assert row is not None  # noqa: S101
        event = session.ledger.store(connection).at(row.seq)
        found = queries.pin(connection, row, event, enforced=not session.kept_by_msb)
        transaction.append([NewEvent(ImageUnpinned(spelling=spelling), subject)])
        return found
