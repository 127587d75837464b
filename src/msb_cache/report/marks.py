"""Removals and prunes as marks on the line of sizes."""

from __future__ import annotations

from msb_cache.eventstore.store import EventStore
from msb_cache.queries import told
from msb_cache.report.chronicle import Deletion
from msb_cache.report.cut import Cut, person, shortened
from msb_cache.report.facts import DeletionMark

MOST = 500
"""Marks of a report; the newest of more."""

_MOST_RULES = 20
_LONGEST = 300  # characters of who did it, with the reason they gave


def deletions_at(cut: Cut, store: EventStore) -> list[Deletion]:
    """Return the deletions of the time shown, oldest first, as far as they had come at the last position."""
    return [
        _as_it_was(each, cut, store) if each.last_seq > cut.until else each
        for each in cut.chronicle.deletions.values()
        if cut.after < each.seq <= cut.until
    ]


def _as_it_was(found: Deletion, cut: Cut, store: EventStore) -> Deletion:
    """Return a deletion without what came of it later."""
    then = Deletion(found.operation, found.kind, found.seq, found.actor)
    for event in store.read(operation=found.operation, after=found.seq - 1, until=cut.until):
        then.take(event)
    return then


def marks(cut: Cut, deletions: list[Deletion]) -> tuple[DeletionMark, ...]:
    """Return deletions as marks; the newest of many."""
    chronicle = cut.chronicle
    return tuple(
        DeletionMark(
            each.operation,
            each.kind,
            each.seq,
            chronicle.at_ns(each.seq),
            who(each, cut.people),
            each.images,
            each.bytes,
            tuple(each.names),
            tuple(each.rules.most_common(_MOST_RULES)),
            each.outcome,
            0 < chronicle.undone.get(each.operation, 0) <= cut.until,
        )
        for each in deletions[-MOST:]
    )


def who(deletion: Deletion, people: bool) -> str:
    """Return by whom something was deleted, in words."""
    if not people:
        return person(deletion.actor, people=False)
    return shortened(told.who(deletion.actor), _LONGEST)
