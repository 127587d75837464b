"""Prunes and removals of many hosts: on one time line, and one of them in full.

A deletion whose events are in an archive is in no answer: who ran it, and what it took, is told by these.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from itertools import groupby

from msb_cache.errors import OperationNotFoundError
from msb_cache.eventstore.row import COLUMNS
from msb_cache.eventstore.store import decode_row
from msb_cache.eventstore.upcasting import CATALOGUE
from msb_cache.fleet.hosts import OF_LOG, KnownLog, OnHost, on_host, split, with_log
from msb_cache.fleet.place import Reading, within
from msb_cache.projections.rows import DeletionRow, UndoingRow
from msb_cache.projections.tables import columns
from msb_cache.queries.deletions import DeletionReport, DeletionSummary, policy_of, report_of
from msb_cache.wording import as_text

_OPERATION_PREFIX = re.compile(r"[0-9a-f-]{4,36}")
_AFTER_ALL = "\U0010ffff"
_EVENT = ", ".join(f"e.{name}" for name in (*COLUMNS, "hash"))
_DELETION = ", ".join(f"d.{name}" for name in columns(DeletionRow))
_UNDOING = ", ".join(f"u.{name}" for name in columns(UndoingRow))
_OF_DELETION = len(columns(DeletionRow))


def prunes(
    reading: Reading, logs: Collection[str] | None, limit: int | None
) -> list[OnHost[DeletionSummary]]:
    """Return the deletions of a place's hosts, by when they began; ``together`` puts them in order.

    Args:
        reading: the place.
        logs: of which hosts; None: of all.
        limit: at most so many: the newest.
    """
    condition, arguments = within("d.log_id", logs)
    # A host's clock can have been put back: its log tells which of its own is the newest.
    order = "d.seq DESC" if logs is not None and len(logs) == 1 else "d.started_at DESC, d.log_id, d.seq DESC"
    most = "" if limit is None else " LIMIT ?"
    rows = reading.rows(
        f"SELECT {OF_LOG}, {_DELETION}, {_EVENT} FROM "
        f"(SELECT d.* FROM msb_cache.deletion d WHERE {condition} ORDER BY {order}{most}) d "
        f"{with_log('d')} JOIN msb_cache.event e ON e.log_id = d.log_id AND e.seq = d.seq",
        (*arguments, *(() if limit is None else (limit,))),
    )
    found = []
    for each in rows:
        log, values = split(each)
        row, event = DeletionRow(*values[:_OF_DELETION]), decode_row(values[_OF_DELETION:], CATALOGUE.decode)
        found.append(on_host(log, DeletionSummary(row.operation, event.actor, policy_of(event), row)))
    return found


def together(found: Iterable[OnHost[DeletionSummary]], limit: int | None) -> list[OnHost[DeletionSummary]]:
    """Return deletions of all hosts, those that began last first; those of one host as its log has them."""
    rows = sorted(found, key=lambda each: (each.log_id, -each.found.counters.seq))
    placed = []
    for log_id, of_host in groupby(rows, key=lambda each: each.log_id):
        began = None
        for each in of_host:
            started = each.found.counters.started_at
            began = started if began is None else min(began, started)
            placed.append(((-began, each.host, log_id, -each.found.counters.seq), each))
    placed.sort(key=lambda each: each[0])
    return [each for _, each in placed[:limit]]


def reports(
    reading: Reading, prefix: str, logs: Collection[str] | None
) -> Iterator[OnHost[DeletionReport | None]]:
    """Yield the deletions of a place whose ids begin so; None: its events are in an archive.

    Raises:
        OperationNotFoundError: that is no beginning of an id, or several begin so.
    """
    if not _OPERATION_PREFIX.fullmatch(prefix):
        raise OperationNotFoundError(
            f"{as_text(prefix[:100])!r} is no operation id, nor four characters or more of one; "
            "`msb-cache fleet prunes` lists them"
        )
    condition, arguments = within("d.log_id", logs)
    rows = reading.rows(
        f"SELECT {OF_LOG}, {_DELETION} FROM msb_cache.deletion d {with_log('d')} "
        f"WHERE d.operation >= ? AND d.operation < ? AND {condition} ORDER BY d.log_id, d.operation LIMIT 3",
        (prefix, prefix + _AFTER_ALL, *arguments),
    )
    if len(rows) > 1:
        raise several(prefix, [split(row)[0] for row in rows])
    for each in rows:
        log, values = split(each)
        counters = DeletionRow(*values)
        of_it = (log.log_id, counters.operation)
        stored = reading.rows(
            f"SELECT {_EVENT} FROM msb_cache.event e WHERE e.log_id = ? AND e.operation = ? AND e.seq >= ? "
            "AND e.seq <= ? ORDER BY e.seq",
            (*of_it, counters.seq, log.folded_seq),
        )
        restores = [
            UndoingRow(*row)
            for row in reading.rows(
                f"SELECT {_UNDOING} FROM msb_cache.undoing u "
                "WHERE u.log_id = ? AND u.undoes = ? ORDER BY u.seq",
                of_it,
            )
        ]
        events = (decode_row(row, CATALOGUE.decode) for row in stored)
        # Its first event tells by whom it was, and what was decided.
        whole = bool(stored) and stored[0][0] == counters.seq
        yield on_host(log, report_of(counters, events, restores) if whole else None)


def several(prefix: str, logs: Iterable[KnownLog]) -> OperationNotFoundError:
    """Return the error that several deletions begin so."""
    names = ", ".join(dict.fromkeys(log.name for log in logs))
    return OperationNotFoundError(
        f"several deletions begin with {prefix}, on {names}; give more of the id, or --host"
    )


def missing(prefix: str) -> OperationNotFoundError:
    """Return the error that none does."""
    return OperationNotFoundError(
        f"no deletion of any host has the id {prefix}; `msb-cache fleet prunes` lists them"
    )


def archived(prefix: str, log: OnHost[DeletionReport | None]) -> OperationNotFoundError:
    """Return the error that its events are not here any more."""
    return OperationNotFoundError(
        f"the events of deletion {prefix} on {log.host} are in an archive; ask the host itself, "
        "or import what `msb-cache fleet archive` wrote"
    )
