"""Events as rows of a table, as lines that come one by one, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from msb_cache.cli import look, output
from msb_cache.cli.describe import describe
from msb_cache.cli.formats import Shown, nothing
from msb_cache.cli.tables import Cell, Column, sentence, show
from msb_cache.queries.resolve import as_typed
from msb_cache.queries.told import who
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.cache import ImageCache
    from msb_cache.eventstore.store import StoredEvent

COLUMNS = (
    Column("SEQ", "count"),
    Column("WHEN", "time"),
    Column("TYPE", "name"),
    Column("SUBJECT", "name"),
    Column("WHO", leave=1),
    Column("DETAILS", "prose"),
)


_RECORDED = Column("RECORDED", "time")


def columns(*, recorded: bool) -> tuple[Column, ...]:
    """Return the columns of a table of events; at wish with when each was recorded."""
    return (*COLUMNS[:2], _RECORDED, *COLUMNS[2:]) if recorded else COLUMNS


def show_events(found: Iterable[StoredEvent], shown: Shown, *, recorded: bool = False) -> None:
    """Show events as ``--format`` and ``-q`` say; in tables also with when each was recorded."""

    def table(events: Iterable[StoredEvent]) -> None:
        print_events(events, recorded=recorded)

    shown.items(found, fields=jsonable, name=position, table=table)


def print_events(found: Iterable[StoredEvent], *, recorded: bool = False) -> None:
    """Print a table of events; also with when each was recorded."""
    events = nothing("No such events.", found)
    if recorded:
        show(columns(recorded=True), map(recorded_row, events))
    else:
        show(COLUMNS, map(event_row, events))


def print_as_they_come(found: Iterable[StoredEvent], shown: Shown) -> None:
    """Print each event at once, as a line of text or of JSON, or its position."""
    shown.as_they_come(found, fields=jsonable, name=position, line=_print_line)


def print_cloudevents(
    cache: ImageCache, found: Iterable[StoredEvent], *, with_config: bool, people: bool
) -> None:
    """Print each event at once as a CloudEvent, a line of JSON."""
    from msb_cache.interchange.cloudevents import CloudEvents
    from msb_cache.interchange.privacy import Privacy

    rendered = None
    for event in found:
        if rendered is None:  # a log that is waited for has no id yet
            [first] = cache.events(after=0, limit=1)
            rendered = CloudEvents(first.subject, Privacy(config=with_config, people=people)).of
        output.json_lines([rendered(event)])


def position(event: StoredEvent) -> str:
    """Return an event's position as commands take it: ``@5``."""
    return f"@{event.seq}"


def _print_line(event: StoredEvent) -> None:
    sentence(*line_of(event))


def line_of(event: StoredEvent, host: str | None = None) -> tuple[str, ...]:
    """Return the parts of the line that says an event as it comes, at wish with whose log has it."""
    # A line that stays on the screen says when it was: how long ago would soon be wrong.
    when, about = look.absolute(event.occurred_at_ns), subject(event)
    parts = (f"{event.type:<16}", look.digest(about), describe(event).details, who(event.actor))
    return when, "  ", "  ".join(filter(None, (host, *parts)))


def event_row(event: StoredEvent) -> tuple[Cell, ...]:
    """Return an event's cells in a table of events."""
    return (
        str(event.seq),
        event.occurred_at_ns,
        event.type,
        subject(event),
        who(event.actor),
        describe(event).details,
    )


def recorded_row(event: StoredEvent) -> tuple[Cell, ...]:
    """Return an event's cells with when it was recorded, behind when it occurred."""
    cells = event_row(event)
    return (*cells[:2], event.recorded_at_ns, *cells[2:])


def subject(event: StoredEvent) -> str:
    """Return an event's subject as people read it; of a reference, the spelling if that is known."""
    return subject_of(event.subject, getattr(event.data, "spelling", None))


def subject_of(text: str, spelling: str | None) -> str:
    """Return a subject as people read it: a digest as it is, a reference as it was typed."""
    return text if text.startswith("sha256:") else as_typed(text, spelling)
