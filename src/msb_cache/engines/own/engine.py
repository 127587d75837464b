"""Our own engine, as what it is asked for; what it does stands beside this, imported when it is asked for.

A removal needs nothing of what converts layers, and conversion nothing of what reaches registries.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, ClassVar

from msb_cache.engines.decision import MEASURING, Confirm, Planner, Preview, Report
from msb_cache.eventstore import events as ev
from msb_cache.home.ledger import Ledger
from msb_cache.projections.images import HandleRow
from msb_cache.projections.state import IndexState, load, load_to_judge

if TYPE_CHECKING:
    from msb_cache.engines.engine import LoadRequest, Mending, MendRequest, Orphans, Pulled, PullRequest
    from msb_cache.engines.leftovers import Leftover


class OwnEngine:
    """Adds to a cache of ours, and deletes from it; an ``Engine``."""

    name: ClassVar[ev.Engine] = "msb-cache"

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def add(self, request: LoadRequest) -> list[HandleRow]:
        """Add the images of an archive."""
        from msb_cache.engines.own.load import load

        return load(self._ledger, request)

    def pull(self, request: PullRequest) -> Pulled:
        """Pull an image from its registry."""
        from msb_cache.engines.own.pull import pull

        return pull(self._ledger, request)

    def index(self, connection: sqlite3.Connection) -> IndexState:
        """Return the index as it is."""
        return load(connection)

    def index_to_judge(self, connection: sqlite3.Connection, *, facts: bool, labels: bool) -> IndexState:
        """Return the live index as a deletion sees it."""
        return load_to_judge(connection, facts=facts, labels=labels)

    def plan(self, planner: Planner, *, orphans: bool = False) -> Preview:
        """Return what a deletion would do now."""
        from msb_cache.engines.own.delete import preview

        with self._ledger.doing(MEASURING):
            return preview(self._ledger, planner, orphans=orphans)

    def delete(
        self,
        planner: Planner,
        *,
        kind: ev.DeletionKind,
        policy: dict[str, Any],
        orphans: bool = False,
        confirm: Confirm | None = None,
        report: Report | None = None,
    ) -> tuple[str | None, Preview]:
        """Decide and delete."""
        from msb_cache.engines.own.delete import delete

        return delete(
            *(self._ledger, planner),
            kind=kind,
            policy=policy,
            orphans=orphans,
            confirm=confirm,
            report=report,
        )

    def mend(self, request: MendRequest) -> Mending:
        """Make files of images anew."""
        from msb_cache.engines.own.mend import mend

        return mend(self._ledger, request)

    def recover(self, operation: str) -> None:
        """Delete what the deletion had not come to, and finish it."""
        from msb_cache.engines.own.delete import resume

        resume(self._ledger, operation)

    def orphans(self, state: IndexState) -> Orphans:
        """Return the files that the index does not name."""
        from msb_cache.engines.engine import Orphans
        from msb_cache.engines.own.delete import unnamed

        return Orphans([*unnamed(self._ledger.layout, state)])

    def leftovers(self, connection: sqlite3.Connection) -> list[Leftover]:
        """Return the files that earlier deletions had to leave."""
        from msb_cache.engines.own.delete import left_over

        return left_over(self._ledger.layout, connection)
