"""What a fleet's hosts have: how they stand, images, when those were used, who holds them, and prunes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from msb_cache.cli import holders, last_used, output, prunes
from msb_cache.cli import list as list_of_one
from msb_cache.cli.common import doing, examples, limit_option, note
from msb_cache.cli.fleet import of_fleet, say_how_far
from msb_cache.cli.formats import Shown, nothing, shown_options
from msb_cache.cli.tables import Cell, Column, show
from msb_cache.shapes import jsonable
from msb_cache.wording import short_log_id

if TYPE_CHECKING:
    from msb_cache.fleet.fleet import Fleet
    from msb_cache.fleet.hosts import OnHost
    from msb_cache.fleet.standing import HostStanding
    from msb_cache.models import ImageHandle

F = TypeVar("F", bound=Callable[..., Any])

_HOST = Column("HOST", "name")
_COLUMNS = (
    _HOST,
    Column("SEEN", "time"),
    Column("EVENTS", "count", leave=2),
    Column("VERIFIED", "count", leave=4),
    Column("LAG", "count", leave=1),
    Column("IMAGES", "count", leave=3),
    Column("SIZE", "size"),
    Column("FREE", "size"),
    Column("PROBLEM", "prose"),
)
_NOT_SAID = 2**63
_SORTS: dict[str, Callable[[HostStanding], int]] = {
    "free": lambda host: _NOT_SAID if host.free_bytes is None else host.free_bytes,
    "size": lambda host: -_size(host),
    "seen": lambda host: host.seen_at_ns,
}


def _host_option(command: F) -> F:
    return click.option(
        "--host",
        "hosts",
        multiple=True,
        metavar="HOST",
        help="Only this host: its name, its role, or the beginning of its log's id; repeatable.",
    )(command)


_as_of_option = click.option(
    "--as-of",
    metavar="TIME|@SEQ",
    help="As it was at this time or, of one host, after this event of its log.",
)


@click.command(
    "hosts",
    short_help="Show how each host stands.",
    epilog=examples("msb-cache fleet hosts --sort free", "msb-cache fleet hosts --format jsonl"),
)
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option(
    "--sort",
    type=click.Choice([*_SORTS]),
    help="The fullest, the largest or the longest not seen first; without it by name.",
)
@shown_options("the hosts' names")
@of_fleet
def hosts_(fleet: Fleet, hosts: tuple[str, ...], sort: str | None, shown: Shown) -> None:
    """Show when each host was seen, how far its log is here, and how full it is.

    VERIFIED is up to which event the folder has checked the chain, and folded. LAG is how many of a host's
    events are not shipped or not folded yet. SIZE is what its cache took when it was seen, else what its
    index knows of its images. PROBLEM is why a log is not folded on, what is wrong with a signed checkpoint,
    and what was refused; `msb-cache fleet acknowledge` has that go.
    """
    found = fleet.hosts(hosts)
    if sort is not None:
        found.sort(key=_SORTS[sort])
    names = _names(found)

    def table(_: Iterable[HostStanding]) -> None:
        rows = (
            (
                names(host),
                host.seen_at_ns,
                host.events,
                host.folded_seq,
                host.not_shipped + host.not_folded,
                host.images,
                _size(host),
                host.free_bytes,
                "; ".join(host.problems) or None,
            )
            for host in nothing(_no_logs(fleet), found)
        )
        show(_COLUMNS, rows)

    shown.items(found, fields=jsonable, name=lambda host: host.host, table=table)
    if not hosts and not shown.quiet:
        known = {host.log_id for host in found}
        others = [alert for alert in fleet.alerts() if alert.log_id not in known]
        if others:
            by = ", ".join(sorted({f"{alert.role} ({alert.kind})" for alert in others})[:5])
            times = output.plural(sum(alert.times for alert in others), "time")
            note(f"{times} a log was refused that is not here: {by}")


@click.command(
    "list",
    short_help="List the images of all hosts.",
    epilog=examples(
        "msb-cache fleet list 'ghcr.io/acme/*'",
        "msb-cache fleet list --host ci-7 --sort size -n 10",
        "msb-cache fleet list --format '{host}\\t{reference}'",
        "msb-cache fleet list app:1 --as-of 'monday 9:00'",
    ),
)
@click.argument("patterns", nargs=-1, metavar="[REF]...")
@list_of_one.sort_option
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="Only what reference=PATTERN, digest=DIGEST or dangling selects; repeatable.",
)
@click.option("-n", "--limit", type=click.IntRange(1), metavar="N", help="Only the first N.")
@_host_option
@_as_of_option
@shown_options("references")
@of_fleet
def list_(
    fleet: Fleet,
    patterns: tuple[str, ...],
    sort: str,
    filters: tuple[str, ...],
    limit: int | None,
    hosts: tuple[str, ...],
    as_of: str | None,
    shown: Shown,
) -> None:
    """List the images of all hosts, newest first.

    Of REFs, which may have wildcards as in 'ghcr.io/acme/*', only the images that they mean.

    With --as-of the hosts' logs are folded anew up to then, which takes time: give REFs or --host where you
    can.
    """
    key, descending = list_of_one.ORDERS[sort]
    progress = doing(quiet=shown.quiet)
    found = fleet.list(*patterns, filter=filters, hosts=hosts, as_of=as_of, progress=progress)
    chosen = sorted(found, key=lambda each: key(each.found), reverse=descending)[:limit]
    # Of the past these are folded already.
    on = hosts if as_of is None else sorted({each.log_id for each in chosen})
    damage = fleet.damage(hosts=on, as_of=as_of, progress=progress) if chosen else []
    damaged = {(each.log_id, each.found.reference) for each in damage}

    def fields(each: OnHost[ImageHandle]) -> dict[str, Any]:
        return {**jsonable(each), "damaged": (each.log_id, each.found.reference) in damaged}

    _show(
        fleet,
        shown,
        chosen,
        list_of_one.COLUMNS,
        list_of_one.row,
        fields=fields,
        asked=(hosts, as_of),
    )
    for one in chosen:
        if (one.log_id, one.found.reference) in damaged:
            note(f"{one.found.reference} on {one.host} is damaged: another program deleted files of it")


@click.command(
    "last-used",
    short_help="Show when images were last used, and where.",
    epilog=examples(
        "msb-cache fleet last-used python:3.12",
        "msb-cache fleet last-used --idle 30d",
        "msb-cache fleet last-used --host ci-7 --idle-for '30 days'",
        "msb-cache fleet last-used python:3.12 --as-of 2026-09-01",
    ),
)
@click.argument("reference", metavar="[REF]", required=False)
@click.option("--idle", metavar="DURATION", help="Only images that no host has used for as long, each once.")
@click.option("--idle-for", metavar="DURATION", help="Only those idle on their host for as long.")
@_host_option
@_as_of_option
@shown_options("references")
@of_fleet
def last_used_(
    fleet: Fleet,
    reference: str | None,
    idle: str | None,
    idle_for: str | None,
    hosts: tuple[str, ...],
    as_of: str | None,
    shown: Shown,
) -> None:
    """Show when images were last used on each host, and the event that says so.

    Of REF the host that used it last stands first. With --idle each reference stands there once, with the
    host that used it last. Else those come first that lie idle longest. Ages are by this machine's clock, or
    counted from the moment of --as-of.
    """
    if idle is not None and idle_for is not None:
        raise click.UsageError("--idle is about all hosts together, --idle-for about each; give one of them")
    everywhere = idle is not None
    found = fleet.last_used(
        reference,
        at_least=idle or idle_for,
        everywhere=everywhere,
        hosts=hosts,
        as_of=as_of,
        progress=doing(quiet=shown.quiet),
    )
    _show(fleet, shown, found, last_used.COLUMNS, last_used.row, asked=(hosts, as_of))


@click.command(
    "holders",
    short_help="Show who holds which images on which hosts.",
    epilog=examples(
        "msb-cache fleet holders app:1",
        "msb-cache fleet holders --host ci-7",
        "msb-cache fleet holders app:1 --as-of '2 days ago'",
    ),
)
@click.argument("reference", metavar="[REF]", required=False)
@_host_option
@_as_of_option
@shown_options("the holders' names")
@of_fleet
def holders_(
    fleet: Fleet, reference: str | None, hosts: tuple[str, ...], as_of: str | None, shown: Shown
) -> None:
    """Show who holds what on which host, since when and by which reference.

    REF is a reference, or a manifest's digest or its beginning; without one, all holders.
    """
    found = fleet.holds(reference, hosts=hosts, as_of=as_of, progress=doing(quiet=shown.quiet))
    sentence = "Nobody holds anything on any host." if reference is None else "Nobody holds it on any host."
    _show(
        fleet,
        shown,
        found,
        holders.COLUMNS,
        holders.row,
        name=lambda each: each.found.holder,
        sentence=sentence,
        asked=(hosts, as_of),
    )


@click.group(
    "prunes",
    invoke_without_command=True,
    short_help="List past prunes and removals of all hosts, or show one.",
    epilog=examples("msb-cache fleet prunes -n 20", "msb-cache fleet prunes show 01a20ede"),
)
@limit_option
@_host_option
@shown_options("the operations' ids")
@of_fleet
def prunes_(fleet: Fleet, limit: int | None, hosts: tuple[str, ...], shown: Shown) -> None:
    """List past prunes and removals of all hosts, those that began last first."""
    _show(
        fleet,
        shown,
        fleet.prunes(limit=limit, hosts=hosts),
        prunes.COLUMNS,
        prunes.row,
        name=lambda each: each.found.operation,
        sentence="Nothing was ever pruned or removed on any host.",
    )


@prunes_.command(
    "show",
    short_help="Show what one prune or removal deleted and kept.",
    epilog=examples("msb-cache fleet prunes show 01a20ede"),
)
@click.argument("operation", metavar="ID")
@_host_option
@shown_options("the references that it removed")
@of_fleet
def show_one(fleet: Fleet, operation: str, hosts: tuple[str, ...], shown: Shown) -> None:
    """Show everything one prune or removal deleted, what it kept and why, who ran it, and where."""
    from msb_cache.cli.deletions import print_deletion
    from msb_cache.queries.resolve import as_typed

    report = fleet.prune_report(operation, hosts=hosts)

    def table() -> None:
        output.line(f"Host:        {report.host} (log {short_log_id(report.log_id)})")
        print_deletion(report.found)

    shown.item(
        lambda: jsonable(report),
        names=lambda: (as_typed(reference, data.spelling) for reference, data in report.found.images),
        table=table,
    )


def _show(
    fleet: Fleet,
    shown: Shown,
    found: Sequence[OnHost[Any]],
    columns: Sequence[Column],
    row: Callable[[Any], tuple[Cell, ...]],
    *,
    fields: Callable[[OnHost[Any]], dict[str, Any]] = jsonable,
    name: Callable[[OnHost[Any]], str] = lambda each: each.found.reference,
    sentence: str = "No such images on any host.",
    asked: tuple[Sequence[str], str | None] = ((), None),
) -> None:
    """Show what hosts answered: the columns of one host's command, and before them which host it is.

    ``asked`` are the hosts that were named and the moment, for what is said about their logs.
    """
    names = _names(found)
    printed = {name(each): each for each in reversed(found)}  # of a name the first, once
    hosts, as_of = asked

    def table(_: Iterable[OnHost[Any]]) -> None:
        if not found and (as_of is None or fleet.knows(as_of, hosts)):
            output.line(sentence if fleet.logs() else _no_logs(fleet), err=True)
        show((_HOST, *columns), ((names(each), *row(each.found)) for each in found))

    shown.items(
        found,
        fields=fields,
        name=lambda each: name(each) if printed[name(each)] is each else None,
        table=table,
    )
    say_how_far(fleet, quiet=shown.quiet, hosts=hosts, as_of=as_of)


def _names(found: Iterable[HostStanding | OnHost[Any]]) -> Callable[[HostStanding | OnHost[Any]], str]:
    """Return what names a host in a table: with its log's id, where several have that name."""
    logs = Counter(host for host, _ in {(each.host, each.log_id) for each in found})

    def name(each: HostStanding | OnHost[Any]) -> str:
        return each.host if logs[each.host] == 1 else f"{each.host} ({short_log_id(each.log_id)})"

    return name


def _size(host: HostStanding) -> int:
    return host.image_bytes if host.cache_bytes is None else host.cache_bytes


def _no_logs(fleet: Fleet) -> str:
    if fleet.is_file:
        return "The fleet has no logs yet; `msb-cache fleet --db FILE take EXPORT` takes a host's."
    return (
        "The fleet has no logs yet; `msb-cache fleet enrol NAME` lets a host in, and `msb-cache ship` there "
        "sends its log."
    )
