"""The commands that make a fleet's server ready, and say who may send to it and ask it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from msb_cache.cli import output
from msb_cache.cli.common import done, examples, note
from msb_cache.cli.fleet import of_fleet
from msb_cache.cli.formats import Shown, nothing, shown_options
from msb_cache.cli.look import on_terminal
from msb_cache.cli.tables import Column, show
from msb_cache.shapes import jsonable
from msb_cache.wording import short_log_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from msb_cache.fleet.enrolment import Enrolled, Enrolment
    from msb_cache.fleet.fleet import Fleet
    from msb_cache.fleet.roles import Kind
    from msb_cache.fleet.servers import FurtherServer
    from msb_cache.fleet.standing import Alert

ENROLMENTS = (
    Column("NAME", "name"),
    Column("AS", "word"),
    Column("LOGS", "count"),
    Column("OF", "count", leave=1),
    Column("LARGEST", "size", leave=1),
    Column("UP TO", leave=1),
    Column("ENROLLED", "time", leave=2),
    Column("KEY", leave=3),
)
SERVERS = (
    Column("NAME", "name"),
    Column("LOGS", "count"),
    Column("ADDED", "time", leave=1),
    Column("DSN", "prose"),
)
_LONGEST_PASSWORD = 1024  # bytes


@click.command(
    "init",
    short_help="Make a PostgreSQL database ready for a fleet.",
    epilog=examples("msb-cache fleet init --dsn postgresql://postgres@fleet.example/fleet"),
)
@shown_options("the version of the tables", tables=False)
@of_fleet
def init_(fleet: Fleet, shown: Shown) -> None:
    """Make a PostgreSQL database ready for a fleet, or bring it to this release's tables.

    Done by a superuser, or a role that has CREATEROLE, and CREATE on the database. Run again, it changes
    nothing. Where this release folds differently, what was folded is dropped; `msb-cache fleet fold` makes
    it anew.
    """
    shown.expect("version", "fold_version", "was", "read_models_made")
    found = fleet.init()

    def table() -> None:
        if not found.changed:
            output.line("The fleet's tables are those of this release already.", err=True)
        elif found.was is None:
            done("Made", f"the fleet's tables, version {found.version}")
        else:
            done("Changed", f"the fleet's tables, from version {found.was} to {found.version}")
            if found.read_models_made:
                note("what was folded is dropped; `msb-cache fleet fold` makes it anew")

    shown.item(lambda: jsonable(found), names=lambda: [str(found.version)], table=table, paged=False)


@click.command(
    "enrol",
    short_help="Let a host send its log, or show who may.",
    epilog=examples(
        "msb-cache fleet enrol build-1",
        "msb-cache fleet enrol ci-runners --max-logs 500 --max-log-size 100MiB",
        "msb-cache fleet enrol grafana --as reader --password-stdin < password",
        "msb-cache fleet enrol",
    ),
)
@click.argument("name", required=False)
@click.option("--max-logs", type=click.IntRange(0), metavar="N", help="How many logs it may own; at first 1.")
@click.option(
    "--max-log-size",
    metavar="SIZE",
    help="How large each may be there, such as 10GiB, or `unlimited`; at first 1GiB.",
)
@click.option(
    "--as",
    "kind",
    type=click.Choice(("host", "folder", "reader")),
    help="What it may do: send logs (the default), fold them, or ask.",
)
@click.option("--password-stdin", is_flag=True, help="Read its password from stdin instead of making one.")
@click.option("--no-password", is_flag=True, help="It has none: for certificates, peer and the like.")
@click.option("--key", metavar="VKEY", help="The verifier key of its signed checkpoints.")
@shown_options("names")
@of_fleet
def enrol_(
    fleet: Fleet,
    name: str | None,
    max_logs: int | None,
    max_log_size: str | None,
    kind: Kind | None,
    password_stdin: bool,
    no_password: bool,
    key: str | None,
    shown: Shown,
) -> None:
    """Make a role of PostgreSQL that may send NAME's logs, or change how many and how large ones.

    The first event of a log claims it for the role that sends it, for ever. Runners that come and go can
    share one. How to connect, and the password, are printed once and kept nowhere. Without a NAME, all are
    listed that are enrolled.
    """
    if name is None:
        if max_logs is not None or max_log_size is not None or kind or password_stdin or no_password or key:
            raise click.UsageError("say whom to enrol: give a NAME")
        listed = fleet.enrolments()
        shown.items(listed, fields=jsonable, name=lambda each: each.name, table=_list)
        return
    if password_stdin and no_password:
        raise click.UsageError("--password-stdin and --no-password exclude each other")
    shown.expect("name", "kind", "max_logs", "max_log_size", "is_new", "dsn", "password", "pgpass")
    found = fleet.enrol(
        name,
        max_logs,
        max_log_size=max_log_size,
        kind=kind or "host",
        password=_password() if password_stdin else None,
        generate=not no_password,
        key=key,
    )
    shown.item(
        lambda: jsonable(found),
        names=lambda: [found.name],
        table=lambda: _say(found, shows=not password_stdin),
        paged=False,
    )


def _say(found: Enrolled, *, shows: bool) -> None:
    logs = "" if found.max_logs is None else f", may own {output.plural(found.max_logs, 'log')}"
    if found.max_logs:
        size = "any size" if found.max_log_size is None else f"at most {output.size(found.max_log_size)}"
        logs += f"{'' if found.max_logs == 1 else ', each'} of {size}"
    done("Enrolled" if found.is_new else "Changed", f"{found.name} as {found.kind}{logs}")
    output.line(f"DSN:       {found.dsn}")
    if shows and found.password is not None and found.pgpass is not None:  # whoever gave one has it
        output.line(f"Password:  {found.password}")
        output.line(f"~/.pgpass: {found.pgpass}")
        note("the password is shown this once; keep it where only the host can read it")


def _up_to(found: Enrolment) -> str | None:
    if found.kind != "host":
        return None
    return "any size" if found.max_log_size is None else output.size(found.max_log_size)


def _password() -> str:
    if on_terminal(sys.stdin):
        note("type the password and a new line; it is seen as it is typed")
    given = sys.stdin.buffer.readline(_LONGEST_PASSWORD + 1)
    if len(given) > _LONGEST_PASSWORD:
        raise click.UsageError(f"the password on stdin has more than {_LONGEST_PASSWORD} bytes")
    try:
        return given.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise click.UsageError("the password on stdin is no UTF-8") from None


def _list(found: Iterable[Enrolment]) -> None:
    show(
        ENROLMENTS,
        (
            (
                *(each.name, each.kind, each.logs, each.max_logs, each.largest_log_size),
                *(_up_to(each), each.enrolled_at_ns, each.key),
            )
            for each in nothing("Nobody is enrolled.", found)
        ),
        of="enrolments",
    )


@click.command(
    "unenrol",
    short_help="Let a role send no more.",
    epilog=examples("msb-cache fleet unenrol build-1"),
)
@click.argument("name")
@shown_options("the name", tables=False)
@of_fleet
def unenrol_(fleet: Fleet, name: str, shown: Shown) -> None:
    """Let NAME neither log in nor send any more; its logs stay, and can still be asked."""
    shown.expect("name", "kind", "logs")
    found = fleet.unenrol(name)
    shown.item(
        lambda: jsonable(found),
        names=lambda: [found.name],
        table=lambda: done("Unenrolled", f"{found.name}; logs of it that stay: {found.logs}"),
        paged=False,
    )


@click.command(
    "acknowledge",
    short_help="Show no more what was refused.",
    epilog=examples("msb-cache fleet acknowledge build-1", "msb-cache fleet acknowledge --all"),
)
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option("--all", "everything", is_flag=True, help="Of all hosts.")
@shown_options("the roles that sent it")
@of_fleet
def acknowledge_(fleet: Fleet, hosts: tuple[str, ...], everything: bool, shown: Shown) -> None:
    """Show no more what was refused of HOST: somebody has seen to it.

    HOST is a host's name, its role, or the beginning of its log's id, also where the fleet has no log of it.
    What is refused again is shown again.
    """
    if everything == bool(hosts):
        raise click.UsageError("give HOST, or --all")
    gone = fleet.acknowledge(hosts)

    def table(found: Iterable[Alert]) -> None:
        for alert in nothing("Nothing was refused.", found):
            log = f" of log {short_log_id(alert.log_id)}" if alert.log_id else ""
            times = output.plural(alert.times, "time")
            done("Acknowledged", f"{alert.kind}{log} from {alert.role}, refused {times}")

    shown.items(gone, fields=jsonable, name=lambda alert: alert.role, table=table)


@click.command(
    "servers",
    short_help="Show, add or remove further servers.",
    epilog=examples(
        "msb-cache fleet servers --add east 'host=east.fleet.example dbname=fleet'",
        "msb-cache fleet servers",
    ),
)
@click.option("--add", nargs=2, metavar="NAME DSN", help="Ask there too, at a DSN without a password.")
@click.option("--remove", metavar="NAME", help="Ask there no more; nothing is deleted.")
@click.option("--force", is_flag=True, help="Remove it also where it has logs, of which nobody is told then.")
@shown_options("names")
@of_fleet
def servers_(
    fleet: Fleet, add: tuple[str, str] | None, remove: str | None, force: bool, shown: Shown
) -> None:
    """Show the fleet's further servers, each with whole logs, or add or remove one.

    Every question is asked on all of them. Whoever asks connects to each as the same user, with passwords
    from libpq's password file.
    """
    if add and remove is not None:
        raise click.UsageError("--add and --remove exclude each other")
    if force and remove is None:
        raise click.UsageError("--force is about removing a server; give --remove NAME")
    if add or remove is not None:
        shown.expect("name", "dsn", "added_at", "logs")
        found = fleet.add_server(*add) if add else fleet.remove_server(remove or "", force=force)
        shown.item(
            lambda: jsonable(found),
            names=lambda: [found.name],
            table=lambda: done("Added" if add else "Removed", found.name),
            paged=False,
        )
        return
    shown.items(fleet.servers(), fields=jsonable, name=lambda each: each.name, table=_servers)


def _servers(found: Iterable[FurtherServer]) -> None:
    show(
        SERVERS,
        (
            (each.name, each.logs, each.added_at_ns, each.dsn)
            for each in nothing("The fleet has one server.", found)
        ),
        of="servers",
    )
