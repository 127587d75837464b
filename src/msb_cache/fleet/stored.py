"""A log as a place stores it: its events from an anchor on, and what the anchor keeps of those before it.

Events up to an anchor are in an archive. What was folded from them stays with it, and the tree over them, so
that a check or a fold goes on from there as from the beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
from msgspec.structs import astuple, replace

from msb_cache.errors import FleetError
from msb_cache.eventstore.chain import LAST, Checker, Value
from msb_cache.eventstore.events import ManifestAdded
from msb_cache.eventstore.merkle import Frontier, leaf_hash
from msb_cache.eventstore.row import COLUMNS
from msb_cache.eventstore.store import StoredEvent
from msb_cache.fleet import folded
from msb_cache.fleet.hosts import LONGEST_NAME
from msb_cache.fleet.place import Reading
from msb_cache.projections import FOLD_VERSION
from msb_cache.projections.fold import Fold
from msb_cache.projections.rows import ROW_TYPES
from msb_cache.projections.tables import Tables
from msb_cache.wording import short_log_id

_PAGE = 1000
_EVENTS = (
    f"SELECT {', '.join(COLUMNS)}, hash FROM msb_cache.events "
    "WHERE log_id = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
)


class Anchor(msgspec.Struct, frozen=True):
    """The last event of a log that is in an archive, and what is kept of all up to it.

    Attributes:
        log_id: whose.
        seq: that event's position.
        hash: its hash.
        recorded_at_ns: when it was recorded, in ns since the epoch, UTC.
        fold_version: of the fold that made the rows.
        rows: what was folded up to it, and the tree over it, as ``folded.encoded`` has them.
    """

    log_id: str
    seq: int
    hash: bytes
    recorded_at_ns: int
    fold_version: int
    rows: bytes

    def fill(self, tables: Tables) -> folded.Prefix:
        """Put what was folded up to it into tables, so that a fold goes on from there; return all it keeps.

        Raises:
            FleetError: that is damaged, or another version of the fold made it.
        """
        if self.fold_version != FOLD_VERSION:
            raise FleetError(
                f"what is kept of the events up to {self.seq}, which are in an archive, is of the fold's "
                f"version {self.fold_version}, and this msb-cache has {FOLD_VERSION}; "
                "`msb-cache fleet archive --refold FOLDER` makes it anew from the archive"
            )
        try:
            prefix = folded.decoded(self.rows)
        except msgspec.MsgspecError:
            raise FleetError(
                f"what the anchor of the log {short_log_id(self.log_id)} keeps is damaged; "
                "`msb-cache fleet archive --refold FOLDER` makes it anew from the archive"
            ) from None
        for row_type in ROW_TYPES:
            table = tables.of(row_type)
            for row in prefix.tables.get(row_type.table, ()):
                table.put(row_type(*row))
        return prefix

    def checker(self) -> Checker:
        """Return what checks the events behind it."""
        return Checker.behind(self.seq, self.hash, self.log_id, self.recorded_at_ns)


def anchor_of(reading: Reading, log_id: str) -> Anchor | None:
    """Return a log's anchor; None: all of its events are there."""
    for row in reading.rows(
        "SELECT log_id, seq, hash, recorded_at, fold_version, rows FROM msb_cache.anchor WHERE log_id = ?",
        (log_id,),
    ):
        return Anchor(*row)
    return None


def events(
    reading: Reading, log_id: str, after: int = 0, until: int = LAST
) -> Iterator[tuple[tuple[Value, ...], bytes]]:
    """Yield a log's events behind ``after`` up to ``until`` as hashed columns and hash; asked in pages."""
    while after < until:
        page = reading.rows(_EVENTS, (log_id, after, until, _PAGE))
        for row in page:
            yield row[:-1], row[-1]
        if len(page) < _PAGE:
            return
        after = page[-1][0]


class Followed:
    """A log as far as it was read: what checks its chain, its tree, and what is folded from it.

    Attributes:
        checker: stands behind the last event that was in order.
        tree: over the events up to there; None: what the anchor keeps of it is not there.
        fold: of them, without images' configurations, as a fleet folds.
        host: whose name the events say; None: none does.

    Args:
        anchor: from which on it is read; None: from its beginning.

    Raises:
        FleetError: what the anchor keeps is damaged, or another version of the fold made it.
    """

    def __init__(self, anchor: Anchor | None = None) -> None:
        self.checker = self.before(anchor)()
        self.tree: Frontier | None = Frontier()
        self.host: str | None = None
        tables = Tables()
        if anchor is not None:
            prefix = anchor.fill(tables)
            self.tree = None if prefix.tree is None else Frontier.kept(anchor.seq, prefix.tree)
            self.host = prefix.host
        self.fold = Fold(tables)

    @staticmethod
    def before(anchor: Anchor | None) -> Callable[[], Checker]:
        """Return what makes checkers that stand where a log is read from."""
        return Checker if anchor is None else anchor.checker

    def take(self, stored: bytes, event: StoredEvent | None) -> None:
        """Go on by an event that the checker has passed; ``event`` None: it is not folded."""
        if self.tree is not None:
            self.tree.append(leaf_hash(stored))
        if event is None:
            return
        if isinstance(event.data, ManifestAdded):
            event = replace(event, data=replace(event.data, config=None))
        if event.actor.host and not (event.actor.observed and self.host):  # as the folder takes it
            self.host = event.actor.host[:LONGEST_NAME]
        self.fold.apply((event,))

    def packed(self) -> bytes:
        """Return what an anchor keeps of all up to here."""
        tables = self.fold.tables
        found = folded.prefix_of(
            lambda row_type: map(astuple, tables.of(row_type).rows.values()),
            self.host,
            None if self.tree is None else self.tree.peaks,
        )
        return folded.encoded(found)
