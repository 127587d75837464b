"""Which images the rules of a policy choose: pure, from one position and one reading of the clock.

Rules go in order: each sees what those before it left, and what any of them takes goes. By one rule, an image
is a candidate if it is selected and has every age that is given, and nothing protects it. Without a
bound all candidates go. With one, the least recently used go until the bound holds, and of these the most
recently used stay whose room is not needed. A manifest without a reference is an image of its own.

Where something comes for which room is made, a rule without a bound takes only as much as that needs, too.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace as with_fields

from msb_cache.oci.reference import repository as repository
from msb_cache.projections.state import IndexState
from msb_cache.retention.plan import (
    COMING,
    MSB_ONLY,
    Bounds,
    Plan,
    Verdict,
    complete,
    needed_by_coming,
    never_goes,
)
from msb_cache.retention.room import Considered, Files, Room
from msb_cache.shapes import Result

GRACE, EXCLUDED, PROTECTED, YOUNG, RECENT, LAST, NOT_NEEDED = (
    "grace",
    "excluded",
    "protected",
    "older-than",
    "unused-for",
    "keep-last",
    "room",
)
USED_SINCE, SHORT = "used-since", "too-little"
"""Rules that keep an image: see docs/retention.md for what each says."""

DUE = "due"
"""The rule of what goes: it meets all that was asked."""


class Limit(NamedTuple):
    """How many images may go, or which share of all, in a cache of at least so many."""

    most: int | Share
    of_at_least: int = 0

    def allows(self, going: int, total: int) -> bool:
        """Return whether so many of all may go."""
        if total < self.of_at_least:
            return True
        return (
            going * 100 <= total * self.most.percent if isinstance(self.most, Share) else going <= self.most
        )


class Share(NamedTuple):
    """A part of a whole, in percent."""

    percent: float


Selects = Callable[[Sequence[str], str, Mapping[str, str]], bool]
"""Whether an image is meant, by its names, its manifest's digest and its labels."""


class Rules(Struct, frozen=True, kw_only=True):
    """What one rule means. Durations in ns, sizes in bytes; None: it was not asked for.

    Attributes:
        name: the rule's name in the policy file; None: it was not named.
        starts_at: the bound is asked for only once the cache takes so much, or of its file system such a
            share is used; None: always.
        selects: whether an image is within the selection, by its reference as people see it and canonically,
            its manifest's digest, labels, and whether it is without a reference; None: all are.
        excludes: whether a reference is never taken; None: none is.
        protects: whether an image is out of reach of all rules, asked as ``selects`` is; None: none is.
        needs_labels: whether ``selects`` or ``protects`` looks at labels.
    """

    name: str | None = None
    unused_for: int | None = None
    older_than: int | None = None
    keep_last: int | None = None
    keep_last_by: Literal["used", "pulled"] = "used"
    max_size: int | None = None
    min_free: int | Share | None = None
    starts_at: int | Share | None = None
    grace: int = 0
    best_effort: bool = False
    selects: Selects | None = None
    excludes: Callable[[Sequence[str], str], bool] | None = None
    protects: Selects | None = None
    needs_labels: bool = False

    @property
    def bounded(self) -> bool:
        """Whether room is asked for."""
        return self.max_size is not None or self.min_free is not None


class Takes(NamedTuple):
    """What is about to be added takes of the disk, in bytes.

    Attributes:
        cache: by how much the cache is larger then; less than nothing where it replaces more.
        disk: by how much less its file system has free then.
        peak: how much it has to have free for that on the way.
    """

    cache: int
    disk: int
    peak: int


NOTHING = Takes(0, 0, 0)


