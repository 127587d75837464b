"""The report of a fleet: its hosts, where images are, and what was deleted, from its read models."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from msb_cache.errors import InvalidConfigError
from msb_cache.fleet.fleet import Fleet
from msb_cache.fleet.hosts import OnHost
from msb_cache.fleet.standing import HostStanding
from msb_cache.queries import told
from msb_cache.queries.deletions import DeletionSummary
from msb_cache.queries.times import as_ns
from msb_cache.report.cut import person, shortened
from msb_cache.report.facts import DeletionMark
from msb_cache.report.fleet_facts import FleetReport, HostBar, HostDeletion, SpreadLine
from msb_cache.wording import plural

MOST_DELETIONS = 1000
MOST_IMAGES = 1000
_LONGEST = 300  # characters of who did it, and of a problem
_NO_ROOM_SAID = 2**63


def make(
    fleet: Fleet,
    *,
    since: str | datetime | timedelta = "30d",
    people: bool = True,
    clock: Callable[[], int] = time.time_ns,
) -> FleetReport:
    """Return the report of a fleet as it is now.

    Args:
        fleet: whose.
        since: where the time shown begins: a time, or so long ago.
        people: whether it says who deleted what.
        clock: ns since the epoch.

    Raises:
        InvalidConfigError: the time is none, a position, or in the future.
        FleetError: a server cannot be asked.
    """
    now_ns = clock()
    if isinstance(since, str) and since.startswith("@"):
        raise InvalidConfigError(
            f"{since} is a position, and a fleet has many logs; give a time, such as 30d"
        )
    since_ns = as_ns(since, now_ns)
    if since_ns > now_ns:
        raise InvalidConfigError(f"{str(since)!r} is later than the moment that the report tells of")
    hosts = fleet.hosts()
    deletions = [each for each in fleet.prunes(limit=MOST_DELETIONS) if _began(each) >= since_ns]
    return FleetReport(
        at_ns=now_ns,
        since_ns=since_ns,
        hosts=tuple(sorted(map(_bar, hosts), key=_least_room)),
        spread=tuple(
            SpreadLine(
                each.reference,
                each.hosts,
                each.names,
                len(each.digests),
                each.size_bytes,
                each.last_used_at_ns,
                each.names[0] if each.names else "",
                each.in_use,
            )
            for each in fleet.spread(limit=MOST_IMAGES)
        ),
        deletions=tuple(_deletion(each, people) for each in reversed(deletions)),
        events=sum(each.events for each in hosts),
        notes=tuple(_notes(hosts)),
    )


def _bar(host: HostStanding) -> HostBar:
    return HostBar(
        host.host,
        host.log_id,
        host.images,
        host.image_bytes,
        host.free_bytes,
        host.disk_bytes,
        host.seen_at_ns,
        shortened("; ".join(host.problems), _LONGEST),
    )


def _least_room(bar: HostBar) -> tuple[int, str, str]:
    return _NO_ROOM_SAID if bar.free_bytes is None else bar.free_bytes, bar.host, bar.log_id


def _began(each: OnHost[DeletionSummary]) -> int:
    return each.found.counters.started_at


def _deletion(each: OnHost[DeletionSummary], people: bool) -> HostDeletion:
    found = each.found
    row = found.counters
    mark = DeletionMark(
        found.operation,
        row.kind,
        row.seq,
        row.started_at,
        shortened(told.who(found.actor), _LONGEST) if people else person(found.actor, people=False),
        row.image_refs_removed,
        row.bytes_reclaimed,
        outcome=row.outcome,
    )
    return HostDeletion(each.host, each.log_id, mark)


def _notes(hosts: list[HostStanding]) -> list[str]:
    behind = [each for each in hosts if each.not_folded]
    late = [each for each in hosts if each.not_shipped]
    found = []
    if behind:
        found.append(
            f"{plural(len(behind), 'log')} not folded up to the last event that was shipped, the first of "
            f"them that of {behind[0].host}"
        )
    if late:
        found.append(f"{plural(len(late), 'host')} had events that are not shipped, such as {late[0].host}")
    return found
