"""Questions to the index as it was: which position is meant, who held what, and what changed between two.

The index itself comes from ``home.index_cache``; the questions are those of ``projections.images``, as of the
present.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

import msgspec

from msb_cache.errors import InvalidConfigError
from msb_cache.eventstore.store import EventStore, as_datetime
from msb_cache.projections import images
from msb_cache.queries.resolve import as_typed, familiar, seen
from msb_cache.shapes import Result, fields

AsOf = str | datetime | timedelta | int
"""A moment in the log: a position, or a time as in ``queries.times``; as text, ``@123`` is a position."""


@dataclass(frozen=True, slots=True)
class Hold(Result):
    """A sandbox or a snapshot needs a manifest."""

    holder: str
    manifest_digest: str
    since_ns: int
    """In ns since the epoch, UTC."""
    reference: str | None
    """By which reference it was held, in familiar form; None when that is not known."""
    status: str | None = None
    """A sandbox's of msb's, such as ``Running``, as it was when msb-cache saw it last; None: it is
    none of msb's."""
    root: str | None = None
    """The kind of a sandbox's root disk where it is not the usual one, such as ``flat`` or ``tmpfs``;
    else None."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """A sandbox's, those with the keys that ``MSB_CACHE_LABELS`` names."""
    until_ns: int | None = None
    """When it ends by itself, in ns since the epoch, UTC; None: it does not."""

    @property
    def since(self) -> datetime:
        """Since when: an aware UTC time, to the µs."""
        return as_datetime(self.since_ns)

    @property
    def until(self) -> datetime | None:
        """Until when: an aware UTC time, to the µs; None: it does not end by itself."""
        return None if self.until_ns is None else as_datetime(self.until_ns)


@dataclass(frozen=True, slots=True)
class Use(Result):
    """A boot that lasts: a sandbox of msb's runs from a manifest."""

    holder: str | None
    """The sandbox, such as ``sandbox:dev``; None: the log does not say."""
    manifest_digest: str
    reference: str
    """By which it was made, in familiar form."""
    since_ns: int
    """When it was booted, in ns since the epoch, UTC."""

    @property
    def since(self) -> datetime:
        """When it was booted: an aware UTC time, to the µs."""
        return as_datetime(self.since_ns)


@dataclass(frozen=True, slots=True)
class Moved(Result):
    """A reference that points at another manifest than before."""

    reference: str
    previous_digest: str
    manifest_digest: str


@dataclass(frozen=True, slots=True)
class Changes(Result):
    """What differs between two positions of the log. References in familiar form; each list is sorted."""

    from_position: int
    to_position: int
    added: list[tuple[str, str]]
    """References that came, with the digest they point at."""
    removed: list[tuple[str, str]]
    """References that went, with the digest they pointed at."""
    moved: list[Moved]
    held: list[Hold]
    """Holds that came."""
    released: list[Hold]
    """Holds that went."""
    pinned: list[str]
    """What came to be pinned: references, and digests of manifests."""
    unpinned: list[str]
    """What was pinned no longer."""
    bytes_before: int
    """What layer images, merged trees and disk descriptors took, as far as their sizes are known."""
    bytes_after: int

    @property
    def bytes_changed(self) -> int:
        """How many bytes more there are after than before; fewer if negative."""
        return self.bytes_after - self.bytes_before

    def _shape(self) -> dict[str, Any]:
        return {
            "from_seq": self.from_position,
            "to_seq": self.to_position,
            **fields(self, without=("from_position", "to_position")),
            "added": [{"reference": name, "digest": digest} for name, digest in self.added],
            "removed": [{"reference": name, "digest": digest} for name, digest in self.removed],
            "bytes_changed": self.bytes_changed,
        }


@dataclass(frozen=True)
class Contents:
    """What is compared of an index: where references point, who holds what, what is pinned, and the size."""

    position: int
    images: Mapping[str, str]
    """By name."""
    seen: Mapping[str, str]
    """How people see the names."""
    holds: Mapping[tuple[str, str], Hold]
    pins: Mapping[str, str]
    """By subject, how people see it."""
    bytes: int


_POSITION = re.compile(r"@([0-9]{1,19})")
_BARE = re.compile(r"\d{1,3}|\d{5,7}", re.ASCII)
"""Digits that are neither a year nor a date."""


def position_in(text: str) -> int | None:
    """Return the position that ``@123`` names; None when the text is no position."""
    found = _POSITION.fullmatch(text.strip())
    return None if found is None else int(found[1])


def moment_of(store: EventStore | None, moment: AsOf, now_ns: int) -> tuple[int, int]:
    """Return the last position at a moment, 0 when the log begins later; and its time.

    The time is in ns since the epoch, UTC: what was asked for, or when the position was recorded.

    Raises:
        InvalidConfigError: the text is no moment, the time is in the future, or the log has no such position.
    """
    head = None if store is None else store.head()
    end = 0 if head is None else head.seq
    position = position_in(moment) if isinstance(moment, str) else moment
    if isinstance(position, int):
        if not 0 <= position <= end:
            raise InvalidConfigError(f"the log has no event {position}; its last is {end}")
        event = None if store is None or not position else store.at(position)
        return position, 0 if event is None else min(event.recorded_at_ns, now_ns)
    assert not isinstance(moment, int)  # noqa: S101
    time_ns = time_meant(moment, now_ns)
    # A time is in the future if the clock has not said it yet, now or at the last append.
    if time_ns > now_ns and (store is None or store.position_at(time_ns - 1) == end):
        raise in_future(moment)
    return 0 if store is None else store.position_at(time_ns), time_ns