def plan_by_rules(
    several: Sequence[Rules], state: IndexState, shown: Plan | None, files: Files, takes: Takes | None = None
) -> Plan:
    """Plan a prune by rules, one after the other.

    Args:
        several: what each rule means.
        state: the index, with facts, and with labels if a rule needs them.
        shown: a plan that was shown before: nothing outside of it goes, and of it not what came to be needed
            or was used since. Bounds are not asked again.
        files: what files take of the disk; looked at only for a bound.
        takes: what room is made for, and no more than that; None: for nothing.
    """
    kept: dict[str, Verdict] = {}
    going: dict[str, Verdict] = {}
    digests: dict[str, str] = {}
    chosen: list[Sequence[Considered]] = []
    lacking: list[tuple[int, str | None]] = []
    shortfall, short_of = 0, None
    needs = None if takes is None else _Needs(several, files, takes)
    for rules, applied in _in_order(several if needs is None else needs.rules, state, shown, files, needs):
        # What the first rule says of an image tells most: the last is often one for room, of all images.
        kept = {verdict.subject: verdict for verdict in applied.judged.kept} | kept
        going |= {each.subject: applied.judged.verdict(each, DUE) for each in applied.chosen}
        digests |= {each.subject: each.digest for each in applied.chosen}
        chosen.append(applied.chosen)
        lacking.append((applied.lacking, rules.name))
    if needs is None:
        shortfall, short_of = _still_lacking(lacking, chosen, state, files)
    elif shown is None:
        room = Room(state, files)
        found = [
            Considered(each.subject, digests[each.subject], each.facts)
            for each in going.values()
            if each.facts
        ]
        shortfall, short_of = needs.left(sum(map(room.take, found)))
    references = {name: digest for name, digest in digests.items() if name in state.references}
    manifests = [digest for digest in dict.fromkeys(digests.values()) if digest in state.manifests]
    staying = [verdict for subject, verdict in kept.items() if subject not in going]
    plan = complete(state, references, manifests, staying, shown)
    return replace(plan, going=tuple(going.values()), shortfall=shortfall, short_of=short_of)


def _still_lacking(
    lacking: Sequence[tuple[int, str | None]],
    chosen: Sequence[Sequence[Considered]],
    state: IndexState,
    files: Files,
) -> tuple[int, str | None]:
    """Return the most that a rule lacks when all is gone, and its name: those after it free some, too.

    Args:
        lacking: how much each rule lacked when it was applied, and its name.
        chosen: what each rule took.
        state: the index before.
        files: what files take.
    """
    if not any(each for each, _ in lacking):
        return 0, None
    room, later = Room(state, files), 0
    freed = [sum(map(room.take, some)) for some in chosen]
    found: tuple[int, str | None] = (0, None)
    for (lacked, name), some in reversed([*zip(lacking, freed, strict=True)]):
        if lacked - later >= max(1, found[0]):
            found = lacked - later, name
        later += some
    return found


class RuleVerdict(Result, Struct, frozen=True):
    """What one rule of several makes of an image: whether it goes and why; ``verdict`` None: not selected."""

    rule: str | None
    goes: bool
    verdict: Verdict | None
    policy: Mapping[str, Any] = {}
    """The policy that has the rule, as ``recorded`` says it."""

    @property
    def because(self) -> str:
        """Why it goes or stays by this rule, in words; times in RFC 3339, UTC."""
        from msb_cache.retention.because import verdict_because

        said = verdict_because(self.verdict, self.policy, goes=self.goes, named=False)
        return said or "it is not selected"

    def _shape(self) -> dict[str, Any]:
        rule = None if self.verdict is None else self.verdict.rule
        return {"name": self.rule, "deletes": self.goes, "rule": rule, "because": self.because}


def verdicts_on(subject: str, several: Sequence[Rules], state: IndexState, files: Files) -> list[RuleVerdict]:
    """Return what each rule makes of an image, or of a manifest without a reference, until it goes."""
    found = []
    for rules, applied in _in_order(several, state, None, files):
        going = next((each for each in applied.chosen if each.subject == subject), None)
        if going is not None:
            found.append(RuleVerdict(rules.name, True, applied.judged.verdict(going, DUE)))
            break
        kept = next((each for each in applied.judged.kept if each.subject == subject), None)
        found.append(RuleVerdict(rules.name, False, kept))
    return found


class _Applied(NamedTuple):
    """What one rule chose, its verdicts on all else, and how many bytes it lacks for its bound."""

    chosen: Sequence[Considered]
    judged: _Judged
    lacking: int


class _Needs:
    """How much has to come free by each of several rules, for what is about to be added.

    A rule with a bound takes no more than that asks for, counting what comes, or what comes needs on the way:
    a bound of another rule is none of its images' matter. One without takes what any of them asks for: all of
    its images would go by a prune.
    """

    def __init__(self, several: Sequence[Rules], files: Files, takes: Takes) -> None:
        self.rules = [_up_to_high(rules) for rules in several]
        way = takes.peak - files.free_bytes - files.going_anyway_bytes
        own = [_needed(rules, files, takes) if rules.bounded else way for rules in self.rules]
        self._most, self._of = way, None
        for rules, needed in zip(several, own, strict=True):
            if needed > self._most:
                self._most, self._of = needed, rules.name
        self.by = [
            max(way, needed) if rules.bounded else self._most
            for rules, needed in zip(self.rules, own, strict=True)
        ]
        self.rules = [rules if rules.bounded else with_fields(rules, min_free=0) for rules in self.rules]

    def left(self, freed: int) -> tuple[int, str | None]:
        """Return how much is lacking when so much comes free, and the rule that asks for it, if one does."""
        lacking = max(0, self._most - freed)
        return lacking, self._of if lacking else None


