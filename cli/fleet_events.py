"""The commands of the group ``fleet`` that tell what happened: history, events, why and diff."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import tee
from typing import TYPE_CHECKING, Any

import click

from msb_cache.cli import diff as diff_here
from msb_cache.cli import history as history_here
from msb_cache.cli import output
from msb_cache.cli.common import doing, examples, note, stopping
from msb_cache.cli.event_lines import columns, event_row, line_of, recorded_row
from msb_cache.cli.filters import chosen, fleet_filter_options, hosts_option
from msb_cache.cli.fleet import of_fleet, say_how_far, say_what_is_archived
from msb_cache.cli.formats import Shown, nothing, shown_options
from msb_cache.cli.tables import Cell, Column, rendered, sentence, show
from msb_cache.cli.why import print_reasons
from msb_cache.shapes import jsonable
from msb_cache.wording import short_log_id

if TYPE_CHECKING:
    from msb_cache.eventstore.store import StoredEvent
    from msb_cache.fleet.fleet import Fleet
    from msb_cache.fleet.hosts import KnownLog, OnHost
    from msb_cache.queries.why import Reasons

    Found = OnHost[StoredEvent]

_HOST = Column("HOST", "name")


@click.command(
    "history",
    epilog=examples(
        "msb-cache fleet history python:3.12 -n 50",
        "msb-cache fleet history 'ghcr.io/acme/*' --type image.removed --since yesterday",
    ),
)
@click.argument("reference", metavar="REF")
@fleet_filter_options
@shown_options("each event's host and position, such as build-1@5")
@of_fleet
def history_(fleet: Fleet, reference: str, shown: Shown, follow: bool, **given: Any) -> None:
    """Show everything that ever happened to an image, on all hosts.

    Oldest first, in the order in which it was recorded; also what happened where the image is gone.

    REF may have wildcards, as in 'ghcr.io/acme/*', or be a digest or its beginning. TIME is as for `msb-cache
    history`; @5 is an event of one log, so it needs --host.
    """
    hosts, recorded = given.pop("hosts"), given["recorded"]
    if follow:
        with stopping() as stopped:
            come = fleet.follow(reference, hosts=hosts, stopped=stopped, said=note, **chosen(given))
            _as_they_come(come, _Names(fleet.logs(hosts)), shown)
        return

    def timeline(found: Iterable[Found]) -> None:
        shown_columns = (_HOST, *history_here.columns(recorded=recorded))
        rows = _timeline_rows(nothing("No such events.", found), names, recorded=recorded)
        output.lines(rendered(shown_columns, rows, header=False, gap=2))

    found: list[Found] = [*fleet.history(reference, hosts=hosts, **chosen(given))]  # type: ignore[list-item]
    names = _Names(found)
    shown.items(found, fields=jsonable, name=_position, table=timeline)
    say_how_far(fleet, quiet=shown.quiet)
    say_what_is_archived(fleet, hosts, quiet=shown.quiet)


@click.command(
    "events",
    short_help="Show the events of all hosts.",
    epilog=examples(
        "msb-cache fleet events --since '1 hour ago' --type image.removed",
        "msb-cache fleet events --follow --format json",
        "msb-cache fleet events -n 10 --format '{host} {seq} {type}'",
    ),
)
@click.option(
    "--subject", multiple=True, metavar="REF", help="Only about this image, digest or operation; repeatable."
)
@fleet_filter_options
@shown_options("each event's host and position, such as build-1@5")
@of_fleet
def events_(fleet: Fleet, shown: Shown, follow: bool, **given: Any) -> None:
    """Show the events of all hosts, in the order in which they were recorded.

    An event is shown when it was folded. A reference may have wildcards, as in 'ghcr.io/acme/*'. TIME is as
    for `msb-cache events`; @5 is an event of one log, so it needs --host.
    """
    hosts, recorded = given.pop("hosts"), given["recorded"]
    if follow:
        with stopping() as stopped:
            come = fleet.follow(hosts=hosts, stopped=stopped, said=note, **chosen(given))
            _as_they_come(come, _Names(fleet.logs(hosts)), shown)
        return
    row = recorded_row if recorded else event_row

    def table(found: Iterable[Found]) -> None:
        events = nothing("No such events.", found)
        names = _Names(few or fleet.logs(hosts))
        show((_HOST, *columns(recorded=recorded)), ((names(each), *row(each.found)) for each in events))

    found = fleet.iter_events(hosts=hosts, **chosen(given))
    few = [*found] if given["limit"] else []
    found = iter(few) if few else found
    shown.items(found, fields=jsonable, name=_position, table=table)
    say_how_far(fleet, quiet=shown.quiet)
    say_what_is_archived(fleet, hosts, quiet=shown.quiet)


@click.command(
    "why",
    short_help="Say why something is on hosts, or gone.",
    epilog=examples("msb-cache fleet why python:3.12", "msb-cache fleet why 695829d7"),
)
@click.argument("target", metavar="REF|DIGEST")
@hosts_option
@shown_options("the hosts that ever had it")
@of_fleet
def why_(fleet: Fleet, target: str, hosts: tuple[str, ...], shown: Shown) -> None:
    """Say why an image, manifest or layer is on hosts, or gone from them.

    Of each host that ever had it: what `msb-cache why` says there, without what only its files, its policy or
    msb's own database can tell.

    A DIGEST is that of a manifest or a layer (diff ID or blob), or a unique beginning of
    it: at least four digits, with sha256: or without.
    """
    found = fleet.why(target, hosts=hosts)
    shown.items(found, fields=jsonable, name=lambda each: each.host, table=_print_whys)
    if any(each.found.here for each in found) and not shown.quiet:
        note("hosts' policies, files and msb databases are not asked; `msb-cache why` on a host does that")
    say_how_far(fleet, quiet=shown.quiet)


@click.command(
    "diff",
    epilog=examples(
        "msb-cache fleet diff build-1 build-2", "msb-cache fleet diff build-1 build-2 --as-of yesterday"
    ),
)
@click.argument("before", metavar="HOST")
@click.argument("after", metavar="HOST")
@click.option("--as-of", metavar="TIME", help="What differed at this time.")
@shown_options("the references that differ")
@of_fleet
def diff_(fleet: Fleet, before: str, after: str, as_of: str | None, shown: Shown) -> None:
    """Show what one host has that another has not.

    That is images that only the second one has (+), or only the first (-), or that point at another digest
    there (~), holds and pins likewise, and by how many bytes they differ.

    HOST is a host's name, its role, or the beginning of its log's id.
    """
    found = fleet.diff(before, after, as_of=as_of, progress=doing(quiet=shown.quiet))
    changes = found.changes
    shown.item(
        lambda: jsonable(found),
        names=lambda: diff_here.changed(changes),
        table=lambda: diff_here.print_changes(
            changes,
            f"{found.from_host} (@{changes.from_position})",
            f"{found.to_host} (@{changes.to_position})",
            nothing="Nothing differs.",
        ),
    )
    hosts = [found.from_log_id, found.to_log_id]
    say_how_far(fleet, quiet=shown.quiet, hosts=hosts, as_of=as_of)


class _Names:
    """What names hosts in lines for people: with the log's id, where several logs have that name.

    Args:
        known: the logs that there are; those that come are counted, too.
    """

    def __init__(self, known: Iterable[KnownLog | Found]) -> None:
        self._ids: dict[str, set[str]] = {}
        for each in known:
            self(each)

    def __call__(self, each: KnownLog | Found) -> str:
        ids = self._ids.setdefault(each.host, set())
        ids.add(each.log_id)
        return each.host if len(ids) == 1 else f"{each.host} ({short_log_id(each.log_id)})"


def _as_they_come(found: Iterable[Found], names: _Names, shown: Shown) -> None:
    def line(each: Found) -> None:
        sentence(*line_of(each.found, names(each)))

    shown.as_they_come(found, fields=jsonable, name=_position, line=line)


def _position(each: Found) -> str:
    return f"{each.host}@{each.found.seq}"


def _timeline_rows(found: Iterator[Found], names: _Names, *, recorded: bool) -> Iterator[tuple[Cell, ...]]:
    found, events = tee(found)
    rows = history_here.rows((each.found for each in events), recorded=recorded)
    for each, row in zip(found, rows, strict=True):
        yield (names(each), *row)


def _print_whys(found: Iterable[OnHost[Reasons]]) -> None:
    for number, each in enumerate(found):
        if number:
            output.line()
        sentence(
            output.styled(each.host, bold=True),
            f"  log {short_log_id(each.log_id)}, up to @{each.folded_seq}",
        )
        print_reasons(each.found, elsewhere=True)
