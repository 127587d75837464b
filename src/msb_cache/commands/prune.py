"""Prune: by a policy, or of all that nothing uses; and what a prune would do.

Which images go, ``retention`` decides, and the engine that the home has deletes them.
"""

from __future__ import annotations

from typing import Any

from msb_cache.commands import reports
from msb_cache.engines.decision import Confirm, Planner, Preview, Report
from msb_cache.errors import BoundNotKeptError, InvalidConfigError
from msb_cache.models import ImagePruneReport
from msb_cache.projections.state import IndexState
from msb_cache.queries.policy import rules_of
from msb_cache.queries.resolve import shown_name
from msb_cache.retention.plan import Plan, plan_prune
from msb_cache.retention.policy import PrunePolicy
from msb_cache.retention.room import Files
from msb_cache.retention.rules import Rules, Share, plan_by_rules
from msb_cache.session import Session
from msb_cache.wording import plural, size

_NAMED = 10
"""Images that an error names; of the others the number."""


class Prune:
    """A prune that was asked for.

    Args:
        session: the home.
        policy: its rules.
        orphans: delete files that the index does not name as well.
        orphans_only: delete those, and no image.

    Raises:
        InvalidConfigError: the policy makes no sense.
    """

    def __init__(
        self, session: Session, policy: PrunePolicy, *, orphans: bool = False, orphans_only: bool = False
    ) -> None:
        self.shortfall = 0
        """How many bytes too few what was deleted, or would be, frees for the bound."""
        self._session = session
        self._orphans = orphans or orphans_only
        self._rules = rules_of(policy, session.ledger.clock())
        if orphans_only and policy != PrunePolicy():
            raise InvalidConfigError("orphans-only takes no image, so it goes with no rule and no limit")
        self._planner = Planner(_nothing) if orphans_only else planner(policy, self._rules)
        self._policy: dict[str, Any] = {
            "rule": "policy" if policy.has_rules else "unused",
            **policy.recorded(),
        }
        if orphans_only:
            self._policy["rule"] = "orphans"
        elif orphans:
            self._policy["orphans"] = True

    def preview(self) -> Preview:
        """Return what it would delete and keep now; changes and records nothing."""
        self._session.observe()
        self._say_the_clock()
        shown = self._session.engine().plan(self._planner, orphans=self._orphans)
        self.shortfall = shown.plan.shortfall
        return shown

    def check(self, shown: Preview) -> None:
        """Refuse what does not keep its bound, or takes more than it may.

        Raises:
            BoundNotKeptError: says by how much, or what it would take.
        """
        _check(self._rules, shown)

    def run(self, *, confirm: Confirm | None = None, report: Report | None = None) -> ImagePruneReport:
        """Delete; parameters, result and errors as for ``ImageCache.prune``."""
        self._session.begin_writing()
        self._say_the_clock()

        def confirmed(shown: Preview) -> bool:
            self.check(shown)
            return confirm is None or confirm(shown)

        asks = confirm is not None or self._rules.bounded or self._rules.max_delete is not None
        operation, shown = self._session.engine().delete(
            self._planner,
            kind="prune",
            policy=self._policy,
            orphans=self._orphans,
            confirm=confirmed if asks else None,
            report=report,
        )
        self.shortfall = shown.plan.shortfall
        if operation is None:
            self.check(shown)
        return reports.of_operation(self._session, operation, shown)

    def _say_the_clock(self) -> None:
        if not self._planner.facts:
            return
        with self._session.ledger.read() as connection:
            if connection is not None:
                self._session.corrected_time(connection)


def planner(policy: PrunePolicy, rules: Rules) -> Planner:
    """Return what makes the plan of a policy."""
    if not policy.has_rules:
        return Planner(_unused)

    def plan(state: IndexState, shown: Plan | None, files: Files) -> Plan:
        return plan_by_rules(rules, state, shown, files)

    return Planner(plan, facts=True, labels=rules.needs_labels, chooses=True)


def _unused(state: IndexState, shown: Plan | None, files: Files) -> Plan:
    return plan_prune(state, shown=shown)


def _nothing(state: IndexState, shown: Plan | None, files: Files) -> Plan:
    return Plan(naming=state.naming)


def _check(rules: Rules, shown: Preview) -> None:
    plan, state = shown.plan, shown.state
    if plan.shortfall and not rules.best_effort:
        raise BoundNotKeptError(
            f"all that may go frees {size(plan.shortfall)} too little, so nothing was deleted; "
            "`--best-effort` deletes it all the same"
        )
    if rules.max_delete is None:
        return
    going, most = shown.going, rules.max_delete
    count, total = len(going), len(state.references) + len(state.unreferenced)
    if count * 100 > total * most.percent if isinstance(most, Share) else count > most:
        listed = ", ".join(shown_name(state.naming, each) for each in going[:_NAMED])
        more = f" and {count - _NAMED:,} more" if count > _NAMED else ""
        allowed = f"{most.percent:g} %" if isinstance(most, Share) else f"{most:,}"
        raise BoundNotKeptError(
            f"{count:,} of {plural(total, 'image')} would go, and at most {allowed} may: {listed}{more}; "
            "nothing was deleted"
        )