def _up_to_high(rules: Rules) -> Rules:
    """Return a rule with marks as one with the high mark for its bound; any other as it is."""
    if rules.starts_at is None:
        return rules
    if isinstance(rules.starts_at, Share):
        least = Share(100 - rules.starts_at.percent)
        return with_fields(rules, starts_at=None, max_size=None, min_free=least)
    return with_fields(rules, starts_at=None, max_size=rules.starts_at, min_free=None)


def _in_order(
    several: Sequence[Rules],
    state: IndexState,
    shown: Plan | None,
    files: Files,
    needs: _Needs | None = None,
) -> Iterator[tuple[Rules, _Applied]]:
    left, freed = state, 0
    for number, rules in enumerate(several, start=1):
        needed = None if needs is None else needs.by[number - 1]
        applied = _apply(rules, left, freed, _of_rule(shown, rules), files, needed)
        yield rules, applied
        if applied.chosen and number < len(several):
            if shown is None and any(each.bounded for each in several[number:]):
                room = Room(left, files)
                freed += sum(room.take(each) for each in applied.chosen)
            left = _without(left, applied.chosen)


def _apply(
    rules: Rules, state: IndexState, freed: int, shown: Plan | None, files: Files, needed: int | None
) -> _Applied:
    """Apply one rule; ``freed`` is what comes free by those before it.

    ``needed`` bytes are to come free by all of them; None: as many as its bound asks for.
    """
    judged = _Judged(rules, state, shown)
    candidates = judged.candidates
    if shown is not None:
        candidates, others = _still(judged, shown)
        judged.kept += others
        return _Applied(candidates, judged, 0)
    if not rules.bounded:
        return _Applied(candidates, judged, 0)
    if needed is None:
        needed = _needed_by_itself(rules, freed, files)
    chosen, lacking = _for_room(needed - freed, Room(state, files), candidates) if needed > freed else ([], 0)
    if lacking and not rules.best_effort:
        judged.kept += [judged.verdict(each, SHORT) for each in candidates]
        return _Applied([], judged, lacking)
    subjects = {each.subject for each in chosen}
    judged.kept += [judged.verdict(each, NOT_NEEDED) for each in candidates if each.subject not in subjects]
    return _Applied(chosen, judged, lacking)


def _of_rule(shown: Plan | None, rules: Rules) -> Plan | None:
    """Return what of a plan that was shown is one rule's."""
    if shown is None:
        return None
    return replace(shown, going=tuple(each for each in shown.going if each.policy_rule == rules.name))


def _without(state: IndexState, gone: Sequence[Considered]) -> IndexState:
    """Return the index as it is when images are gone, for the rules that come after."""
    references = dict(state.references)
    for each in gone:
        references.pop(each.subject, None)
    digests = [digest for digest in dict.fromkeys(each.digest for each in gone) if digest in state.manifests]
    plan = complete(state, {each.subject: each.digest for each in gone}, digests, (), None)
    manifests = dict(state.manifests)
    for digest in plan.manifests:
        del manifests[digest]
    lost = set(plan.layers)
    layers = [diff_id for diff_id in state.layers if diff_id not in lost]
    return replace(state, references=references, manifests=manifests, layers=layers)


