"""The engine of a home that msb keeps, as what it is asked for; what it does stands beside this."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, ClassVar

from msb_cache.engines.decision import MEASURING, Confirm, Planner, Preview, Report
from msb_cache.eventstore import events as ev
from msb_cache.home.ledger import Ledger
from msb_cache.projections.images import HandleRow
from msb_cache.projections.state import IndexState, load_to_judge

if TYPE_CHECKING:
    from msb_cache.engines.engine import LoadRequest, Mending, MendRequest, Orphans, Pulled, PullRequest
    from msb_cache.engines.leftovers import Leftover


class MsbEngine:
    """Has msb add to the cache that it keeps, and delete from it; an ``Engine``."""

    name: ClassVar[ev.Engine] = "msb"

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def add(self, request: LoadRequest) -> list[HandleRow]:
        """Have msb load an archive."""
        from msb_cache.engines.msb.add import load

        return load(self._ledger, request)

    def pull(self, request: PullRequest) -> Pulled:
        """Have msb pull an image."""
        from msb_cache.engines.msb.add import pull

        return pull(self._ledger, request)

    def index(self, connection: sqlite3.Connection) -> IndexState:
        """Return the index with what only msb knows of it."""
        from msb_cache.engines.msb.delete import observed_index

        return observed_index(self._ledger, connection)

    def index_to_judge(self, connection: sqlite3.Connection, *, facts: bool, labels: bool) -> IndexState:
        """Return the live index as a deletion sees it, with what only msb knows of it."""
        from msb_cache.engines.msb.delete import observed_index

        state = load_to_judge(connection, facts=facts, labels=labels)
        return observed_index(self._ledger, connection, state)

    def plan(self, planner: Planner, *, orphans: bool = False) -> Preview:
        """Return what a deletion would do now; the caller has recorded what msb did."""
        from msb_cache.engines.msb.delete import preview

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
        """Decide, and have msb delete."""
        from msb_cache.engines.msb.delete import delete

        return delete(
            *(self._ledger, planner),
            kind=kind,
            policy=policy,
            orphans=orphans,
            confirm=confirm,
            report=report,
        )

    def mend(self, request: MendRequest) -> Mending:
        """Have msb make files of images anew."""
        from msb_cache.engines.msb.mend import mend

        return mend(self._ledger, request)

    def recover(self, operation: str) -> None:
        """Find out what became of what msb was asked for, and record it; flat roots that must go do."""
        from msb_cache.engines.msb.delete import recover

        recover(self._ledger, operation)

    def orphans(self, state: IndexState) -> Orphans:
        """Return the files that neither index names."""
        from msb_cache.engines.msb.delete import orphans

        return orphans(self._ledger.layout, state)

    def leftovers(self, connection: sqlite3.Connection) -> list[Leftover]:
        """Return the files that earlier deletions had to leave and msb needs no more."""
        from msb_cache.engines.msb.delete import left_over

        return left_over(self._ledger.layout, connection)
