"""The report command: a home in pictures, as one page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from msb_cache.cli import output
from msb_cache.cli.common import PATH, done, examples, note, open_cache
from msb_cache.cli.fleet import DB, DSN
from msb_cache.cli.formats import Shown, shown_options
from msb_cache.cli.privacy import Told, told_options
from msb_cache.shapes import jsonable

if TYPE_CHECKING:
    from msb_cache.report.facts import CacheReport
    from msb_cache.report.fleet_facts import FleetReport


@click.command(
    short_help="Draw the cache: what takes the disk, and who did what.",
    epilog=examples(
        "msb-cache report -o report.html",
        "msb-cache report --text --since 90d",
        "msb-cache report --as-of 'last friday' --format json",
        "msb-cache report --fleet -o fleet.html",
    ),
)
@click.option(
    "-o", "--output", "path", type=PATH, help="Write the page to this file of mode 0600; -: to stdout."
)
@click.option(
    "--since", metavar="TIME", default="30d", show_default=True, help="Show the time from then on; @1: all."
)
@click.option("--as-of", metavar="TIME", help="Show the cache as it was then.")
@click.option("--text", "as_text", is_flag=True, help="Print it as text: tables, with bars and a sparkline.")
@click.option("--fleet", "of_fleet", is_flag=True, help="Draw the hosts of a fleet instead.")
@DSN
@DB
@told_options
@shown_options("the file's path")
@click.pass_obj
def report(
    home: str | None,
    path: str | None,
    since: str,
    as_of: str | None,
    as_text: bool,
    of_fleet: bool,
    dsn: str | None,
    db: str | None,
    told: Told,
    shown: Shown,
) -> None:
    """Draw the cache: how large it was and what made it so, the life of each image, what takes the disk.

    The page is one file that needs no network, and can be read without JavaScript. What is idle, who pulled
    and deleted how much, and what happened stand in it as well. --format json prints what it shows.

    With --fleet it draws the hosts of a fleet: by free room, which images they have, what was deleted where.

    TIME is ISO 8601, or such as 'yesterday 14:00', friday, '2 days ago', 1h30m; @5 is an event of the log.
    """
    if path is not None and not path:
        raise click.BadParameter("it is empty", param_hint="--output")
    if (path is not None) + as_text + (shown.kind != "table") > 1:
        raise click.UsageError("-o, --text and --format are three ways to show it; give one")
    if as_text and shown.quiet:
        raise click.UsageError("--text has no names to print; leave -q out")
    if path is None and not as_text and shown.kind == "table":
        raise click.UsageError("say where the page goes, -o report.html, or --text for the terminal")
    if path is not None:
        from msb_cache.extras import require

        require("web", "a page, unlike --text,", "jinja2")
    if of_fleet:
        if as_of is not None or as_text:
            raise click.UsageError("--fleet shows the present, as a page or by --format json")
        of_hosts = _of_fleet(dsn, db, since, told)
        if path is None:
            shown.item(lambda: jsonable(of_hosts), names=list, table=lambda: None)
            return
        text, is_empty = _fleet_page(of_hosts), ""
    elif dsn is not None or db is not None:
        raise click.UsageError("--dsn and --db belong to --fleet")
    else:
        with open_cache(home, quiet=shown.quiet) as cache:
            found = cache.report(since=since, as_of=as_of, **told)
        if path is None:
            shown.item(lambda: jsonable(found), names=list, table=lambda: _print(found))
            return
        text = _page(found)
        then = "there was no log then" if found.is_past else "there is no log yet"
        is_empty = "" if found.seq else f"{then}, so the report is empty"
    if path == "-":
        output.document(text)
        return
    _write(path, text)
    shown.item(
        dict,
        names=lambda: [path],
        table=lambda: done("Reported", f"{path}  {output.size(len(text.encode()))}"),
        paged=False,
    )
    if not shown.quiet and is_empty:
        note(is_empty)


COMMAND = report


def _print(found: CacheReport) -> None:
    from msb_cache.cli.report_text import print_report

    print_report(found)


def _page(found: CacheReport) -> str:
    from msb_cache.report.page import render

    return render(found)


def _of_fleet(dsn: str | None, db: str | None, since: str, told: Told) -> FleetReport:
    from msb_cache.fleet.fleet import Fleet
    from msb_cache.report.fleet import make

    return make(Fleet(dsn, db=db), since=since, people=told["people"])


def _fleet_page(found: FleetReport) -> str:
    from msb_cache.report.fleet_page import render

    return render(found)


def _write(path: str, text: str) -> None:
    from msb_cache.home import atomic

    with atomic.opened(path, private=True) as file:
        file.write(text.encode())
