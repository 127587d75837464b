"""Commands that show events: history and events, all at once or as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import click

from msb_cache.cli import output
from msb_cache.cli.common import (
    examples,
    format_option,
    open_cache,
    stopping,
)
from msb_cache.cli.filters import chosen, filter_options

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
@format_option
@click.pass_obj
def history(home: str | None, /, reference: str, format_: str, follow: bool, **given: Any) -> None:
    """Show everything that ever happened to an image.

    Oldest first, also when the image is gone.

    That is loads, pulls, uses, holds, retags and removals, and each file that went and its size. REF may
    have wildcards, as in 'ghcr.io/acme/*', or be a digest or its beginning.

    TIME is ISO 8601, or such as 'yesterday 14:00', 'last monday', '2 days ago'.
    """
    with open_cache(home) as cache:
        if follow:
            with stopping() as stopped:
                print_as_they_come(cache.follow(reference, stopped=stopped, **chosen(given)), format_)
            return
        found = cache.iter_history(reference, **chosen(given))
        if format_ == "json":
            _print_json(found)
        else:
            _print_timeline(found)


@click.command(
    epilog=examples(
        "msb-cache events --since '1 hour ago' --type image.removed",
        "msb-cache events --follow --format json",
    )
)
@click.option(
    "--subject", multiple=True, metavar="REF", help="Only about this image, digest or operation; repeatable."
)
@filter_options
@format_option
@click.pass_obj
def events(home: str | None, /, format_: str, follow: bool, **given: Any) -> None:
    """Show the event log.

    A reference may have wildcards, as in 'ghcr.io/acme/*'.

    TIME is ISO 8601, or such as 'yesterday 14:00', 'last monday', '2 days ago'.
    """
    with open_cache(home) as cache:
        if follow:
            with stopping() as stopped:
                print_as_they_come(cache.follow(stopped=stopped, **chosen(given)), format_)
            return
        found = cache.iter_events(**chosen(given))
        if format_ == "json":
            _print_json(found)
        else:
            print_events(found)


COMMANDS = (history, events)


def print_events(found: Iterable[StoredEvent]) -> None:
    """Print a table of events, one line each."""
    some = _some(found)
    if some is not None:
        header = ("SEQ", "WHEN", "TYPE", "SUBJECT", "DETAILS", "WHO")
        output.long_table(header, map(event_row, some), right=(0,))


def print_as_they_come(found: Iterable[StoredEvent], format_: str) -> None:
    """Print each event at once, as a line of text or of JSON."""
    for event in found:
        click.echo(_json_line(event) if format_ == "json" else _line(event))


def subject(text: str) -> str:
    """Return an event's subject as people read it."""
    from msb_cache.queries.resolve import familiar

    return output.short(text) if text.startswith("sha256:") else familiar(text)


def _some(found: Iterable[StoredEvent]) -> Iterator[StoredEvent] | None:
    events = iter(found)
    for first in events:
        return chain((first,), events)
    click.echo("No such events.", err=True)
    return None


def _print_json(found: Iterable[StoredEvent]) -> None:
    from msb_cache.cli.describe import fields

    output.json_array(map(fields, found))


def event_row(event: StoredEvent) -> tuple[str, ...]:
    """Return an event's cells in a table of events."""
    from msb_cache.cli.describe import describe, who

    return (
        str(event.seq),
        output.local_time_with_offset(event.occurred_at_ns),
        event.type,
        subject(event.subject),
        describe(event).details,
        who(event.actor),
    )


def _line(event: StoredEvent) -> str:
    _, when, kind, about, details, who = map(output.printable, event_row(event))
    return f"{when}  {kind:<16}  {about}  {details}  {who}".rstrip()


def _json_line(event: StoredEvent) -> str:
    import json

    from msb_cache.cli.describe import fields

    return json.dumps(fields(event), ensure_ascii=False)


def _print_timeline(found: Iterable[StoredEvent]) -> None:
    some = _some(found)
    if some is not None:
        output.lines(_timeline(some))


_LONGEST = 48  # characters of details: one long reason must not push everybody's name away


def _timeline(events: Iterator[StoredEvent]) -> Iterator[str]:
    rows = _rows(events)
    first = [*islice(rows, output.SCREENFUL)]
    cells_of = output.fitted([(*cells[:3], cells[3][:_LONGEST], cells[4]) for cells, _ in first])
    for cells, look in chain(first, rows):
        when, what, *rest = cells_of(cells)
        styled = [click.style(when, dim=True) if cells[0] else when, click.style(what, **look), *rest]
        yield "  ".join(styled).rstrip()


def _rows(events: Iterator[StoredEvent]) -> Iterator[tuple[Sequence[str], dict[str, Any]]]:
    """Yield each event's cells, and how what happened looks."""
    from msb_cache.cli.describe import describe, who

    before = ("", "")
    for event in events:
        line = describe(event)
        when = output.local_time_with_offset(event.occurred_at_ns)
        # What one command did stands together: its time and its author are shown once. What was observed
        # happened at times of its own.
        group = (event.operation, when if event.actor.observed else "")
        repeated, before = before == group, group
        look = {"fg": line.colour, "bold": not getattr(event, "shared", False)}
        details = output.printable(line.details)
        yield (
            ("" if repeated else when, line.what, line.digest, details, "" if repeated else who(event.actor)),
            look,
        )
