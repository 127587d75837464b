"""Prove to others that an event is in the log that was signed."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from msb_cache.errors import CorruptLogError, InvalidConfigError, LogError, OperationNotFoundError
from msb_cache.eventstore.chain import link, raw_rows
from msb_cache.eventstore.row import GENESIS, Value
from msb_cache.eventstore.subtrees import LogTree
from msb_cache.eventstore.upcasting import CATALOGUE
from msb_cache.home.ledger import Ledger
from msb_cache.projections import images
from msb_cache.projections.history import Scope
from msb_cache.proof import kept
from msb_cache.proof.inclusion import make
from msb_cache.proof.kept import KeptCheckpoint
from msb_cache.proof.policy import Policy
from msb_cache.queries import resolve
from msb_cache.queries.events import Filters, Query, Reader, pages
from msb_cache.shapes import Result

# Compiled when first used.
_POSITION = r"@?([0-9]{1,19})"
_ID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_SIGN = "`msb-cache checkpoint --sign KEY`"


class EventProof(Result, Struct, frozen=True, kw_only=True):
    """A proof that an event is in the log that was signed, for those who have nothing but the log's key.

    Attributes:
        seq: the event's position.
        id: its id.
        type: its type.
        subject: what it is about.
        origin: the name of the log.
        size: how many events the log had when it was signed.
        signed_at_ns: when that was, ns since the epoch, UTC, as this home says; no part of what is proved.
        text: the proof, as it is written to a file.
    """

    seq: int
    id: str
    type: str
    subject: str
    origin: str
    size: int
    signed_at_ns: int
    text: str


def prove(
    ledger: Ledger,
    what: str | int,
    *,
    policy: Policy | None = None,
    size: int | None = None,
    origin: str | None = None,
    type: str | None = None,
) -> EventProof:
    """Return the proof that an event is in the log as it was signed; nothing that is kept of it is believed.

    Args:
        ledger: the home.
        what: a position (``12``, ``@12``), the id of an event, or a reference, digest or operation. Of a
            reference the newest event that says what became of the image, else the newest of all.
        policy: only of a checkpoint that fits it.
        size: only of the checkpoint of so many events; None: of the first that has the event.
        origin: only of the log's checkpoints of this name.
        type: the newest event of this type in the history of what is named, or of the operation.

    Raises:
        ImageNotFoundError, OperationNotFoundError: the log never had what the text names.
        InvalidReferenceError: the text is none of these, or several digests begin with it.
        InvalidConfigError: the log has no such event, or the type is none.
        LogError: there is no log, no such event, or no checkpoint of the log with it that is signed so.
        CorruptLogError: the log is not the one that was signed.
    """
    seq = _position(ledger, what, type)
    with ledger.read() as connection:
        if connection is None:
            raise LogError(f"{ledger.layout.home} has no log yet, so there is nothing to prove")
        head = ledger.store(connection).head()
        end = 0 if head is None else head.seq
        if not 0 < seq <= end:
            raise InvalidConfigError(f"the log has no event {seq}; its last is {end}")
        signed = _checkpoint(connection, seq, policy, size, origin)
        if (size_signed := signed.head.size) > end:
            raise CorruptLogError(
                f"the log has only {end:,} events, and {size_signed:,} were signed: it lost its end since"
            )
        return _proof(connection, seq, signed)


def _position(ledger: Ledger, what: str | int, type_: str | None) -> int:
    """Return the position of the event that is meant."""
    text = str(what)
    found = re.fullmatch(_POSITION, text)
    if found is not None:
        if type_ is not None:
            raise InvalidConfigError(f"{text} is one event, so no type is chosen; give a reference with it")
        return int(found[1])
    with ledger.read() as connection:
        if connection is not None and re.fullmatch(_ID, text):
            row = connection.execute("SELECT seq FROM events WHERE id = ?", (text,)).fetchone()
            if row is not None and type_ is None:
                return int(row[0])
            if not images.is_subject(connection, text):
                raise OperationNotFoundError(f"no event and no operation has the id {text}")
            scope = Scope([], text)
        else:
            scope = Scope(*resolve.in_log(connection, text))
    query, read = _newest(ledger, text, scope, type_)
    newest = next(iter(pages(ledger, query, read)), None)
    if newest is None:
        of_type = "" if type_ is None else f" of type {type_}"
        raise LogError(
            f"the log has no event{of_type} about {text}; `msb-cache history {text}` shows what it has"
        )
    return int(newest.seq)


def _newest(ledger: Ledger, text: str, scope: Scope, type_: str | None) -> tuple[Query, Reader[Any]]:
    """Return what asks for the newest event about something, and what reads that."""
    filters = Filters(limit=1, reverse=True)
    if type_ is not None:
        filters["types"] = [type_]
        if re.fullmatch(_ID, text) is None:
            query = Query(filters, ledger.clock())
            return query, query.history_of(lambda _: scope)
        filters["operation"] = text
    else:
        filters["subject"] = text
        if scope.digest is None:
            # What became of the image: of its files, too, the log has events.
            filters["types"] = [each for each in CATALOGUE.type_names if each.startswith("image.")]
    query = Query(filters, ledger.clock())
    return query, query.events


def _checkpoint(
    connection: sqlite3.Connection, seq: int, policy: Policy | None, size: int | None, origin: str | None
) -> KeptCheckpoint:
    """Return the first signed checkpoint that has an event and is signed as asked."""
    if size is not None and size < seq:
        raise InvalidConfigError(
            f"a checkpoint of {size} events does not have event {seq}; name a larger one"
        )
    looked_at, problem = 0, None
    for each in _covering(connection, seq, size, origin):
        if policy is None:
            return each
        looked_at += 1
        judgement = policy.judge(each.note)
        if judgement.problem is None:
            return each
        if problem is None or judgement.log is not None:  # of one by a key that is given more is to be said
            problem = judgement.problem
    if looked_at:
        if looked_at == 1:
            raise LogError(f"the signed checkpoint that has event {seq} does not fit the policy: {problem}")
        raise LogError(
            f"of {looked_at} signed checkpoints that have event {seq} none fits the policy: {problem}"
        )
    of = "" if origin is None else f" of {origin!r}"
    which = f" of {size} events" if size is not None else f" that has event {seq}"
    raise LogError(f"this home keeps no signed checkpoint{of}{which}; {_SIGN} makes one")


def _covering(
    connection: sqlite3.Connection, seq: int, size: int | None, origin: str | None
) -> Iterator[KeptCheckpoint]:
    for each in kept.of(connection, origin, least=size or seq):
        if size is not None and each.head.size > size:
            return
        yield each


def _proof(connection: sqlite3.Connection, seq: int, signed: KeptCheckpoint) -> EventProof:
    row, stored, previous = _event(connection, seq)
    if link(previous, row) != stored:
        raise CorruptLogError(f"event {seq} is not what was recorded; `msb-cache verify` says what is wrong")
    head = signed.head
    tree = LogTree(connection, head.size)
    if tree.root() != head.root:
        # What is kept of the tree may be wrong where the log is not.
        tree = _FromEvents(connection, head.size)
        if tree.root() != head.root:
            raise CorruptLogError(
                f"the log is not the one that was signed with {head.size:,} events: it was rewritten since"
            )
    proof = make(row, stored, previous, tree.inclusion_path(seq), signed.note)
    columns = {"id": row[1], "type": row[2], "subject": row[4]}
    return EventProof(
        seq=seq,
        origin=head.origin,
        size=head.size,
        signed_at_ns=signed.signed_at_ns,
        text=str(proof),
        **{name: str(value) for name, value in columns.items()},
    )


def _event(connection: sqlite3.Connection, seq: int) -> tuple[tuple[Value, ...], bytes, bytes]:
    """Return an event's row, its hash, and that of the event before."""
    rows = [*raw_rows(connection, max(seq - 2, 0), seq)]
    if [row[0] for row, _ in rows] != [*range(max(seq - 1, 1), seq + 1)]:
        raise CorruptLogError(f"the log lacks an event before event {seq}; `msb-cache verify` says which")
    row, stored = rows[-1]
    return row, stored, GENESIS if seq == 1 else rows[0][1]


class _FromEvents(LogTree):
    """The same tree from the events alone, whatever is kept of it."""

    def _kept(self, level: int, start: int, end: int) -> list[bytes]:
        return []
