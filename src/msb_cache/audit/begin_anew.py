"""Go on with a log under a new id: copies of one home have the same log, and then go on with it each.

Event 1 names the log before. All others stay as they are but for their hashes, for the chain begins anew.
One transaction does that, so other processes see the one log or the other; what was there is set aside.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec

from msb_cache.activity import Count
from msb_cache.artifacts import durable, files
from msb_cache.audit.backup import copy
from msb_cache.audit.restore import drop_triggers
from msb_cache.engines.decision import one_at_a_time
from msb_cache.errors import BusyError, CorruptLogError, LogError
from msb_cache.eventstore import chain, subtrees
from msb_cache.eventstore.events import LogCreated
from msb_cache.eventstore.ids import uuid7s
from msb_cache.eventstore.store import FORMAT, Actor, EventStore, Head
from msb_cache.failpoints import reached
from msb_cache.home import replacing
from msb_cache.home.ledger import Ledger
from msb_cache.home.operation import Operation, others
from msb_cache.session import Session
from msb_cache.shapes import Result
from msb_cache.wording import reason_of

_BATCH = 2000
"""Hashes that are made before they are written."""

_RECORDED_AT = chain.COLUMNS.index("recorded_at")


@dataclass(frozen=True)
class AnewReport(Result):
    """A log that was begun anew: its id, its number of events and its last hash, and those of the one before.

    ``checkpoints``: how many signed checkpoints the home kept of the log before; they are set aside with it.
    ``set_aside``: the folder with that log's database.
    """

    log_id: str
    events: int
    head: bytes
    previous_log_id: str
    previous_head: bytes
    checkpoints: int
    set_aside: Path


def begin_anew(session: Session) -> AnewReport:
    """Begin the log anew; result and errors as for ``ImageCache.begin_log_anew``."""
    ledger = session.ledger
    ledger.check_writable()
    ledger.tells_of_head = False  # the error below does
    noted = ledger.head_file.read()
    with ledger.read() as connection:
        if connection is None or EventStore(connection).head() is None:
            raise LogError(
                f"{ledger.layout.home} has no log yet; its first event begins one, of an id of its own"
            )
        found = None if noted is None else ledger.head_file.mismatch(connection, noted)
    if found is not None:
        raise LogError(
            f"{found.sentence}; say that you know with `msb-cache log acknowledge`, then begin it anew"
        )
    session.begin_writing()
    with one_at_a_time(ledger) as operation:
        running = next((each for each, _ in others(ledger.layout, operation)), None)
        if running is not None:
            raise BusyError(f"operation {running} runs in {ledger.layout.home}; try again when it has ended")
        report = _begin(ledger, operation)
    ledger.renew_head_note()
    return report


def _begin(ledger: Ledger, operation: Operation) -> AnewReport:
    layout = ledger.layout
    aside = operation.building() / "set-aside.db"
    # What has begun to write cannot be copied from, and may keep every other connection out.
    with ledger.read() as connection:
        assert connection is not None  # noqa: S101
        before = _verified(ledger, connection)
        assert before.log_id is not None  # noqa: S101
        _check_format(connection)
        files.create(aside).close()
        copy(connection, aside)
    files.sync(aside)
    reached("anew.copied")
    with (
        ledger.doing("hashing the log", "events", before.events) as count,
        ledger.write(operation.id, owner="any") as transaction,
    ):
        connection = transaction.connection
        end = EventStore(connection).head()
        if end is None or (end.seq, end.hash) != (before.events, before.head):
            raise BusyError(f"another process wrote to {layout.database} while it was set aside; try again")
        began = LogCreated(
            log_id=os.urandom(16).hex(),
            format=FORMAT,
            previous_log_id=before.log_id,
            previous_size=before.events,
            previous_head=before.head.hex(),
        )
        triggers = drop_triggers(connection)
        first, old = next(chain.raw_rows(connection, until=1))
        began_with = _put_first(connection, first, began, operation.id, ledger.actor, max(0, ledger.clock()))
        head, old = _chain_anew(connection, before.events, began_with, old, count)
        if old != before.head:
            raise CorruptLogError(f"{layout.database} was changed while its log was begun anew")
        for sql in triggers:
            connection.execute(sql)
        # They are of the log before, as are the hashes of its tree.
        checkpoints = connection.execute("DELETE FROM signed_checkpoint").rowcount
        subtrees.forget(connection)
        reached("anew.chained")
        _expect(ledger, began.log_id, Head(before.events, head, end.recorded_at_ns))
        folder = replacing.new_folder(layout, operation.id)
        changes = durable.Changes()
        changes.replace(aside, folder / Path(layout.database).name)
        changes.sync()
        reached("anew.committing")
    reached("anew.committed")
    return AnewReport(began.log_id, before.events, head, before.log_id, before.head, checkpoints, folder)


def _verified(ledger: Ledger, connection: sqlite3.Connection) -> chain.Verified:
    (size,) = connection.execute("SELECT max(seq) FROM events").fetchone()
    with ledger.doing("checking the log", "events", size) as count:
        found = chain.verify(connection, count.each)
    if isinstance(found, chain.Break):
        raise CorruptLogError(
            f"{found.problem}; only a log that verifies is begun anew, and `msb-cache verify` says more"
        )
    return found


def _check_format(connection: sqlite3.Connection) -> None:
    event = EventStore(connection).at(1)
    found = event.data.format if event is not None and isinstance(event.data, LogCreated) else None
    if found != FORMAT:
        raise CorruptLogError(f"the log has format {found}, and this msb-cache begins those of {FORMAT}")


def _put_first(
    connection: sqlite3.Connection,
    row: Sequence[chain.Value],
    event: LogCreated,
    operation: str,
    actor: Actor,
    now_ns: int,
) -> bytes:
    """Put another event in the place of event 1, which was recorded when that was; return its hash."""
    recorded_at = row[_RECORDED_AT]
    assert isinstance(recorded_at, int)  # noqa: S101
    changed: dict[str, chain.Value] = {
        # An id says what the clock read when an event was recorded, and times of recording never go back.
        "id": uuid7s(1, recorded_at)[0],
        "subject": event.log_id,
        "operation": operation,
        "occurred_at": now_ns,
        "actor": msgspec.json.encode(actor).decode(),
        "data": msgspec.json.encode(event).decode(),
    }
    new = [changed.get(name, value) for name, value in zip(chain.COLUMNS, row, strict=True)]
    digest = chain.link(chain.GENESIS, new)
    setting = ", ".join(f"{name} = ?" for name in (*changed, "hash"))
    connection.execute(f"UPDATE events SET {setting} WHERE seq = 1", (*changed.values(), digest))  # noqa: S608
    return digest


def _chain_anew(
    connection: sqlite3.Connection, size: int, head: bytes, old: bytes, count: Count
) -> tuple[bytes, bytes]:
    """Hash every event behind event 1 anew, in the caller's transaction.

    Args:
        connection: the log.
        size: how many events it has.
        head: the hash that event 1 has now.
        old: the one that it had.
        count: told how many are done.

    Returns:
        The hash of the last event, and the one that it must have had for the log to be as it was.
    """
    for after in range(1, size, _BATCH):
        made: list[tuple[bytes, int]] = []
        for row, _ in chain.raw_rows(connection, after, after + _BATCH):
            encoded = chain.encode(row)
            old, head = sha256(old + encoded).digest(), sha256(head + encoded).digest()
            made.append((head, after + len(made) + 1))
        connection.executemany("UPDATE events SET hash = ? WHERE seq = ?", made)
        count(after + len(made))
        reached("anew.batch")
    return head, old


def _expect(ledger: Ledger, log_id: str, end: Head) -> None:
    """Let the note outside be of either log, until it is made anew: this process may be killed before."""
    try:
        ledger.head_file.expect(log_id, end)
    except OSError as error:
        raise LogError(
            f"the note outside of how far the log has come cannot be renewed: {reason_of(error)}"
        ) from None
