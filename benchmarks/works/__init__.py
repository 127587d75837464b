"""The works that are measured, one function each: it takes the setting, and the rounds to measure."""

from __future__ import annotations

from collections.abc import Callable

from table import Measured

from works import commands, disk, fleet, idle, images, index, prune, sync, tree

Work = Callable[..., Measured]

WORKS: dict[str, Work] = {
    "append": index.append,
    "list": index.list_,
    "get": index.get,
    "open": index.open_and_get,
    "list-cold": commands.list_,
    "list-cold-10000": commands.list_many,
    "inspect-cold": commands.inspect,
    "history-cold": commands.history,
    "history-first": commands.first_of_history,
    "events-first": commands.first_of_events,
    "df": disk.usage,
    "df-cold": disk.df,
    "sql": commands.sql,
    "metrics": commands.metrics,
    "complete": commands.complete,
    "sync": sync.unchanged,
    "sync-first": sync.first,
    "sync-boots": sync.boots,
    "prune-plan": prune.plan,
    "prune-10000": prune.many,
    "prune": prune.own,
    "prune-msb": prune.through_msb,
    "idle-gc": idle.gc,
    "idle-watch": idle.watch,
    "rebuild": index.rebuild,
    "as-of": index.as_of,
    "report": index.report,
    "tree": tree.first,
    "append-tree": tree.append,
    "fleet-ship": fleet.ingest,
    "fleet-last-used": fleet.last_used,
    "fleet-history": fleet.history,
    "verify-data": images.verify_data,
    "load": images.load,
    "pull": images.pull,
}
"""By the name that ``--only`` takes, in the order of the table."""

NEED_POSTGRESQL = {"fleet-ship", "fleet-last-used", "fleet-history"}
"""What needs PostgreSQL's programs."""

NEED_MSB = {"prune-msb"}
"""What msb itself does for us; the others only lack its column without it."""
