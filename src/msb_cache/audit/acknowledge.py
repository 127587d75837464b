"""Record that a person knows that a log was put back, or exchanged; its note outside is renewed then."""

from __future__ import annotations

from msb_cache.errors import LogError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import NewEvent
from msb_cache.home.heads import Mismatch
from msb_cache.session import Session


def acknowledge(session: Session) -> Mismatch | None:
    """Append ``log.acknowledged``; result and errors as for ``ImageCache.acknowledge_log``."""
    ledger = session.ledger
    ledger.tells_of_head = False  # the caller does
    noted = ledger.head_file.read()
    if noted is None:
        return None
    with ledger.read() as connection:
        found = ledger.head_file.mismatch(connection, noted)
    if found is None:
        return None
    if found.kind == "gone":
        raise LogError(f"{found.sentence}; the next command that writes begins a new one, which can say so")
    session.begin_writing()
    known = ev.LogAcknowledged(
        how=found.kind, noted_log_id=noted.log_id, noted_size=noted.size, noted_head=noted.head
    )
    with ledger.write(uuid7(), owner="any") as transaction:
        transaction.append([NewEvent(known, transaction.log_id)])
    ledger.renew_head_note()
    return found
