"""Why something is on hosts, or gone from them, and what one host has that another has not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from msb_cache.errors import ImageNotFoundError
from msb_cache.fleet import events as of_events
from msb_cache.fleet.hosts import KnownLog, OnHost, on_host
from msb_cache.fleet.mirror import mirrors
from msb_cache.fleet.place import Reading
from msb_cache.queries import resolve
from msb_cache.queries.as_of import Changes, Contents, contents
from msb_cache.queries.why import Reasons
from msb_cache.queries.why import why as why_here
from msb_cache.shapes import Result


@dataclass(frozen=True)
class HostChanges(Result):
    """What the index of one host has that another's has not, as if the first had become the second.

    ``changes`` has the positions up to which the two logs are folded.
    """

    from_host: str
    from_log_id: str
    to_host: str
    to_log_id: str
    changes: Changes

    def _shape(self) -> dict[str, Any]:
        return {
            "from_host": self.from_host,
            "from_log_id": self.from_log_id,
            "to_host": self.to_host,
            "to_log_id": self.to_log_id,
            **self.changes._shape(),
        }


def known_on(reading: Reading, target: str, logs: Collection[str] | None) -> list[str]:
    """Return the logs of a place that may know a reference or a digest, by id.

    Raises:
        InvalidReferenceError: it is neither.
    """
    parsed, prefix = resolve.as_reference(target), resolve.digest_prefix(target)
    within, among = of_events.in_logs("log_id", logs)
    found: set[str] = set()
    if parsed is not None:
        rows = reading.rows(
            f"SELECT DISTINCT log_id FROM msb_cache.event WHERE subject = ?{within}",
            (parsed.canonical, *among),
        )
        found.update(log_id for (log_id,) in rows)
        if parsed.digest is not None:
            prefix = parsed.digest
    if prefix is not None:
        found.update(log_id for log_id, _ in of_events.digests(reading, prefix, logs))
        if not found:  # a blob stands only within the events of manifests
            rows = reading.rows(
                f"SELECT DISTINCT log_id FROM msb_cache.told WHERE data LIKE ?{within}",
                (f"%{prefix}%", *among),
            )
            found.update(log_id for (log_id,) in rows)
    return sorted(found)


def why(
    reading: Reading, target: str, logs: Collection[str] | None, clock: Callable[[], int]
) -> list[OnHost[Reasons] | ImageNotFoundError]:
    """Return what each host of a place that ever had it says of something, by host; or that it does not know.

    Raises:
        InvalidReferenceError: it is neither a reference nor a digest, or several digests of one host begin
            so.
    """
    prefix = resolve.digest_prefix(target)
    known = of_events.named(reading, known_on(reading, target, logs))
    found: list[OnHost[Reasons] | ImageNotFoundError] = []
    for mirror in mirrors(reading, known, clock):
        if prefix is not None:
            mirror.load_beginning(prefix)
        try:
            reasons = why_here(mirror.connection, mirror.store, target, mirror.index)
        except ImageNotFoundError as error:
            found.append(error)
        else:
            found.append(on_host(mirror.log, reasons))
    return found


def contents_of(
    reading: Reading, logs: Sequence[KnownLog], clock: Callable[[], int]
) -> list[tuple[str, Contents]]:
    """Return what of the indexes of a place's logs is compared, by the logs' ids; of others nothing."""
    here = {log.log_id: log for log in of_events.named(reading, [log.log_id for log in logs])}
    return [
        (mirror.log.log_id, contents(mirror.connection, mirror.log.folded_seq))
        for mirror in mirrors(reading, [*here.values()], clock)
    ]
