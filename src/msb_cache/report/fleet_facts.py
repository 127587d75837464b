"""What the report of a fleet shows, as values. Sizes in bytes, times in ns since the epoch, UTC.

Names in it come from many hosts and may hold anything: who draws them writes them as text.
"""

from __future__ import annotations

from msgspec import Struct

from msb_cache.report.facts import DeletionMark
from msb_cache.shapes import Result


class HostBar(Result, Struct, frozen=True, gc=False):
    """A host: how much its cache takes, and how much room it has.

    Attributes:
        host: the machine's name.
        log_id: its log's.
        images: how many references it has.
        bytes: what its images take, as its index says.
        free_bytes: what was free on its disk when it was last seen; None: it did not say.
        disk_bytes: how large that disk is; None: it did not say.
        seen_at_ns: when its log was last shipped.
        problem: what is wrong with its log; empty: nothing.
    """

    host: str
    log_id: str
    images: int
    bytes: int
    free_bytes: int | None
    disk_bytes: int | None
    seen_at_ns: int
    problem: str = ""


class SpreadLine(Result, Struct, frozen=True, gc=False):
    """An image, and where it is.

    Attributes:
        reference: as people see it.
        hosts: how many have it.
        names: some of those, at most 5.
        manifests: how many manifests it points at across these hosts: more than one where they differ.
        bytes: what its blobs take, on all hosts together.
        last_used_at_ns: when it was last used on any of them.
        last_host: on which.
        in_use: on how many hosts sandboxes run from it.
    """

    reference: str
    hosts: int
    names: tuple[str, ...]
    manifests: int
    bytes: int
    last_used_at_ns: int
    last_host: str
    in_use: int = 0


class HostDeletion(Result, Struct, frozen=True, gc=False):
    """A removal or a prune, and on which host."""

    host: str
    log_id: str
    deletion: DeletionMark


class FleetReport(Result, Struct, frozen=True, kw_only=True):
    """What a fleet looks like.

    Attributes:
        at_ns: the moment that it tells of, which is when it was made.
        since_ns: where the time shown begins.
        hosts: each log's, those with the least free room first.
        spread: images by how many hosts have them; at most 1,000.
        deletions: those of the time shown, oldest first; at most 1,000, the newest.
        events: how many events the fleet has.
        notes: sentences about what is not folded, refused or could not be read.
    """

    at_ns: int
    since_ns: int
    hosts: tuple[HostBar, ...] = ()
    spread: tuple[SpreadLine, ...] = ()
    deletions: tuple[HostDeletion, ...] = ()
    events: int = 0
    notes: tuple[str, ...] = ()
