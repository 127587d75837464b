"""Events as rows of a table, as lines that come one by one, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from msb_cache.cli import output
from msb_cache.cli.describe import describe, fields, who
from msb_cache.queries.resolve import as_typed

if TYPE_CHECKING:
    from msb_cache.eventstore.store import StoredEvent


def print_events(found: Iterable[StoredEvent]) -> None:
    """Print a table of events, one line each."""
    events = some(found)
    if events is not None:
        header = ("SEQ", "WHEN", "TYPE", "SUBJECT", "DETAILS", "WHO")
        output.long_table(header, map(event_row, events), right=(0,))


def print_as_they_come(found: Iterable[StoredEvent], format_: str) -> None:
    """Print each event at once, as a line of text or of JSON."""
    for event in found:
        if format_ == "json":
            output.json_line(fields(event))
        else:
            _, when, kind, about, details, who = event_row(event)
            output.line(f"{when}  {kind:<16}  {about}  {details}  {who}")


def print_json(found: Iterable[StoredEvent]) -> None:
    """Print events as one JSON array."""
    output.json_array(map(fields, found))


def event_row(event: StoredEvent) -> tuple[str, ...]:
    """Return an event's cells in a table of events."""
    return (
        str(event.seq),
        output.local_time_with_offset(event.occurred_at_ns),
        event.type,
        subject(event.subject, getattr(event.data, "spelling", None)),
        describe(event).details,
        who(event.actor),
    )


def subject(text: str, spelling: str | None = None) -> str:
    """Return an event's subject as people read it; of a reference, the spelling if that is known."""
    return output.short(text) if text.startswith("sha256:") else as_typed(text, spelling)


def some(found: Iterable[StoredEvent]) -> Iterator[StoredEvent] | None:
    """Return the events; None, said on stderr, if there are none."""
    events = iter(found)
    for first in events:
        return chain((first,), events)
    output.line("No such events.", err=True)
    return None