def time_meant(moment: str | datetime | timedelta, now_ns: int) -> int:
    """Return the time of a moment that is no position, in ns since the epoch, UTC.

    Raises:
        InvalidConfigError: the text is no time, but perhaps a position without its ``@``.
    """
    if isinstance(moment, str) and _BARE.fullmatch(moment.strip()):
        number = moment.strip()
        raise InvalidConfigError(
            f"{number!r} is no time; the position of event {number} is written @{number}"
        )
    from msb_cache.queries.times import as_ns  # with dateutil, which a list as of a position need not import

    return as_ns(moment, now_ns)


def in_future(moment: str | datetime | timedelta) -> InvalidConfigError:
    """Return the error that no clock has said this time yet."""
    return InvalidConfigError(f"{str(moment)!r} is in the future; what will be is not known")


def known_since(connection: sqlite3.Connection, kept_by_msb: bool) -> tuple[int, int] | None:
    """Return from which position on, and since when, a log knows what is in its home; None: it is empty.

    Where msb keeps the home that is when msb's index was first seen; before, images may have been there that
    this log knows nothing of. The time is in ns since the epoch, UTC.
    """
    found = None
    if kept_by_msb:
        found = connection.execute(
            "SELECT seq, recorded_at FROM events WHERE type = 'manifest.added' AND instr(data, '\"row\":') "
            "ORDER BY seq LIMIT 1"
        ).fetchone()
    if found is None:
        found = connection.execute("SELECT seq, recorded_at FROM events WHERE seq = 1").fetchone()
    return None if found is None else (found[0], found[1])


def unknown(connection: sqlite3.Connection | None, position: int, kept_by_msb: bool) -> str | None:
    """Return a sentence if what was here at a position is not known; None if it is."""
    since = None if connection is None else known_since(connection, kept_by_msb)
    if since is None:
        return "there is no log here yet, so what was here then is not known"
    if position >= since[0]:
        return None
    when = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(since[1] // 10**9))
    if kept_by_msb:
        return f"what msb had here before {when} is not known; msb-cache has recorded it since then"
    return f"the log begins {when}; of what was here before, it knows nothing"


def contents(connection: sqlite3.Connection, position: int) -> Contents:
    """Read what ``changes`` compares."""
    rows = list(images.handles(connection))
    return Contents(
        position,
        {row.name: row.manifest_digest for row in rows},
        {row.name: seen(row) for row in rows},
        {(hold.manifest_digest, hold.holder): hold for hold in holds(connection, None)},
        {row.subject: as_typed(row.subject, row.spelling) for row in images.pins(connection)},
        images.total_bytes(connection),
    )


def holds(connection: sqlite3.Connection, manifest_digest: str | None) -> list[Hold]:
    """Return the holds of a manifest, or all, by holder."""
    return [hold_of(row) for row in images.holds(connection, manifest_digest)]


def hold_of(row: images.HoldDetailRow) -> Hold:
    """Return a hold as callers get it."""
    return Hold(
        row.holder,
        row.manifest_digest,
        row.since,
        row.reference and familiar(row.reference),
        row.status,
        row.root,
        {} if row.labels is None else msgspec.json.decode(row.labels, type=dict[str, str]),
        row.until,
    )


def uses(
    connection: sqlite3.Connection, references: Collection[str] | None, digest: str | None = None
) -> list[Use]:
    """Return the boots that last, the longest first.

    Args:
        connection: the index.
        references: only those of sandboxes made by these canonical references, or from what they point at
            now; None: all.
        digest: only those of this manifest.
    """
    found = images.uses(connection)
    if digest is not None:
        found = [use for use in found if use.manifest_digest == digest]
    elif references is not None:
        rows = (images.spellings(connection, reference) for reference in references) if found else ()
        now = {row.manifest_digest for row in chain.from_iterable(rows)}
        found = [use for use in found if use.reference in references or use.manifest_digest in now]
    return [Use(use.holder, use.manifest_digest, familiar(use.reference), use.since) for use in found]


def changes(before: Contents, after: Contents) -> Changes:
    """Compare two indexes."""
    old, new = before.images, after.images
    return Changes(
        from_position=before.position,
        to_position=after.position,
        added=[(after.seen[name], new[name]) for name in sorted(new.keys() - old.keys())],
        removed=[(before.seen[name], old[name]) for name in sorted(old.keys() - new.keys())],
        moved=[
            Moved(after.seen[name], old[name], new[name])
            for name in sorted(old.keys() & new.keys())
            if old[name] != new[name]
        ],
        held=[hold for key, hold in after.holds.items() if key not in before.holds],
        released=[hold for key, hold in before.holds.items() if key not in after.holds],
        pinned=[pin for key, pin in after.pins.items() if key not in before.pins],
        unpinned=[pin for key, pin in before.pins.items() if key not in after.pins],
        bytes_before=before.bytes,
        bytes_after=after.bytes,
    )
