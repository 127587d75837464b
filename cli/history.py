"""The history command: everything that ever happened to an image, as a timeline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import click

from msb_cache.cli import output
from msb_cache.cli.common import examples, format_option, open_cache, stopping
from msb_cache.cli.describe import describe, who
from msb_cache.cli.event_lines import print_as_they_come, print_json, some
from msb_cache.cli.filters import chosen, filter_options
from msb_cache.queries.resolve import familiar

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

    That is loads, pulls, uses, boots and their ends, holds, retags and removals, and each file that went and
    its size. At the end stands who uses it now. REF may
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
            print_json(found)
        else:
            _print_timeline(found)
            if cache.kept_by_msb and not any(given.values()):
                for use in cache.uses(reference):
                    by = () if use.holder is None else (use.holder,)
                    output.line(output.in_use(by, output.local_time_with_offset(use.since_ns)))


COMMAND = history


def _print_timeline(found: Iterable[StoredEvent]) -> None:
    events = some(found)
    if events is not None:
        output.lines(_timeline(events))


_LONGEST = 48  # characters of details: one long reason must not push the actors' names away
# characters of details: one long reason must not push the actors' names away


def _timeline(events: Iterator[StoredEvent]) -> Iterator[Sequence[str | output.Styled]]:
    rows = _rows(events)
    first = [*islice(rows, output.SCREENFUL)]
    cells_of = output.fitted([(*cells[:3], cells[3][:_LONGEST], cells[4]) for cells, _ in first])
    for cells, look in chain(first, rows):
        when, what, *rest = cells_of(cells)
        time = output.styled(when, dim=True) if cells[0] else when
        yield time, "  ", output.styled(what, **look), "  ", "  ".join(rest)


def _as(event: StoredEvent) -> str:
    """Return under which spelling it happened, of a reference that was not typed in familiar form."""
    spelling = getattr(event.data, "spelling", None)
    return f"as {spelling}" if spelling and spelling != familiar(event.subject) else ""


def _rows(events: Iterator[StoredEvent]) -> Iterator[tuple[Sequence[str], dict[str, Any]]]:
    """Yield each event's cells, and how what happened looks."""
    before = ("", "")
    for event in events:
        line = describe(event)
        when = output.local_time_with_offset(event.occurred_at_ns)
        # What one command did stands together: its time and its author are shown once. What was observed
        # happened at times of its own.
        group = (event.operation, when if event.actor.observed else "")
        repeated, before = before == group, group
        look = {"fg": line.colour, "bold": not getattr(event, "shared", False)}
        yield (
            (
                "" if repeated else when,
                line.what,
                line.digest,
                ", ".join(filter(None, (_as(event), line.details))),
                "" if repeated else who(event.actor),
            ),
            look,
        )
