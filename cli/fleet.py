"""The fleet command: the logs of many hosts, asked in one place. Its commands are in ``fleet_…`` modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

import click

from msb_cache.cli.common import PATH, examples, note
from msb_cache.wording import plural

if TYPE_CHECKING:
    from msb_cache.fleet.fleet import Fleet
    from msb_cache.fleet.hosts import KnownLog

F = TypeVar("F", bound=Callable[..., Any])

MODULES: dict[str, str] = {
    "hosts": "fleet_images",
    "list": "fleet_images",
    "history": "fleet_events",
    "last-used": "fleet_images",
    "holders": "fleet_images",
    "prunes": "fleet_images",
    "why": "fleet_events",
    "diff": "fleet_events",
    "events": "fleet_events",
    "verify": "fleet_care",
    "archive": "fleet_care",
    "fold": "fleet_fold",
    "init": "fleet_admin",
    "enrol": "fleet_admin",
    "unenrol": "fleet_admin",
    "acknowledge": "fleet_admin",
    "servers": "fleet_admin",
    "take": "fleet_take",
}
"""Each command of the group, and the module of this folder that has it, as ``NAME_``."""

DSN = click.option(
    "--dsn",
    metavar="DSN",
    help="The fleet's PostgreSQL, such as postgresql://fleet.example/fleet; default: $MSB_CACHE_FLEET.",
)
DB = click.option(
    "--db", metavar="FILE", type=PATH, help="A file instead of a server; see `msb-cache fleet take`."
)


class Commands(click.Group):
    """The group, which imports a command's module when that is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the help."""
        return [*MODULES]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Return a command by its name."""
        if name not in MODULES:
            return None
        found = getattr(import_module(f"msb_cache.cli.{MODULES[name]}"), f"{name.replace('-', '_')}_")
        assert isinstance(found, click.Command)  # noqa: S101
        if ctx.resilient_parsing:  # which is how a shell's question is read
            from msb_cache.cli import completing_fleet

            completing_fleet.attach(found)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; of a word that is none, what was probably meant is said."""
        word = args[0]
        if word not in MODULES and word[:1] != "-" and not ctx.resilient_parsing:
            from msb_cache.queries.near import meant

            ctx.fail(f"No such command {word!r}{meant(word, MODULES)}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands,
    short_help="Ask the logs of many hosts.",
    epilog=examples("msb-cache fleet hosts", "msb-cache fleet last-used python:3.12"),
)
@DSN
@DB
def fleet(dsn: str | None, db: str | None) -> None:
    """Ask the logs of many hosts, which `msb-cache ship` sends to a PostgreSQL.

    --dsn and --db may also stand behind the command. A password is best kept in libpq's password file.
    """


def of_fleet(command: F) -> F:
    """Add ``--dsn`` and ``--db`` to a command of the group; it gets the ``Fleet`` as its first argument."""

    @wraps(command)
    def called(*arguments: Any, dsn: str | None, db: str | None, **given: Any) -> Any:
        from msb_cache.fleet.fleet import Fleet

        context = click.get_current_context()
        if context.invoked_subcommand is not None:
            return None  # that one is asked, and told where
        above = context.parent
        while dsn is None and db is None and above is not None:
            dsn, db = above.params.get("dsn"), above.params.get("db")
            above = above.parent
        with Fleet(dsn, db=db) as fleet:  # what a command asks, it asks on one connection
            return command(fleet, *arguments, **given)

    return DSN(DB(called))  # type: ignore[return-value]


def say_how_far(
    fleet: Fleet, *, quiet: bool = False, hosts: Iterable[str] = (), as_of: str | None = None
) -> None:
    """Say on stderr which logs are not folded up to their last event.

    As of the past (``as_of``) only of these hosts, and where what is not folded may be of then; and which of
    their logs begin later.
    """
    if quiet:
        return
    logs = fleet.logs(() if as_of is None else hosts)
    behind = [log for log in logs if log.folded_seq < log.size]
    if as_of is not None:
        then = {log.log_id: log for log in fleet.logs(hosts, as_of=as_of)}
        _say_what_begins_later([*then.values()])
        behind = [log for log in behind if then[log.log_id].folded_seq == log.folded_seq]
    stopped = [log for log in behind if log.problem is not None]
    behind = [log for log in behind if log.problem is None]
    total = plural(len(logs), "log")
    if behind:
        note(
            f"{len(behind)} of {total} not folded up to the last event: {_how_far(behind)}; "
            "`msb-cache fleet fold` goes on"
        )
    if stopped:
        note(
            f"{len(stopped)} of {total} stopped before the last event: {_how_far(stopped)}; "
            "`msb-cache fleet hosts` says why"
        )


def _how_far(logs: Sequence[KnownLog]) -> str:
    first = ", ".join(f"{log.host} (@{log.folded_seq} of @{log.size})" for log in logs[:3])
    return f"{first}, …" if len(logs) > 3 else first


def _say_what_begins_later(logs: list[KnownLog]) -> None:
    later = [log for log in logs if not log.folded_seq and not log.archived_seq]
    if not later:
        return
    if len(later) == len(logs):
        from msb_cache.fleet.past import UNKNOWN

        note(UNKNOWN)
        return
    first = ", ".join(log.host for log in later[:3])
    more = ", …" if len(later) > 3 else ""
    begin = "begins" if len(later) == 1 else "begin"
    what = "what was there then is not known"
    note(f"{len(later)} of {plural(len(logs), 'log')} {begin} later: {first}{more}; {what}")


def say_what_is_archived(fleet: Fleet, hosts: Iterable[str] = (), *, quiet: bool = False) -> None:
    """Say on stderr of which hosts events are in an archive, so that they are not told."""
    if quiet:
        return
    archived = [log for log in fleet.logs(hosts) if log.archived_seq]
    if archived:
        first = ", ".join(f"{log.host} (up to @{log.archived_seq})" for log in archived[:3])
        more = ", …" if len(archived) > 3 else ""
        note(f"events of {plural(len(archived), 'log')} are in an archive and not told: {first}{more}")


COMMAND = fleet
