"""The history command: everything that ever happened to an image, as a timeline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from msb_cache.cli import look, output
from msb_cache.cli.common import examples, open_cache, stopping
from msb_cache.cli.describe import describe
from msb_cache.cli.event_lines import position, print_as_they_come, print_cloudevents
from msb_cache.cli.filters import chosen, filter_options
from msb_cache.cli.formats import Shown, nothing, shown_options
from msb_cache.cli.privacy import Told, privacy_options
from msb_cache.cli.tables import Cell, Column, rendered, sentence
from msb_cache.queries.resolve import familiar
from msb_cache.queries.told import who
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.eventstore.store import StoredEvent


@click.command(
    epilog=examples(
        "msb-cache history app:1 --since 'last monday'",
        "msb-cache history 'ghcr.io/acme/*' --type image.removed",
    )
)
@click.argument("reference", metavar="REF")
@filter_options
@shown_options("the events' positions, such as @5", more=("cloudevents",))
@privacy_options(("cloudevents",))
@click.pass_obj
def history(
    home: str | None, /, reference: str, shown: Shown, told: Told, follow: bool, **given: Any
) -> None:
    """Show everything that ever happened to an image.

    Oldest first, also when the image is gone.

    That is loads, pulls, uses, boots and their ends, holds, retags and removals, and each file that went and
    its size. At the end stands who uses it now. REF may
    have wildcards, as in 'ghcr.io/acme/*', or be a digest or its beginning.

    TIME is ISO 8601, or such as 'yesterday 14:00', friday, '2 days ago', 1h30m; @5 is an event of the log.
    """
    with open_cache(home) as cache:
        if follow:
            with stopping() as stopped:
                events = cache.follow(reference, stopped=stopped, **chosen(given))
                if shown.kind == "cloudevents":
                    print_cloudevents(cache, events, **told)
                else:
                    print_as_they_come(events, shown)
            return

        def timeline(found: Iterable[StoredEvent]) -> None:
            _print_timeline(found, recorded=given["recorded"])
            if cache.kept_by_msb and not any(given.values()):
                for use in cache.uses(reference):
                    by = () if use.holder is None else (use.holder,)
                    sentence(output.in_use(by, look.absolute(use.since_ns)))

        found = cache.iter_history(reference, **chosen(given))
        if shown.kind == "cloudevents":
            print_cloudevents(cache, found, **told)
            return
        shown.items(found, fields=jsonable, name=position, table=timeline)


COMMAND = history

_COLUMNS = (
    Column("WHEN", "time"),
    Column("WHAT", "word"),
    Column("DIGEST", "digest", leave=2),
    Column("DETAILS", "prose"),
    Column("WHO", leave=1),
)


_RECORDED = Column("RECORDED", "time")


def columns(*, recorded: bool) -> tuple[Column, ...]:
    """Return the columns of a timeline."""
    return (*_COLUMNS[:1], _RECORDED, *_COLUMNS[1:]) if recorded else _COLUMNS


def _print_timeline(found: Iterable[StoredEvent], *, recorded: bool) -> None:
    shown = rows(nothing("No such events.", found), recorded=recorded)
    output.lines(rendered(columns(recorded=recorded), shown, header=False, gap=2))


def _as(event: StoredEvent) -> str:
    """Return under which spelling it happened, of a reference that was not typed in familiar form."""
    spelling = getattr(event.data, "spelling", None)
    return f"as {spelling}" if spelling and spelling != familiar(event.subject) else ""


def rows(events: Iterator[StoredEvent], *, recorded: bool) -> Iterator[tuple[Cell, ...]]:
    """Yield each event's cells; also with when it was recorded, behind when it occurred."""
    before = ("", "")
    moment = look.moments()
    for event in events:
        line = describe(event)
        when = moment(event.occurred_at_ns)
        # What one command did stands together: its time and its author are shown once. What was observed
        # happened at times of its own.
        group = (event.operation, when if event.actor.observed else "")
        repeated, before = before == group, group
        yield (
            "" if repeated else output.styled(when, dim=True),
            *((output.styled(moment(event.recorded_at_ns), dim=True),) if recorded else ()),
            output.styled(line.what, fg=line.colour, bold=not getattr(event, "shared", False)),
            line.digest,
            ", ".join(filter(None, (_as(event), line.details))),
            "" if repeated else who(event.actor),
        )