class _Judged:
    """The verdict on each image, but for the room that it takes."""

    def __init__(self, rules: Rules, state: IndexState, shown: Plan | None = None) -> None:
        self._rules, self._state, self._now = rules, state, state.now_ns
        self._shown = shown
        self.kept: list[Verdict] = []
        self.candidates: list[Considered] = []
        self._ranks: Mapping[str, int] = _ranks(rules, state) if rules.keep_last is not None else {}
        due: list[Considered] = []
        for each in _images(state):
            if rules.selects is not None and not self._meant(each, rules.selects):
                continue
            rule = self._kept_by(each)
            if isinstance(rule, Verdict):
                self.kept.append(self._with_facts(rule, each))
            elif rule is not None:
                self.kept.append(self.verdict(each, rule))
            elif (
                state.kept_by_msb
                and each.subject in state.manifests
                and each.subject not in state.unknown_to_msb
            ):
                self.kept.append(self.verdict(each, MSB_ONLY))
            else:
                due.append(each)
        bounds = Bounds(state, self._unknown_going(due))
        for each in due:
            kept_back = bounds(each.subject, each.digest)
            if kept_back is None:
                self.candidates.append(each)
            else:
                self.kept.append(self._with_facts(kept_back, each))
        self.candidates.sort(key=lambda each: (each.facts.idle_since or 0, each.subject))

    def verdict(self, each: Considered, rule: str) -> Verdict:
        """Return a verdict with what was looked at."""
        return self._with_facts(Verdict(each.subject, rule), each)

    def _with_facts(self, verdict: Verdict, each: Considered) -> Verdict:
        idle, since = each.facts.idle_since, each.facts.since
        return Verdict(
            verdict.subject,
            verdict.rule,
            verdict.by,
            None if idle is None or each.digest in self._state.running else max(0, self._now - idle),
            max(0, self._now - since),
            self._ranks.get(each.subject),
            verdict.until_ns,
            each.facts,
            self._rules.name,
        )

    def _meant(self, each: Considered, by: Selects) -> bool:
        return by(self._names(each), each.digest, self._state.labels.get(each.digest, {}))

    def _names(self, each: Considered) -> Sequence[str]:
        """Return the names of an image: its canonical reference, and as it was typed; none without one."""
        if each.subject not in self._state.references:
            return ()
        naming = self._state.naming
        typed = naming.spelling(each.subject)
        return [naming.reference(each.subject), *([] if typed is None else [typed])]

    def _kept_by(self, each: Considered) -> Verdict | str | None:
        rules, (subject, digest, facts) = self._rules, each
        kept = never_goes(self._state, subject, digest)
        if kept is not None:
            return kept
        if needed_by_coming(self._state, subject, digest):
            return COMING
        if rules.protects is not None and self._meant(each, rules.protects):
            return PROTECTED
        if rules.excludes is not None and rules.excludes(self._names(each), digest):
            return EXCLUDED
        idle_ns = 0 if facts.idle_since is None else max(0, self._now - facts.idle_since)
        if idle_ns < rules.grace:
            return GRACE
        if rules.unused_for is not None and idle_ns < rules.unused_for:
            return RECENT
        if rules.older_than is not None and max(0, self._now - facts.since) < rules.older_than:
            return YOUNG
        if rules.keep_last is not None:
            rank = self._ranks.get(subject)
            if rank is not None and rank <= rules.keep_last:
                return LAST
        return None

    def _unknown_going(self, due: Sequence[Considered]) -> set[str]:
        """Return the manifests of images that msb does not know and that go: they keep no layers from it."""
        state = self._state
        if state.unjudged or self._rules.bounded or not state.unknown_to_msb:
            return set()
        if self._shown is not None:
            due = _as_shown(due, self._shown)
        going = {each.subject for each in due}
        staying = {digest for name, digest in state.references.items() if name not in going}
        return {each.digest for each in due if each.subject in state.unknown_to_msb} - staying


def _images(state: IndexState) -> Sequence[Considered]:
    """Return every image, and every manifest without a reference."""
    facts = state.facts
    found = [Considered(name, digest, facts[name]) for name, digest in state.references.items()]
    if len(facts) > len(found):
        found += [Considered(digest, digest, facts[digest]) for digest in state.manifests if digest in facts]
    return found


def _ranks(rules: Rules, state: IndexState) -> dict[str, int]:
    """Return, by image, the place of its manifest among those of its repository, the most recent being 1.

    Held and pinned ones count, and those outside of the selection. One that is in use is the most recent.
    """
    latest: defaultdict[str, dict[str, int]] = defaultdict(dict)
    names: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for name, digest in state.references.items():  # newest first, which decides between equals
        facts = state.facts[name]
        in_use = facts.idle_since is None or digest in state.running
        recent = facts.pulled_at if rules.keep_last_by == "pulled" else facts.idle_since or 0
        if in_use and rules.keep_last_by == "used":
            recent = 2**63
        of = repository(state.naming.reference(name))
        latest[of][digest] = max(recent, latest[of].get(digest, 0))
        names[of, digest].append(name)
    return {
        name: rank
        for of, digests in latest.items()
        for rank, (digest, _) in enumerate(sorted(digests.items(), key=_recent_first), start=1)
        for name in names[of, digest]
    }


def _recent_first(item: tuple[str, int]) -> int:
    return -item[1]


