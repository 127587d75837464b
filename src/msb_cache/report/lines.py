"""The newest events in words, as a page shows them."""

from __future__ import annotations

from msb_cache.eventstore.store import EventStore, StoredEvent
from msb_cache.interchange.privacy import Privacy
from msb_cache.oci.reference import as_typed
from msb_cache.queries import told
from msb_cache.report.cut import Cut, person, shortened
from msb_cache.report.facts import EventLine
from msb_cache.shapes import rfc3339
from msb_cache.wording import short

MOST = 400
"""Events of a report: a page stays small."""

_LONGEST = 300  # characters of what is told of one
_OPERATION = 13  # characters of its id, as `prunes` shows it


def lines(cut: Cut, store: EventStore, privacy: Privacy) -> tuple[EventLine, ...]:
    """Return the newest events of the time shown in words, newest first."""
    found = store.read(after=cut.after, until=cut.until, reverse=True, limit=MOST)
    return tuple(_line(cut, privacy.of(event)) for event in found)


def _line(cut: Cut, event: StoredEvent) -> EventLine:
    line = told.line_of(event, time=_time, name=_name)
    about = line.digest if line.digest not in (None, event.subject) else None
    what = line.what if about is None else f"{line.what} {short(about)}"
    words = f"{what}, {line.details}" if line.details else what
    who = told.who(event.actor) if cut.people else person(event.actor, people=False)
    return EventLine(
        event.seq,
        event.occurred_at_ns,
        event.type,
        shortened(_subject(event), _LONGEST),
        shortened(who, _LONGEST),
        shortened(words, _LONGEST),
    )


def _subject(event: StoredEvent) -> str:
    if "/" in event.subject:
        return as_typed(event.subject, getattr(event.data, "spelling", None))
    return _name(event.subject)


def _name(name: str) -> str:
    return short(name) if name.startswith("sha256:") else name[:_OPERATION]


def _time(ns: int) -> str:
    return f"{str(rfc3339(ns))[:19]}Z"
