"""Why an image goes or stays, in words: the rule that decided, and what it looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from msb_cache.oci.reference import familiar
from msb_cache.oci.reference import repository as repository_of
from msb_cache.retention.policy import GRACE
from msb_cache.shapes import rfc3339
from msb_cache.wording import duration, short

if TYPE_CHECKING:
    from msb_cache.eventstore.events import Judged
    from msb_cache.retention.plan import Verdict

Say = Callable[[int], str | None]
"""Says a time, in ns since the epoch; where no other is given, in RFC 3339, UTC."""


class _LookedAt(Protocol):
    """What a verdict on an image says of what its rule looked at: as for ``Reason``."""

    @property
    def rule(self) -> str: ...
    @property
    def idle_ns(self) -> int | None: ...
    @property
    def age_ns(self) -> int | None: ...
    @property
    def rank(self) -> int | None: ...
    @property
    def until_ns(self) -> int | None: ...
    @property
    def policy_rule(self) -> str | None: ...


class Reason(NamedTuple):
    """Whether an image goes, by which rule, and what that looked at; as for ``events.Judged``.

    ``repository`` is that of its reference, as people see it; None: it has no reference.
    """

    goes: bool
    rule: str
    by: Sequence[str] = ()
    more: int = 0
    idle_ns: int | None = None
    age_ns: int | None = None
    rank: int | None = None
    until_ns: int | None = None
    repository: str | None = None
    policy_rule: str | None = None


def because_of(
    looked_at: _LookedAt,
    policy: Mapping[str, Any],
    *,
    goes: bool,
    by: Sequence[str],
    more: int = 0,
    repository: str | None,
    named: bool = True,
    say: Say = rfc3339,
) -> str:
    """Return why a rule decided so, in words; arguments as for ``Reason`` and ``because``."""
    reason = Reason(
        goes,
        looked_at.rule,
        by,
        more,
        looked_at.idle_ns,
        looked_at.age_ns,
        looked_at.rank,
        looked_at.until_ns,
        repository,
        looked_at.policy_rule,
    )
    return because(reason, policy, named=named, say=say)


def because(reason: Reason, policy: Mapping[str, Any], *, named: bool = True, say: Say = rfc3339) -> str:
    """Return a reason in words.

    Args:
        reason: the reason.
        policy: as it was given.
        named: of a policy file, the rule's name comes first.
        say: says times.
    """
    name = reason.policy_rule
    said = _because(reason, policy if name is None else _rule(policy, name), say)
    return said if name is None or not named or reason.rule in _OF_NO_RULE else f"{name}: {said}"


_OF_NO_RULE = ("held", "running", "pinned", "protected", "unknown", "shared", "msb-only")
"""What keeps an image whatever a rule says."""


def _rule(policy: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return one rule of a policy file, as it is recorded; the last are its watermarks."""
    for each in policy.get("rules", ()):
        if each.get("name") == name:
            return each  # type: ignore[no-any-return]
    marks = policy.get("watermarks", {})
    return {"max_size": marks.get("low"), "grace": GRACE}


def _because(reason: Reason, policy: Mapping[str, Any], say: Say) -> str:
    if reason.goes:
        return _goes(reason, policy)
    names = ", ".join(short(name) if name.startswith("sha256:") else familiar(name) for name in reason.by)
    if reason.more:
        names += f" and {reason.more} more"
    by = f" by {names}" if names else ""
    match reason.rule:
        case "pinned":
            until = "" if reason.until_ns is None else f" until {say(reason.until_ns)}"
            return f"pinned{by}{until}"
        case "running":
            return f"in use{by}"
        case "unknown":
            return "msb does not know it, and what msb needs of it cannot be told"
        case "shared":
            return f"shares layers with {names}, which msb does not know"
        case "coming":
            return "what comes needs it"
        case "excluded":
            return "excluded"
        case "protected":
            return "kept by the policy"
        case "grace":
            return f"{_idle(reason)}, within the grace of {policy.get('grace')}"
        case "unused-for":
            return f"{_idle(reason)}, not over {policy.get('unused_for')}"
        case "older-than":
            return f"{_age(reason)}, not over {policy.get('older_than')}"
        case "keep-last":
            last = policy.get("keep_last")
            which, of = _ordinal(reason.rank or 0), reason.repository
            return f"the last of {of}" if last == 1 else f"{which} of the last {last} of {of}"
        case "room":
            return f"{_idle(reason)}, and its room is not needed"
        case "too-little":
            return f"{_idle(reason)}; with all that may go the bound is not met"
        case "used-since":
            return "was used after it was shown"
        case "msb-only":
            return "without a reference msb deletes it only with all that nothing uses"
    return f"{reason.rule}{by}"


def _goes(reason: Reason, policy: Mapping[str, Any]) -> str:
    said = []
    if "unused_for" in policy:
        said.append(f"{_idle(reason)}, over {policy['unused_for']}")
    if "older_than" in policy:
        said.append(f"{_age(reason)}, over {policy['older_than']}")
    if "keep_last" in policy and reason.rank is not None:
        last = "one" if policy["keep_last"] == 1 else policy["keep_last"]
        said.append(f"{_ordinal(reason.rank)} of {reason.repository}, after the last {last}")
    if "max_size" in policy or "min_free" in policy:
        said.append("its room is needed" if said else f"{_idle(reason)}, and its room is needed")
    if said:
        return "; ".join(said)
    without = ", and no reference points at it" if reason.repository is None else ""
    return f"nothing uses it{without}" if reason.rule == "unused" else f"{_idle(reason)}{without}"


def _idle(reason: Reason) -> str:
    return "in use" if reason.idle_ns is None else f"idle {duration(reason.idle_ns)}"


def _age(reason: Reason) -> str:
    return f"{duration(reason.age_ns or 0)} old"


def _ordinal(number: int) -> str:
    ends = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if number % 100 in (11, 12, 13) else ends.get(number % 10, 'th')}"


def judged_because(judged: Judged, policy: Mapping[str, Any], *, goes: bool, say: Say = rfc3339) -> str:
    """Return why a deletion took or kept an image, in words; ``policy`` is the deletion's."""
    is_digest = judged.subject.startswith("sha256:")
    return because_of(
        judged,
        policy,
        goes=goes,
        by=judged.holders,
        more=judged.more,
        repository=None if is_digest else shown_repository(judged.subject),
        say=say,
    )


def verdict_because(
    verdict: Verdict | None,
    policy: Mapping[str, Any],
    *,
    goes: bool,
    named: bool = True,
    say: Say = rfc3339,
) -> str | None:
    """Return why rules decided so about an image, in words; None: they do not select it."""
    if verdict is None:
        return None
    is_digest = verdict.subject.startswith("sha256:")
    repository = None if is_digest else shown_repository(verdict.subject)
    return because_of(verdict, policy, goes=goes, by=verdict.by, repository=repository, named=named, say=say)


def shown_repository(reference: str | None) -> str | None:
    """Return the repository of a canonical reference as people see it."""
    return None if reference is None else repository_of(familiar(reference))