def _still(judged: _Judged, shown: Plan) -> tuple[list[Considered], list[Verdict]]:
    """Return which of the images that were shown to go still do, and verdicts on the others that may."""
    going = {each.subject: each for each in shown.going}
    stayed = {each.subject: each for each in shown.kept}
    others = []
    for each in judged.candidates:
        before = going.get(each.subject)
        if before is None:
            others += [stayed[each.subject]] if each.subject in stayed else []
        elif used_since(before, each.facts.idle_since):
            others.append(judged.verdict(each, USED_SINCE))
    return _as_shown(judged.candidates, shown), others


def _as_shown(images: Sequence[Considered], shown: Plan) -> list[Considered]:
    """Return those that were shown to go, point where they pointed then, and were not used since."""
    going = {each.subject: each for each in shown.going}
    return [
        each
        for each in images
        if each.subject in going
        and not used_since(going[each.subject], each.facts.idle_since)
        and shown.references.get(each.subject, each.subject) == each.digest
    ]


def goes_at(several: Sequence[Rules], state: IndexState, subject: str, digest: str) -> int | None:
    """Return when an image goes if nothing uses it and no other comes, in ns since the epoch; None: never.

    None too where that is not a matter of time alone: a sandbox has it, or room decides.
    """
    times = (_goes_at(rules, state, subject, digest) for rules in several)
    return min((at for at in times if at is not None), default=None)


def _goes_at(rules: Rules, state: IndexState, subject: str, digest: str) -> int | None:
    facts = state.facts.get(subject)
    if facts is None or facts.idle_since is None or rules.bounded:
        return None
    waits = (
        (facts.idle_since, rules.grace),
        (facts.idle_since, rules.unused_for),
        (facts.since, rules.older_than),
    )
    ends = [since + length for since, length in waits if length]  # for none at all, nothing is waited for
    pin = state.pin_of(subject, digest)
    if pin is not None:
        if pin.until_ns is None:
            return None
        ends.append(pin.until_ns)
    when = max(ends, default=state.now_ns)
    later = replace(
        state,
        now_ns=when,
        pins={
            name: each for name, each in state.pins.items() if each.until_ns is None or each.until_ns > when
        },
    )
    found = _Judged(rules, later).candidates
    return when if any(each.subject == subject for each in found) else None


def used_since(shown: Verdict, idle_since: int | None) -> bool:
    """Return whether an image was used after it was shown; it is idle since then (ns; None: it is in use)."""
    before = None if shown.facts is None else shown.facts.idle_since
    return before is None or idle_since is None or idle_since > before


def _is_reached(mark: int | Share, freed: int, files: Files) -> bool:
    """Whether the cache takes so much, or such a share of its file system is used, when ``freed`` is free."""
    if not isinstance(mark, Share):
        return files.total_bytes - freed >= mark
    used = files.capacity_bytes - files.free_bytes - freed
    return used * 100 >= files.capacity_bytes * mark.percent


def _needed_by_itself(rules: Rules, freed: int, files: Files) -> int:
    """Return how many bytes have to come free for a bound: none where that is not asked for yet."""
    gone = freed + files.going_anyway_bytes
    if rules.starts_at is not None and not _is_reached(rules.starts_at, gone, files):
        return 0
    return _needed(rules, files)


def _needed(rules: Rules, files: Files, takes: Takes = NOTHING) -> int:
    """Return how many bytes have to come free for a bound; less than nothing where there is more room."""
    bounds = []
    if rules.max_size is not None:
        bounds.append(files.total_bytes + takes.cache - rules.max_size)
    if rules.min_free is not None:
        wanted = rules.min_free
        if isinstance(wanted, Share):
            wanted = math.ceil(files.capacity_bytes * wanted.percent / 100)
        bounds.append(wanted + takes.disk - files.free_bytes)
    return max(bounds) - files.going_anyway_bytes


def _for_room(needed: int, room: Room, candidates: list[Considered]) -> tuple[list[Considered], int]:
    """Return which candidates, the least recently used first, go for a bound, and how much they lack."""
    freed, chosen = 0, []
    for each in candidates:
        freed += room.take(each)
        chosen.append(each)
        if freed >= needed:
            break
    else:
        return candidates, needed - freed
    staying = set()
    for each in reversed(chosen):
        less = room.put_back(each)
        if freed - less >= needed:
            freed -= less
            staying.add(each.subject)
        else:
            room.take(each)
    return [each for each in chosen if each.subject not in staying], 0
