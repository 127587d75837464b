"""How each host of a fleet stands: when it was seen, how far its log is here, and how full its disk is."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from msb_cache.fleet.hosts import OF_LOG, WITH_LOG, KnownLog, split
from msb_cache.fleet.place import Reading, within
from msb_cache.shapes import Result, fields
from msb_cache.wording import plural

ALERT = "role, log_id, kind, seq, detail, first_at, last_at, times"
"""The columns of an ``Alert``."""


class Alert(Result, msgspec.Struct, frozen=True):
    """Something that the server refused. Times in ns since the epoch, UTC, by the server's clock.

    Attributes:
        role: who sent it.
        log_id: of which log it was, as the sender said.
        kind: ``fork``, ``forged``, ``truncated``, ``claimed``, ``full`` or ``unknown``; ``further``: of any
            kind, where a role has had too much refused to tell it apart.
        seq: the position that it was about, when it was refused last; 0: about none.
        detail: a sentence.
        first_at_ns, last_at_ns: when it was refused first, and last.
        times: how often.
    """

    role: str
    log_id: str
    kind: str
    seq: int
    detail: str
    first_at_ns: int
    last_at_ns: int
    times: int


class HostStanding(Result, msgspec.Struct, frozen=True, kw_only=True):
    """A host's log, as far as the fleet has it. Sizes in bytes, times in ns since the epoch, UTC.

    Attributes:
        host: the machine's name, as its events say; the role's until one was folded.
        log_id: the log's id.
        folded_seq: up to which event the folder itself has checked the chain and folded; 0: none.
        role: which enrolment ships it; empty in a fleet's file.
        seen_at_ns: when its host last sent something, or asked how far its log is.
        recorded_at_ns: when the newest event that was shipped was recorded, by the host's clock.
        folded_at_ns: when it was last folded; None: it was not.
        events: how many were shipped.
        host_events: how many its host had when it was seen.
        not_shipped: how many of these the fleet does not have.
        not_folded: how many of those that it has are not folded.
        images, layers: how many there are in the host's index.
        image_bytes: what the index knows of the layers, merged trees and disk descriptors of its images.
        cache_bytes: what its cache took, as it said when it was seen; None: it did not.
        free_bytes, disk_bytes: how much room was free there, and how much there is; None: it did not say.
        log_bytes: what its events here count towards the size that its log may have; None: it is in a file.
        problem: why its log is not folded on, in a sentence; None: it is.
        checkpoint_size: up to where its signed checkpoints were compared; None: none was.
        checkpoint_problem: what is wrong with one, in a sentence; None: nothing.
        alerts: what of this log was refused, the latest first.
    """

    host: str
    log_id: str
    folded_seq: int
    role: str
    seen_at_ns: int
    recorded_at_ns: int
    folded_at_ns: int | None
    events: int
    host_events: int
    images: int
    layers: int
    image_bytes: int
    cache_bytes: int | None
    free_bytes: int | None
    disk_bytes: int | None
    log_bytes: int | None
    problem: str | None
    checkpoint_size: int | None
    checkpoint_problem: str | None
    alerts: tuple[Alert, ...] = ()

    @property
    def not_shipped(self) -> int:
        """How many events its host had that the fleet does not have."""
        return max(0, self.host_events - self.events)

    @property
    def not_folded(self) -> int:
        """How many events were shipped and are not folded."""
        return self.events - self.folded_seq

    @property
    def problems(self) -> list[str]:
        """What a person has to see to, in sentences or parts of them."""
        refused = [
            f"{each.kind}, refused {plural(each.times, 'time')}{_by(each, self.role)}: {each.detail}"
            for each in self.alerts
        ]
        return [each for each in (self.problem, self.checkpoint_problem) if each is not None] + refused

    def _shape(self) -> dict[str, Any]:
        found = fields(self)
        after = {"not_shipped": self.not_shipped, "not_folded": self.not_folded}
        shape: dict[str, Any] = {}
        for name, value in found.items():
            shape[name] = value
            if name == "host_events":
                shape |= after
        return shape


def _by(alert: Alert, role: str) -> str:
    return "" if alert.role == role else f" from {alert.role}"


def standings(reading: Reading, logs: Collection[str] | None = None) -> list[HostStanding]:
    """Return how the hosts of a place stand, of these logs or (None) of all; by host."""
    chosen, ids = within("log_id", logs)
    of_log, arguments = within("h.log_id", logs)
    # One pass over each table, and not one for each host. Sums of PostgreSQL are no integers.
    rows = reading.rows(
        f"WITH images AS (SELECT log_id, count(*) AS n FROM msb_cache.image WHERE {chosen} GROUP BY log_id), "
        "layers AS (SELECT log_id, count(*) AS n, CAST(coalesce(sum(erofs_bytes), 0) AS bigint) AS bytes "
        f"FROM msb_cache.layer WHERE {chosen} GROUP BY log_id), "
        "manifests AS (SELECT log_id, CAST(sum(coalesce(fsmeta_bytes, 0) + coalesce(vmdk_bytes, 0)) "
        f"AS bigint) AS bytes FROM msb_cache.manifest WHERE {chosen} GROUP BY log_id) "
        f"SELECT {OF_LOG}, h.seen_at, h.recorded_at, f.folded_at, h.host_size, coalesce(i.n, 0), "
        "coalesce(l.n, 0), coalesce(l.bytes, 0) + coalesce(m.bytes, 0), h.cache_bytes, h.free_bytes, "
        f"h.disk_bytes, h.bytes, f.checkpoint_size, f.checkpoint_problem FROM {WITH_LOG} "
        "LEFT JOIN images i ON i.log_id = h.log_id LEFT JOIN layers l ON l.log_id = h.log_id "
        f"LEFT JOIN manifests m ON m.log_id = h.log_id WHERE {of_log} ORDER BY 2, 1",
        (*ids, *ids, *ids, *arguments),
    )
    refused: dict[str, list[Alert]] = {}
    for alert in alerts(reading, logs):
        refused.setdefault(alert.log_id, []).append(alert)
    return [_standing(*split(row), tuple(refused.get(row[0], ()))) for row in rows]


def alerts(reading: Reading, logs: Collection[str] | None = None) -> list[Alert]:
    """Return what a place's server refused, also of logs that it has nothing of; the latest first."""
    condition, ids = within("log_id", logs)
    rows = reading.rows(
        f"SELECT {ALERT} FROM msb_cache.alert WHERE {condition} ORDER BY last_at DESC, role, log_id, kind",
        ids,
    )
    return [Alert(*row) for row in rows]


def _standing(log: KnownLog, of_host: tuple[Any, ...], refused: tuple[Alert, ...]) -> HostStanding:
    seen, recorded, folded, host_size, images, layers, size, cache, free, disk, counted, *checkpoint = of_host
    checkpoint_size, checkpoint_problem = checkpoint
    return HostStanding(
        host=log.host,
        log_id=log.log_id,
        folded_seq=log.folded_seq,
        role=log.role,
        seen_at_ns=seen,
        recorded_at_ns=recorded,
        folded_at_ns=folded,
        events=log.size,
        host_events=host_size,
        images=images,
        layers=layers,
        image_bytes=size,
        cache_bytes=cache,
        free_bytes=free,
        disk_bytes=disk,
        log_bytes=counted,
        problem=log.problem,
        checkpoint_size=checkpoint_size,
        checkpoint_problem=checkpoint_problem,
        alerts=refused,
    )
