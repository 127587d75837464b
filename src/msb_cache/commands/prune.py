"""Prune: by rules, by a policy file, or of all that nothing uses; and what a prune would do.

Which images go, ``retention`` decides, and the engine that the home has deletes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from msb_cache.commands import reports
from msb_cache.engines.decision import NO_IMAGE, Confirm, Planner, Preview, Report
from msb_cache.errors import BoundNotKeptError, InvalidConfigError
from msb_cache.models import ImagePruneReport
from msb_cache.projections.state import Coming, IndexState
from msb_cache.queries.policy import limit_of, rules_of
from msb_cache.queries.resolve import shown_name
from msb_cache.retention.plan import Plan, plan_prune
from msb_cache.retention.policy import CachePolicy, PrunePolicy
from msb_cache.retention.room import Files
from msb_cache.retention.rules import Limit, Rules, Share, Takes, plan_by_rules
from msb_cache.session import Session
from msb_cache.wording import plural, size

_NAMED = 10
"""Images that an error names; of the others the number."""

_ROOM_FOR = 100
"""References that the log names of those for which room is made; of the others the number."""


class Prune:
    """A prune that was asked for.

    Args:
        session: the home.
        policy: its rules, or what a policy file says.
        orphans: delete files that the index does not name as well.
        orphans_only: delete those, and no image.
        making_room: take no more than what comes needs.

    Raises:
        InvalidConfigError: the policy makes no sense.
    """

    def __init__(
        self,
        session: Session,
        policy: PrunePolicy | CachePolicy,
        *,
        orphans: bool = False,
        orphans_only: bool = False,
        making_room: MakingRoom | None = None,
    ) -> None:
        self.shortfall = 0
        """How many bytes too few what was deleted, or would be, frees for the bound."""
        self.short_of: str | None = None
        """The name of the policy file's rule that asks for that room."""
        self._session = session
        self._orphans = orphans or orphans_only
        self._rules = rules_of(policy, session.ledger.clock())
        if orphans_only and policy != PrunePolicy():
            raise InvalidConfigError("orphans-only takes no image, so it goes with no rule and no limit")
        self._limit = limit_of(policy)
        by_rules = isinstance(policy, CachePolicy) or policy.has_rules
        chosen = NO_IMAGE if orphans_only else planner(self._rules if by_rules else None, making_room)
        self._planner = replace(chosen, policy=policy.recorded())
        self.policy: dict[str, Any] = {"rule": "policy" if by_rules else "unused", **policy.recorded()}
        """What the log keeps of it."""
        self._making_room = making_room
        if making_room is not None:
            self.policy |= {"room_for": list(making_room.names[:_ROOM_FOR]), "room": making_room.takes.peak}
            if (more := len(making_room.names) - _ROOM_FOR) > 0:
                self.policy["room_for_more"] = more
        if orphans_only:
            self.policy["rule"] = "orphans"
        elif orphans:
            self.policy["orphans"] = True

    def preview(self) -> Preview:
        """Return what it would delete and keep now; changes and records nothing."""
        self._session.observe()
        self._say_the_clock()
        shown = self._session.engine().plan(self._planner, orphans=self._orphans)
        self._take_down(shown)
        return shown

    def check(self, shown: Preview) -> None:
        """Refuse what does not keep its bound, or takes more than it may.

        Raises:
            BoundNotKeptError: says by how much, or what it would take.
        """
        if self._making_room is not None and shown.plan.shortfall:
            raise BoundNotKeptError(self._making_room.refused(shown))
        _check(self._rules, self._limit, shown)

    def run(
        self,
        *,
        confirm: Confirm | None = None,
        report: Report | None = None,
        reason: str | None = None,
        context: Mapping[str, str] | None = None,
    ) -> ImagePruneReport:
        """Delete; parameters, result and errors as for ``ImageCache.prune``."""
        with self._session.saying(reason, context):
            return self._run(confirm, report)

    def _run(self, confirm: Confirm | None, report: Report | None) -> ImagePruneReport:
        self._session.begin_writing()
        self._say_the_clock()

        def confirmed(shown: Preview) -> bool:
            self.check(shown)
            return confirm is None or confirm(shown)

        bounded = any(rules.bounded for rules in self._rules)
        asks = confirm is not None or bounded or self._limit is not None
        operation, shown = self._session.engine().delete(
            self._planner,
            kind="prune",
            policy=self.policy,
            orphans=self._orphans,
            confirm=confirmed if asks else None,
            report=report,
        )
        self._take_down(shown)
        if operation is None:
            self.check(shown)
        return reports.of_operation(self._session, operation, shown)

    def _take_down(self, shown: Preview) -> None:
        self.shortfall, self.short_of = shown.plan.shortfall, shown.plan.short_of

    def _say_the_clock(self) -> None:
        if not self._planner.facts:
            return
        with self._session.ledger.read() as connection:
            if connection is not None:
                self._session.corrected_time(connection)


@dataclass(frozen=True)
class MakingRoom:
    """What room is made for, and what that takes; ``names`` are its references, as people see them.

    ``refused`` returns the sentence about what was shown where it is too little.
    """

    names: tuple[str, ...]
    coming: Coming
    takes: Takes
    refused: Callable[[Preview], str]


def planner(several: Sequence[Rules] | None, making_room: MakingRoom | None = None) -> Planner:
    """Return what makes the plan of a prune by rules; None: of all that nothing uses."""
    if several is None:
        return Planner(_unused)

    def plan(state: IndexState, shown: Plan | None, files: Files) -> Plan:
        if making_room is None:
            return plan_by_rules(several, state, shown, files)
        return plan_by_rules(
            several, replace(state, coming=making_room.coming), shown, files, making_room.takes
        )

    labels = any(rules.needs_labels for rules in several)
    return Planner(plan, facts=True, labels=labels, chooses=True)


def _unused(state: IndexState, shown: Plan | None, files: Files) -> Plan:
    return plan_prune(state, shown=shown)


def _check(several: Sequence[Rules], limit: Limit | None, shown: Preview) -> None:
    plan, state = shown.plan, shown.state
    if plan.shortfall and not all(rules.best_effort for rules in several):
        raise BoundNotKeptError(
            f"all that may go frees {size(plan.shortfall)} too little, so nothing was deleted; "
            "`--best-effort` deletes it all the same"
        )
    if limit is None:
        return
    going, most = shown.going, limit.most
    count, total = len(going), len(state.references) + len(state.unreferenced)
    if not limit.allows(count, total):
        listed = ", ".join(shown_name(state.naming, each) for each in going[:_NAMED])
        more = f" and {count - _NAMED:,} more" if count > _NAMED else ""
        by_default = limit.of_at_least > 0
        hint = "; `--max-delete 100%`, or max-delete in the policy, would allow it" if by_default else ""
        allowed = f"{most.percent:g} %" if isinstance(most, Share) else f"{most:,}"
        raise BoundNotKeptError(
            f"{count:,} of {plural(total, 'image')} would go, and at most {allowed} may: {listed}{more}; "
            f"nothing was deleted{hint}"
        )
