"""Commands of the fleet that see to its logs: fleet verify and fleet archive."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from msb_cache.cli import output
from msb_cache.cli.common import PATH, doing, examples, on_terminal
from msb_cache.cli.differences import print_differences
from msb_cache.cli.fleet import of_fleet
from msb_cache.cli.formats import Shown, nothing, shown_options
from msb_cache.cli.tables import Cell, Column, hanging, show
from msb_cache.shapes import jsonable
from msb_cache.wording import short_log_id

if TYPE_CHECKING:
    from msb_cache.fleet.archive import Archived, Refolded
    from msb_cache.fleet.fleet import Fleet
    from msb_cache.fleet.verify import Compared, FleetVerified

_HOST = click.option("--host", "hosts", multiple=True, metavar="HOST", help="Only of this host; repeatable.")


@click.command(
    "verify",
    short_help="Check the logs, and what is answered from them.",
    epilog=examples(
        "msb-cache fleet verify",
        "msb-cache fleet verify ci-7",
        "msb-cache fleet verify --against log.jsonl",
        "msb-cache fleet verify --archive /srv/archive",
    ),
)
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option(
    "--against",
    metavar="FILE",
    type=PATH,
    help="A host's export or database: compare its log with that, event by event.",
)
@click.option(
    "--archive", metavar="FOLDER", type=PATH, help="Read the events of the archive, too, from the first on."
)
@shown_options("the ids of logs that are not sound")
@of_fleet
def verify_(
    fleet: Fleet, hosts: tuple[str, ...], against: str | None, archive: str | None, shown: Shown
) -> int:
    """Check the hosts' logs where they were shipped to.

    That is each log's hash chain, from its first event or from the last archived one on; all that the fleet's
    answers are read from, against a fold of the log; and signed checkpoints. It takes a role that may read
    events: a folder, or the role that made the fleet.

    With --against also that the host's own log is the same, and how many events either has that the other
    has not.
    """
    found = fleet.verify(hosts, against=against, archive=archive, progress=doing(quiet=shown.quiet))

    def table(logs: Iterable[FleetVerified]) -> None:
        for log in nothing("The fleet has no logs.", logs):
            _print_log(log)

    shown.items(
        found, fields=jsonable, name=lambda log: None if log.sound else log.log_id, table=table, paged=False
    )
    return 0 if all(log.sound for log in found) else 1


@click.command(
    "archive",
    short_help="Move old events to Parquet files.",
    epilog=examples(
        "msb-cache fleet archive --before '90 days ago' --to /srv/archive --dry-run",
        "msb-cache fleet archive --before 2026-09-01 --to /srv/archive --yes",
        "msb-cache fleet archive --refold /srv/archive",
    ),
)
@click.option("--before", metavar="TIME", help="Move what was recorded before this time.")
@click.option("--to", "folder", metavar="FOLDER", type=PATH, help="Where the files go.")
@click.option(
    "--refold",
    metavar="FOLDER",
    type=PATH,
    help="Instead: fold the archived events anew, as another release of msb-cache needs it.",
)
@_HOST
@click.option("-n", "--dry-run", is_flag=True, help="Only show what would go.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@shown_options("the files' paths")
@of_fleet
def archive_(
    fleet: Fleet,
    before: str | None,
    folder: str | None,
    refold: str | None,
    hosts: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    shown: Shown,
) -> int:
    """Move old events from the servers to Parquet files.

    Of each log go all events that were recorded before TIME and are folded: a whole beginning, into one file
    that is read back before they are deleted. What was folded from them stays, and is answered as before; the
    events themselves are told no more by `fleet events` and `fleet history`.

    Keep the files: without them nobody can fold those events anew, which a later release may have to:
    then --refold does it.
    """
    if refold is not None:
        if before or folder or dry_run:
            raise click.UsageError("--refold moves nothing; it goes with --host alone")
        return _refold(fleet, refold, hosts, shown)
    if before is None or folder is None:
        raise click.UsageError("say which events go, with --before TIME, and where to, with --to FOLDER")
    if not dry_run and not yes:
        if not on_terminal(sys.stdin):
            raise click.UsageError(
                "nobody to ask: stdin is no terminal; use --yes, or --dry-run to look first"
            )
        planned = fleet.archive(before, folder, hosts, dry_run=True)
        _print_archived(planned, err=True)
        if not any(each.events for each in planned):
            return 0
        if not click.confirm("\nMove these?", err=True):
            raise click.Abort
    found = fleet.archive(before, folder, hosts, dry_run=dry_run, progress=doing(quiet=shown.quiet))
    shown.items(
        found,
        fields=jsonable,
        name=lambda each: None if each.path is None else str(each.path),
        table=_print_archived,
        paged=False,
    )
    return 1 if any(each.problem for each in found) else 0


def _refold(fleet: Fleet, folder: str, hosts: tuple[str, ...], shown: Shown) -> int:
    found = fleet.refold(folder, hosts, progress=doing(quiet=shown.quiet))

    def table(logs: Iterable[Refolded]) -> None:
        for log in nothing("Nothing has to be folded anew.", logs):
            mark = output.styled("✓", fg="green") if log.problem is None else output.styled("✗", fg="red")
            told = f"folded anew up to event {log.archived_seq}" if log.problem is None else log.problem
            hanging(f"{log.host} ({short_log_id(log.log_id)}): {told}", "  ", mark, " ")

    shown.items(found, fields=jsonable, name=lambda log: log.log_id, table=table, paged=False)
    return 1 if any(log.problem for log in found) else 0


_ARCHIVED = (
    Column("HOST", "name"),
    Column("LOG", "digest", leave=3),
    Column("EVENTS", "count"),
    Column("UP TO", "count"),
    Column("SIZE", "size", leave=1),
    Column("FILE", "name", leave=2),
)


def _print_archived(found: Iterable[Archived], *, err: bool = False) -> None:
    rows = [*nothing("Nothing is that old.", found)]
    show(_ARCHIVED, map(_archived_row, (each for each in rows if each.problem is None)), err=err)
    for each in rows:
        if each.problem is not None:
            hanging(each.problem, "  ", output.styled("✗", fg="red"), f" {each.host} ", err=True)
        elif each.not_folded:
            stay = f"{output.plural(each.not_folded, 'event')} more stay until they are folded"
            hanging(stay, "  ", output.styled("!", fg="yellow"), f" {each.host} ", err=True)


def _archived_row(each: Archived) -> tuple[Cell, ...]:
    name = None if each.path is None else each.path.name
    return each.host, short_log_id(each.log_id), each.events, each.last, each.bytes, name


def _print_log(log: FleetVerified) -> None:
    good, bad = output.styled("✓", fg="green"), output.styled("✗", fg="red")
    name = f"{log.host} ({short_log_id(log.log_id)})"
    head = f", head {log.head.hex()[:12]}" if log.events else ""
    archived = ""
    if log.archived_seq:
        archived = f", the first {log.archived_seq:,} in the archive" + (
            "" if log.archive_read else " not read"
        )
    hanging(
        f"{name}: {output.plural(log.events, 'event')}{head}{archived}", "  ", good if log.sound else bad, " "
    )
    for sentence in _wrong(log):
        hanging(sentence, " " * 6)
    print_differences(log.differences)
    if log.against is not None:
        _print_compared(log.against, 0 if log.archive_read else log.archived_seq)


def _wrong(log: FleetVerified) -> Iterable[str]:
    if log.broken is not None:
        yield log.broken.problem
    yield from log.problems
    yield from (each.detail for each in log.bad_checkpoints)
    if log.unreadable is not None:
        yield f"what is folded cannot be compared: {log.unreadable}"
    if log.differences:
        rows = output.plural(len(log.differences), "row")
        yield f"{rows} of what is folded not as the log says; a rebuild of what is folded mends that:"


def _print_compared(found: Compared, archived: int) -> None:
    if found.problem is not None:
        hanging(found.problem, " " * 6)
    same = f"{output.plural(found.events, 'event')} compared"
    more: list[Any] = [same]
    if found.file_has:
        more.append(f"the file has {found.file_has:,} more")
    if found.fleet_has:
        more.append(f"the fleet has {found.fleet_has:,} more")
    if archived:
        more.append(f"the first {archived:,} are in the archive: with --archive they are compared, too")
    hanging(", ".join(more), " " * 6)
