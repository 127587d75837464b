"""Which images rules choose: a table of cases, and a reference written from what the rules say."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msb_cache.projections.state import Coming, ImageFacts, IndexState, Pin
from msb_cache.retention.plan import Plan, Verdict
from msb_cache.retention.rules import Rules, Share, Takes, goes_at, plan_by_rules, repository, used_since
from tests.retention.caches import (
    DIGESTS,
    LAYERS,
    NAMES,
    NOW,
    Disk,
    cache,
    caches,
    disks,
    files,
    freed,
    manifests_left,
    unnamed,
)


def at(idle: int | None, since: int = 0, pulled: int = 0) -> ImageFacts:
    """The facts of an image that is idle since then (None: in use), and points where it does since then."""
    return ImageFacts(idle, since, pulled)


class Within:
    """Selects what has one of these names, digests or labels."""

    def __init__(self, *chosen: str) -> None:
        self.chosen = frozenset(chosen)

    def __call__(self, names: Sequence[str], digest: str, labels: Mapping[str, str] | None = None) -> bool:
        return bool(self.chosen & {*names, digest, *(labels or ())})

    def __repr__(self) -> str:
        return f"Within{tuple(sorted(self.chosen))}"


ONE = {"M": "x"}
TWO = {"M": "x", "N": "y"}
THREE = {"L": "w", "M": "x", "N": "y"}
HELD = ["sandbox:dev"]

CASES = [
    pytest.param(
        Rules(unused_for=8),
        cache({"a:1": ("M", at(NOW - 8)), "b:1": ("N", at(NOW - 7))}, TWO),
        {"a:1"},
        {"b:1": "unused-for"},
        id="unused for as long exactly",
    ),
    pytest.param(
        Rules(older_than=8),
        cache({"a:1": ("M", at(0, NOW - 8)), "b:1": ("N", at(0, NOW - 7))}, TWO),
        {"a:1"},
        {"b:1": "older-than"},
        id="older than as long exactly",
    ),
    pytest.param(
        Rules(unused_for=8, older_than=8),
        cache(
            {
                "a:1": ("M", at(0, NOW)),
                "a:2": ("M", at(NOW, 0)),
                "b:1": ("N", at(NOW - 8, NOW - 8)),
                "b:2": ("N", at(NOW - 8, NOW - 7)),
            },
            TWO,
        ),
        {"b:1"},
        {"a:1": "older-than", "a:2": "unused-for", "b:2": "older-than"},
        id="each age that is given is asked for",
    ),
    pytest.param(
        Rules(grace=5),
        cache({"a:1": ("M", at(NOW - 5)), "b:1": ("N", at(NOW - 4))}, TWO),
        {"a:1"},
        {"b:1": "grace"},
        id="the grace ends exactly",
    ),
    pytest.param(
        Rules(grace=1),
        cache({"a:1": ("M", at(NOW + 100)), "b:1": ("N", at(0, NOW + 100))}, TWO),
        {"b:1"},
        {"a:1": "grace"},
        id="a use in the future is one now",
    ),
    pytest.param(
        Rules(older_than=1),
        cache({"a:1": ("M", at(0, NOW + 100)), "b:1": ("N", at(0, NOW - 1))}, TWO),
        {"b:1"},
        {"a:1": "older-than"},
        id="what it is since the future it is since now",
    ),
    pytest.param(
        Rules(unused_for=8),
        cache({"a:1": ("M", at(None)), "b:1": ("N", at(0))}, TWO, running={"M": HELD}),
        {"b:1"},
        {"a:1": "running"},
        id="a boot that lasts",
    ),
    pytest.param(
        Rules(unused_for=8),
        cache({}, ONE, unnamed={"M": 0}, running={"M": HELD}),
        set(),
        {"M": "running"},
        id="a boot of a manifest without a reference",
    ),
    pytest.param(
        Rules(grace=0),
        cache({"a:1": ("M", at(0)), "b:1": ("N", at(0))}, TWO, holders={"N": HELD}),
        {"a:1"},
        {"b:1": "held"},
        id="held",
    ),
    pytest.param(
        Rules(grace=0),
        cache(
            {"a:1": ("M", at(0)), "A:1": ("N", at(0)), "b:1": ("M", at(0)), "a:2": ("L", at(0))},
            THREE,
            pins={"a:1": Pin("alice"), "L": Pin("bob", NOW + 1)},
        ),
        {"b:1"},
        {"a:1": "pinned", "A:1": "pinned", "a:2": "pinned"},
        id="a pin is of all spellings of a reference, or of all references to a manifest",
    ),
    pytest.param(
        Rules(grace=0),
        cache({}, TWO, unnamed={"M": 0, "N": 0}, pins={"M": Pin("alice")}),
        {"N"},
        {"M": "pinned"},
        id="a manifest without a reference is pinned by its digest",
    ),
    pytest.param(
        Rules(unused_for=8),
        cache({"b:1": ("L", at(0))}, THREE, unnamed={"M": NOW - 8, "N": NOW - 7}),
        {"b:1", "M"},
        {"N": "unused-for"},
        id="a manifest is idle since it has no reference",
    ),
    pytest.param(
        Rules(older_than=8),
        cache({}, TWO, unnamed={"M": NOW - 8, "N": NOW - 7}),
        {"M"},
        {"N": "older-than"},
        id="and has been what it is since then",
    ),
    pytest.param(
        Rules(grace=0, selects=Within("a:1", "N")),
        cache({"a:1": ("M", at(0)), "a:2": ("M", at(0)), "b:1": ("L", at(0))}, THREE, unnamed={"N": 0}),
        {"a:1", "N"},
        {},
        id="nothing outside of the selection",
    ),
    pytest.param(
        Rules(grace=0, selects=Within("B/a:2")),
        cache({"B/a:2": ("M", at(0)), "a:2": ("N", at(0))}, TWO),
        set(),
        {},
        id="a spelling that is not known is not selected by",
    ),
    pytest.param(
        Rules(grace=0, selects=Within("a:1")),
        cache({"A:1": ("M", at(0)), "a:2": ("N", at(0))}, TWO),
        {"A:1"},
        {},
        id="a spelling is selected by its reference",
    ),
    pytest.param(
        Rules(grace=0, selects=Within("old")),
        cache(
            {"a:1": ("M", at(0)), "b:1": ("N", at(0))}, THREE, unnamed={"L": 0}, labels={"M": {"old": "1"}}
        ),
        {"a:1"},
        {},
        id="selected by labels",
    ),
    pytest.param(
        Rules(grace=0, excludes=Within("a:1", "N")),
        cache({"a:1": ("M", at(0)), "a:2": ("M", at(0)), "b:1": ("N", at(0))}, TWO),
        {"a:2"},
        {"a:1": "excluded", "b:1": "excluded"},
        id="excluded",
    ),
    pytest.param(
        Rules(keep_last=1),
        cache({"a:1": ("M", at(3)), "a:2": ("N", at(5)), "b:1": ("L", at(1))}, THREE),
        {"a:1"},
        {"a:2": "keep-last", "b:1": "keep-last"},
        id="the last of each repository",
    ),
    pytest.param(
        Rules(keep_last=2),
        cache({"a:1": ("M", at(9)), "a:2": ("M", at(1)), "A:1": ("N", at(5)), "B/a:2": ("L", at(4))}, THREE),
        {"B/a:2"},
        {"a:1": "keep-last", "a:2": "keep-last", "A:1": "keep-last"},
        id="manifests count, not tags, and as their last use of any",
    ),
    pytest.param(
        Rules(keep_last=1),
        cache({"a:1": ("M", at(9)), "b:1": ("M", at(1)), "b:2": ("N", at(5))}, TWO),
        {"b:1"},
        {"a:1": "keep-last", "b:2": "keep-last"},
        id="a manifest has a place of its own in each repository",
    ),
    pytest.param(
        Rules(keep_last=1),
        cache({"a:1": ("M", at(5)), "a:2": ("N", at(5))}, TWO),
        {"a:2"},
        {"a:1": "keep-last"},
        id="of two that were used at one time the one that came last",
    ),
    pytest.param(
        Rules(keep_last=1, keep_last_by="pulled"),
        cache({"a:1": ("M", at(9, 0, 1)), "a:2": ("N", at(5, 0, 2))}, TWO),
        {"a:1"},
        {"a:2": "keep-last"},
        id="the last one that was pulled",
    ),
    pytest.param(
        Rules(keep_last=1, keep_last_by="pulled"),
        cache({"a:1": ("M", at(None, 0, 1)), "a:2": ("N", at(0, 0, 2))}, TWO, running={"M": HELD}),
        set(),
        {"a:1": "running", "a:2": "keep-last"},
        id="a boot is no pull",
    ),
    pytest.param(
        Rules(keep_last=1),
        cache({"a:1": ("M", at(9)), "a:2": ("N", at(5))}, TWO, holders={"M": HELD}),
        {"a:2"},
        {"a:1": "held"},
        id="one that is held is one of the last",
    ),
    pytest.param(
        Rules(keep_last=1),
        cache({"a:1": ("M", at(9)), "a:2": ("N", at(5))}, TWO, pins={"a:1": Pin("alice")}),
        {"a:2"},
        {"a:1": "pinned"},
        id="one that is pinned is one of the last",
    ),
    pytest.param(
        Rules(keep_last=1),
        cache({"a:1": ("M", at(None)), "a:2": ("N", at(NOW + 1))}, TWO, running={"M": HELD}),
        {"a:2"},
        {"a:1": "running"},
        id="nothing is later than what is in use",
    ),
    pytest.param(
        Rules(keep_last=1, selects=Within("a:2")),
        cache({"a:1": ("M", at(9)), "a:2": ("N", at(5))}, TWO),
        {"a:2"},
        {},
        id="one that is not selected is one of the last",
    ),
    pytest.param(
        Rules(keep_last=3),
        cache({"a:1": ("M", at(0))}, TWO, unnamed={"N": 0}),
        {"N"},
        {"a:1": "keep-last"},
        id="a manifest without a reference is of no repository",
    ),
    pytest.param(
        Rules(grace=0),
        cache({"a:1": ("M", at(0))}, THREE, unnamed={"N": 0, "L": 0}, kept_by_msb=True, unknown=["L"]),
        {"a:1", "L"},
        {"N": "msb-only"},
        id="msb deletes no manifest that it knows and no reference has",
    ),
    pytest.param(
        Rules(grace=0),
        cache({"a:1": ("M", at(0)), "b:1": ("N", at(0))}, {"M": "x", "N": "x"}, unknown=["a:1"]),
        {"a:1", "b:1"},
        {},
        id="what msb does not know keeps no layers if it goes",
    ),
    pytest.param(
        Rules(grace=1),
        cache({"a:1": ("M", at(NOW)), "b:1": ("N", at(0))}, {"M": "x", "N": "x"}, unknown=["a:1"]),
        set(),
        {"a:1": "grace", "b:1": "shared"},
        id="what msb does not know keeps its layers",
    ),
    pytest.param(
        Rules(grace=0),
        cache(
            {"b:1": ("N", at(0))}, {"M": "x", "N": "x"}, unnamed={"M": 0}, unknown=["M"], holders={"M": HELD}
        ),
        set(),
        {"M": "held", "b:1": "shared"},
        id="nor do those of what is held",
    ),
    pytest.param(
        Rules(grace=0, selects=Within("N", "a:1")),
        cache(
            {"a:1": ("M", at(0)), "a:2": ("M", at(0)), "b:1": ("N", at(0))},
            {"M": "x", "N": "x"},
            unknown=["a:1", "a:2", "M"],
        ),
        {"a:1"},
        {"b:1": "shared"},
        id="nor do those of what has another name that stays",
    ),
    pytest.param(
        Rules(max_size=0, best_effort=True),
        cache({"a:1": ("M", at(0)), "b:1": ("N", at(0))}, {"M": "x", "N": "x"}, unknown=["a:1"]),
        {"a:1"},
        {"b:1": "shared"},
        id="for room it is not known beforehand which go",
    ),
    pytest.param(
        Rules(grace=0),
        cache({"a:1": ("M", at(0)), "b:1": ("N", at(0))}, TWO, unknown=["a:1"], unjudged=True),
        {"b:1"},
        {"a:1": "unknown"},
        id="what msb needs cannot be told",
    ),
    pytest.param(
        Rules(grace=0),
        cache({"a:1": ("M", at(0))}, {}),
        {"a:1"},
        {},
        id="a reference whose manifest has no record",
    ),
]


@pytest.mark.parametrize(("rules", "state", "going", "kept"), CASES)
def test_who_goes(rules: Rules, state: IndexState, going: set[str], kept: dict[str, str]) -> None:
    plan = plan_by_rules([rules], state, None, Disk(total_bytes=1))
    assert {each.subject for each in plan.going} == going
    assert {each.rule for each in plan.going} <= {"due"}
    assert {each.subject: each.rule for each in plan.kept} == kept
    assert plan.references.keys() == going & state.references.keys()
    assert {*plan.manifests} == {*state.manifests} - manifests_left(state, going)


def test_a_verdict_says_what_was_looked_at() -> None:
    images = {
        "a:1": ("M", at(NOW - 3, NOW - 9)),
        "a:2": ("N", at(NOW + 3, NOW + 9)),
        "b:1": ("L", at(None, 4)),
        "b:2": ("K", at(0)),
    }
    state = cache(
        images,
        dict.fromkeys(DIGESTS, ""),
        running={"L": HELD},
        holders={"L": HELD},
        pins={"b:2": Pin("alice", NOW + 7)},
    )
    plan = plan_by_rules([Rules(keep_last=1, grace=1)], state, None, Disk())
    assert plan.going == (Verdict("a:1", "due", (), 3, 9, 2, None, images["a:1"][1]),)
    assert sorted(plan.kept, key=lambda each: each.subject) == [
        Verdict("a:2", "grace", (), 0, 0, 1, None, images["a:2"][1]),
        Verdict("b:1", "held", ("sandbox:dev",), None, NOW - 4, 1, None, images["b:1"][1]),
        Verdict("b:2", "pinned", ("alice",), NOW, NOW, 2, NOW + 7, images["b:2"][1]),
    ]
    without = cache({}, ONE, unnamed={"M": 5}, running={"M": HELD}, holders={"M": HELD})
    (kept,) = plan_by_rules([Rules(grace=0)], without, None, Disk()).kept
    assert (kept.rule, kept.idle_ns, kept.age_ns, kept.rank) == ("held", None, NOW - 5, None)


@pytest.mark.parametrize(
    ("canonical", "expected"),
    [
        ("docker.io/library/python:3.12", "docker.io/library/python"),
        ("docker.io/library/python", "docker.io/library/python"),
        ("localhost:5000/app:1", "localhost:5000/app"),
        ("localhost:5000/app", "localhost:5000/app"),
        ("localhost:5000/app@sha256:00", "localhost:5000/app"),
        ("localhost:5000/app:1@sha256:00", "localhost:5000/app"),
        ("sha256:00", "sha256"),
    ],
)
def test_the_repository_of_a_reference(canonical: str, expected: str) -> None:
    assert repository(canonical) == expected


# -- room -------------------------------------------------------------------------------------------------


def layers(**sizes: int) -> dict[tuple[str, str], tuple[int, int]]:
    return {("layer", layer): (size, size) for layer, size in sizes.items()}


FOUR = {
    "a:1": ("K", at(1)),
    "a:2": ("L", at(2)),
    "b:1": ("M", at(3)),
    "b:2": ("N", at(4)),
}
OWN = {"K": "w", "L": "x", "M": "y", "N": "z"}
TEN = layers(w=10, x=10, y=10, z=10)


@pytest.mark.parametrize(
    ("rules", "disk", "going", "shortfall"),
    [
        pytest.param(Rules(max_size=100), Disk(TEN, total_bytes=100), "", 0, id="it holds already"),
        pytest.param(Rules(max_size=90), Disk(TEN, total_bytes=100), "K", 0, id="exactly one"),
        pytest.param(Rules(max_size=89), Disk(TEN, total_bytes=100), "KL", 0, id="a byte more"),
        pytest.param(Rules(max_size=60), Disk(TEN, total_bytes=100), "KLMN", 0, id="all"),
        pytest.param(Rules(max_size=59), Disk(TEN, total_bytes=100), "", 1, id="a byte too little"),
        pytest.param(
            Rules(max_size=59, best_effort=True), Disk(TEN, total_bytes=100), "KLMN", 1, id="all the same"
        ),
        pytest.param(Rules(min_free=20), Disk(TEN, free_bytes=5), "KL", 0, id="as much free"),
        pytest.param(
            Rules(min_free=Share(12.5)), Disk(TEN, capacity_bytes=81), "KL", 0, id="a share, rounded up"
        ),
        pytest.param(
            Rules(max_size=90, min_free=25), Disk(TEN, total_bytes=100), "KLM", 0, id="both, so the larger"
        ),
        pytest.param(
            Rules(max_size=75, min_free=10), Disk(TEN, total_bytes=100), "KLM", 0, id="both, the other one"
        ),
        pytest.param(
            Rules(max_size=70),
            Disk(TEN, total_bytes=100, going_anyway_bytes=15),
            "KL",
            0,
            id="what goes anyway counts",
        ),
        pytest.param(
            Rules(max_size=70), Disk(TEN, total_bytes=100, going_anyway_bytes=30), "", 0, id="and is enough"
        ),
        pytest.param(
            Rules(max_size=80),
            Disk(layers(w=10, x=15, y=20, z=10), total_bytes=100),
            "KL",
            0,
            id="the least recently used although another one alone were enough",
        ),
        pytest.param(
            Rules(max_size=80),
            Disk(layers(w=1, x=5, y=20, z=10), total_bytes=100),
            "M",
            0,
            id="what is not needed in the end is put back",
        ),
        pytest.param(
            Rules(max_size=86),
            Disk(layers(w=6, x=5, y=9, z=10), total_bytes=100),
            "KM",
            0,
            id="the most recently used is put back first",
        ),
        pytest.param(
            Rules(max_size=95),
            Disk({("layer", "w"): (10, 0), ("layer", "x"): (10, 10)}, total_bytes=100),
            "L",
            0,
            id="what has another name frees nothing",
        ),
    ],
)
def test_who_goes_for_room(rules: Rules, disk: Disk, going: str, shortfall: int) -> None:
    plan = plan_by_rules([rules], cache(FOUR, OWN), None, disk)
    assert "".join(plan.manifests) == going
    assert plan.shortfall == shortfall
    rule = "too-little" if shortfall and not rules.best_effort else "room"
    assert {each.subject: each.rule for each in plan.kept} == {
        name: rule for name, (digest, _) in FOUR.items() if digest not in going
    }
    assert [each.subject for each in plan.going] == [*plan.references]


def test_of_those_idle_since_one_time_the_first_by_name_goes() -> None:
    images = {"b:1": ("M", at(1)), "a:1": ("K", at(1)), "b:2": ("N", at(1)), "a:2": ("L", at(1))}
    plan = plan_by_rules([Rules(max_size=80)], cache(images, OWN), None, Disk(TEN, total_bytes=100))
    assert [*plan.references] == ["a:1", "a:2"]


def test_room_is_freed_by_the_set() -> None:
    images = {"a:1": ("K", at(1)), "a:2": ("L", at(2)), "b:1": ("M", at(3))}
    state = cache(images, {"K": "w", "L": "w", "M": "x"})
    disk = Disk(layers(w=50, x=10), total_bytes=100)
    assert [*plan_by_rules([Rules(max_size=60)], state, None, disk).references] == ["a:1", "a:2"]
    held = replace(state, holders={"L": HELD})
    assert [*plan_by_rules([Rules(max_size=90)], held, None, disk).references] == ["b:1"]
    assert plan_by_rules([Rules(max_size=60)], held, None, disk).shortfall == 30


def test_a_bound_holds_that_a_later_rule_keeps() -> None:
    """What a rule cannot free of its own images, one after it may."""
    only_a = Rules(
        name="a", max_size=70, best_effort=True, selects=lambda names, digest, labels: "a:1" in names
    )
    disk, state = Disk(TEN, total_bytes=100), cache(FOUR, OWN)
    assert plan_by_rules([only_a], state, None, disk).shortfall == 20
    for size, shortfall in ((70, 0), (80, 10)):
        others = Rules(name="all", max_size=size, best_effort=True)
        plan = plan_by_rules([only_a, others], state, None, disk)
        assert (plan.shortfall, plan.short_of) == (shortfall, "a" if shortfall else None)


def test_files_are_not_looked_at_without_a_bound() -> None:
    plan = plan_by_rules([Rules(grace=0)], cache(FOUR, OWN), None, None)  # type: ignore[arg-type]
    assert len(plan.references) == 4


# -- against a reference ------------------------------------------------------------------------------------


class Expected(NamedTuple):
    """What the rules say of a cache: who goes, why each of the others stays, and what is lacking."""

    going: set[str]
    kept: dict[str, set[str]]
    shortfall: int
    candidates: set[str]


def considered(rules: Rules, state: IndexState) -> Iterable[tuple[str, str, ImageFacts, list[str]]]:
    """The images that are selected: each one's name, manifest, facts, and the references that it has."""
    for subject in (*state.references, *unnamed(state)):
        names = [state.naming.references.get(subject, subject)] if subject in state.references else []
        digest = state.references.get(subject, subject)
        if rules.selects is None or rules.selects(names, digest, state.labels.get(digest, {})):
            yield subject, digest, state.facts[subject], names


def last(rules: Rules, state: IndexState) -> dict[str, set[str]]:
    """The manifests that are among the last of each repository."""
    found: dict[str, set[str]] = {}
    for home in {state.naming.references.get(name, name).split(":")[0] for name in state.references}:
        recent: dict[str, float] = {}
        for name, digest in state.references.items():
            if state.naming.references.get(name, name).split(":")[0] != home:
                continue
            facts = state.facts[name]
            time: float = facts.pulled_at
            if rules.keep_last_by == "used":
                time = math.inf if facts.idle_since is None else facts.idle_since
            recent[digest] = max(time, recent.get(digest, -1))
        order = sorted(recent, key=lambda digest: recent[digest], reverse=True)
        found[home] = {*order[: rules.keep_last]}
    return found


def reasons(
    rules: Rules, state: IndexState, subject: str, digest: str, facts: ImageFacts, names: Sequence[str]
) -> set[str]:
    """Every rule that keeps an image, but for the room that it takes."""
    now = state.now_ns
    idle = 0 if facts.idle_since is None else max(0, now - facts.idle_since)
    holds = {
        "held": digest in state.holders,
        "running": digest in state.running,
        "pinned": bool({*names, digest} & {*state.pins}),
        "coming": digest in state.coming.manifests
        or bool({*names} & state.coming.references)
        or (
            state.kept_by_msb
            and subject not in state.unknown_to_msb
            and bool({*state.manifests.get(digest, ())} & state.coming.layers)
        ),
        "excluded": rules.excludes is not None and rules.excludes(names, digest),
        "protected": rules.protects is not None
        and rules.protects(names, digest, state.labels.get(digest, {})),
        "grace": idle < rules.grace,
        "unused-for": rules.unused_for is not None and idle < rules.unused_for,
        "older-than": rules.older_than is not None and max(0, now - facts.since) < rules.older_than,
        "keep-last": rules.keep_last is not None
        and any(digest in last(rules, state)[name.split(":")[0]] for name in names),
        "msb-only": state.kept_by_msb and not names and subject not in state.unknown_to_msb,
    }
    return {rule for rule, keeps in holds.items() if keeps}


def needed(rules: Rules, disk: Disk) -> float:
    lacking = [-math.inf]
    if rules.max_size is not None:
        lacking.append(disk.total_bytes - rules.max_size)
    if isinstance(rules.min_free, Share):
        lacking.append(math.ceil(disk.capacity_bytes * rules.min_free.percent / 100) - disk.free_bytes)
    elif rules.min_free is not None:
        lacking.append(rules.min_free - disk.free_bytes)
    return max(lacking) - disk.going_anyway_bytes


def begins(mark: int | Share | None, disk: Disk) -> bool:
    """Whether so much is used that the bound is asked for."""
    if mark is None:
        return True
    if isinstance(mark, Share):
        used = disk.capacity_bytes - disk.free_bytes - disk.going_anyway_bytes
        return used / disk.capacity_bytes >= mark.percent / 100
    return disk.total_bytes - disk.going_anyway_bytes >= mark


def expected(rules: Rules, state: IndexState, disk: Disk) -> Expected:
    kept, candidates = {}, []
    for subject, digest, facts, names in considered(rules, state):
        found = reasons(rules, state, subject, digest, facts, names)
        if found:
            kept[subject] = found
        else:
            candidates.append((facts.idle_since or 0, subject))
    order = [subject for _, subject in sorted(candidates)]
    if rules.max_size is None and rules.min_free is None:
        return Expected({*order}, kept, 0, {*order})
    if not begins(rules.starts_at, disk):
        return Expected(set(), kept | {subject: {"room"} for subject in order}, 0, {*order})
    wanted = needed(rules, disk)
    if wanted > freed(state, disk, order):
        shortfall = int(wanted) - freed(state, disk, order)
        if rules.best_effort:
            return Expected({*order}, kept, shortfall, {*order})
        short = {subject: {"too-little"} for subject in order}
        return Expected(set(), {**kept, **short}, shortfall, {*order})
    count = next(
        n for n in range(len(order) + 1) if n == len(order) or freed(state, disk, order[:n]) >= wanted
    )
    going = order[:count]
    for subject in reversed(order[:count]):
        without = [each for each in going if each != subject]
        if freed(state, disk, without) >= wanted:
            going = without
    put_back = {subject: {"room"} for subject in order if subject not in going}
    return Expected({*going}, {**kept, **put_back}, 0, {*order})


durations = st.none() | st.integers(0, 12)
sizes = st.none() | st.integers(0, 60)
some = st.sets(st.sampled_from((*NAMES[:4], *DIGESTS, "label")), min_size=1, max_size=5).map(
    lambda chosen: Within(*chosen)
)
rules_without_bound = st.builds(
    Rules,
    unused_for=durations,
    older_than=durations,
    keep_last=st.none() | st.integers(1, 3),
    keep_last_by=st.sampled_from(("used", "pulled")),
    grace=st.integers(0, 4),
    selects=st.none() | some,
    excludes=st.none() | some,
    protects=st.none() | some,
)
marks = st.none() | st.integers(0, 60) | st.builds(Share, st.sampled_from((0.0, 12.5, 50.0, 100.0)))


@st.composite
def all_rules(draw: st.DrawFn) -> Rules:
    return msgspec.structs.replace(
        draw(rules_without_bound),
        max_size=draw(sizes),
        min_free=draw(sizes | st.builds(Share, st.sampled_from((0.0, 12.5, 33.3, 100.0)))),
        best_effort=draw(st.booleans()),
        starts_at=draw(marks),
    )


def check(plan: Plan, state: IndexState, wanted: Expected) -> None:
    """The plan takes these images, what of their files then nothing needs, and has one verdict on each."""
    going = [each.subject for each in plan.going]
    assert {*going} == wanted.going
    assert dict(plan.references) == {
        name: digest for name, digest in state.references.items() if name in going
    }
    assert plan.shortfall == wanted.shortfall
    verdicts = Counter([*going, *(each.subject for each in plan.kept)])
    assert verdicts == Counter([*wanted.going, *wanted.kept])
    for each in plan.kept:
        assert each.rule in wanted.kept[each.subject]
    everything = Disk(roots={})
    gone = files(state, everything) - files(state, everything, going)
    assert {*plan.metadata} == {subject for kind, subject in gone if kind == "metadata"}
    assert {*plan.layers} == {subject for kind, subject in gone if kind == "layer"} - state.coming.layers
    assert sorted(plan.manifests) == sorted({*state.manifests} - manifests_left(state, going))
    assert len({*plan.layers}) == len(plan.layers)


@given(all_rules(), caches(), disks())
@settings(max_examples=150, deadline=None)
def test_a_plan_is_what_the_rules_say(rules: Rules, state: IndexState, disk: Disk) -> None:
    check(plan_by_rules([rules], state, None, disk), state, expected(rules, state, disk))


def without(state: IndexState, going: Collection[str]) -> IndexState:
    """A cache when images have gone."""
    left = manifests_left(state, going)
    return cache(
        {name: (digest, state.facts[name]) for name, digest in state.references.items() if name not in going},
        {digest: own for digest, own in state.manifests.items() if digest in left},
        unnamed={digest: state.facts[digest].since for digest in unnamed(state) if digest in left},
        holders=state.holders,
        running=state.running,
        pins=state.pins,
        labels=state.labels,
        kept_by_msb=state.kept_by_msb,
    )


@given(st.lists(all_rules(), min_size=2, max_size=3), caches(), disks())
@settings(max_examples=200, deadline=None)
def test_each_rule_sees_what_those_before_it_left(
    several: Sequence[Rules], state: IndexState, disk: Disk
) -> None:
    several = [msgspec.structs.replace(rules, name=f"rule {number}") for number, rules in enumerate(several)]
    plan = plan_by_rules(several, state, None, disk)
    left, smaller, by, kept, shortfalls = state, disk, dict[str, str](), dict[str, set[str]](), [0]
    for rules in several:
        wanted = expected(rules, left, smaller)
        kept = wanted.kept | kept
        by |= dict.fromkeys(wanted.going, str(rules.name))
        less = freed(left, smaller, wanted.going)
        shortfalls = [*(each - less for each in shortfalls), wanted.shortfall]
        left = without(left, wanted.going)
        smaller = replace(
            smaller, total_bytes=smaller.total_bytes - less, free_bytes=smaller.free_bytes + less
        )
    check(
        plan,
        state,
        Expected(
            {*by}, {name: why for name, why in kept.items() if name not in by}, max(0, *shortfalls), set()
        ),
    )
    assert {each.subject: each.policy_rule for each in plan.going} == by
    assert (plan.short_of is None) == (plan.shortfall == 0)


@given(st.lists(all_rules(), min_size=2, max_size=3), caches(), disks(), st.data())
@settings(max_examples=150, deadline=None)
def test_of_what_several_rules_were_shown_to_take_no_more_goes(
    several: Sequence[Rules], before: IndexState, disk: Disk, data: st.DataObject
) -> None:
    several = [msgspec.structs.replace(rules, name=f"rule {number}") for number, rules in enumerate(several)]
    shown = plan_by_rules(several, before, None, disk)
    assert plan_by_rules(several, before, shown, disk).going == shown.going
    later = data.draw(later_than(before))
    plan = plan_by_rules(several, later, shown, disk)
    by = {each.subject: each for each in shown.going}
    for each in plan.going:
        assert by[each.subject].policy_rule == each.policy_rule
        assert not used_since(by[each.subject], later.facts[each.subject].idle_since)
    assert plan.references.items() <= shown.references.items()
    assert {*plan.manifests} <= {*shown.manifests}
    left = [own for digest, own in later.manifests.items() if digest not in plan.manifests]
    assert not {*plan.layers} & {layer for own in left for layer in own}


# -- room for what comes ------------------------------------------------------------------------------------


def freed_beside(state: IndexState, disk: Disk, going: Collection[str]) -> int:
    """What comes free, but for layers that what comes needs."""
    needed = {key: (size, 0) for key, (size, _) in disk.files.items() if key[1] in state.coming.layers}
    return freed(state, replace(disk, files={**disk.files, **needed}), going)


def bound(rules: Rules, disk: Disk, takes: Takes) -> float:
    """What a rule's bounds lack when what comes is there; of marks, the high one is the bound."""
    grown = replace(disk, total_bytes=disk.total_bytes + takes.cache, free_bytes=disk.free_bytes - takes.disk)
    if isinstance(rules.starts_at, Share):
        rules = Rules(min_free=Share(100 - rules.starts_at.percent))
    elif rules.starts_at is not None:
        rules = Rules(max_size=rules.starts_at)
    return needed(rules, grown)


def expected_of_coming(
    several: Sequence[Rules], state: IndexState, disk: Disk, takes: Takes
) -> tuple[dict[str, str | None], float]:
    """Which images go by which rule, and how much is lacking in the end."""
    way = takes.peak - disk.free_bytes - disk.going_anyway_bytes
    is_bounded = [
        rules.starts_at is not None or rules.max_size is not None or rules.min_free is not None
        for rules in several
    ]
    wants = [max(way, bound(rules, disk, takes)) for rules in several]
    most = max([way, *(want for want, bounded in zip(wants, is_bounded, strict=True) if bounded)])
    by: dict[str, str | None] = {}
    left, before = state, 0
    for rules, bounded, own in zip(several, is_bounded, wants, strict=True):
        want = own if bounded else most
        order = sorted(
            (facts.idle_since or 0, subject)
            for subject, digest, facts, names in considered(rules, left)
            if not reasons(rules, left, subject, digest, facts, names)
        )
        going: list[str] = []
        for _, subject in order:
            if before + freed_beside(left, disk, going) >= want:
                break
            going.append(subject)
        if before + freed_beside(left, disk, going) >= want:
            for subject in reversed([*going]):
                fewer = [each for each in going if each != subject]
                if before + freed_beside(left, disk, fewer) >= want:
                    going = fewer
        by |= dict.fromkeys(going, rules.name)
        before += freed_beside(left, disk, going)
        left = replace(without(left, going), coming=state.coming)
    return by, max(0, most - before)


@st.composite
def what_comes(draw: st.DrawFn) -> Coming:
    some = st.frozensets(st.sampled_from(LAYERS), max_size=3)
    one = st.frozensets(st.sampled_from(DIGESTS), max_size=1)
    name = st.frozensets(st.sampled_from(NAMES[:4]), min_size=1, max_size=1)
    return Coming(draw(name), draw(one), draw(some))


@given(
    st.lists(all_rules() | rules_without_bound, max_size=3),
    caches(),
    disks(),
    what_comes(),
    st.builds(Takes, st.integers(-10, 40), st.integers(-10, 40), st.integers(0, 60)),
)
@settings(max_examples=400, deadline=None)
def test_room_for_what_comes(
    several: Sequence[Rules], state: IndexState, disk: Disk, coming: Coming, takes: Takes
) -> None:
    several = [
        msgspec.structs.replace(rules, name=f"rule {number}", best_effort=True)
        for number, rules in enumerate(several)
    ]
    state = replace(state, coming=coming)
    plan = plan_by_rules(several, state, None, disk, takes)
    by, lacking = expected_of_coming(several, state, disk, takes)
    assert {each.subject: each.policy_rule for each in plan.going} == by
    assert plan.shortfall == lacking
    assert not {*plan.layers} & coming.layers
    assert not {*plan.manifests} & {*coming.manifests} or not {*plan.going}
    assert not {state.naming.references.get(name, name) for name in plan.references} & coming.references
    again = plan_by_rules(several, state, plan, disk, takes)
    assert {each.subject for each in again.going} == {*by}
    assert again.layers == plan.layers


@given(all_rules(), caches(), disks())
@settings(max_examples=150, deadline=None)
def test_the_same_again_takes_nothing_more(rules: Rules, state: IndexState, disk: Disk) -> None:
    """Neither for room nor of the last ones: those that are left are no later than before among fewer."""
    plan = plan_by_rules([rules], state, None, disk)
    going = {each.subject for each in plan.going}
    less = freed(state, disk, going)
    done = cache(
        {name: (digest, state.facts[name]) for name, digest in state.references.items() if name not in going},
        {digest: own for digest, own in state.manifests.items() if digest not in plan.manifests},
        unnamed={digest: state.facts[digest].since for digest in unnamed(state)},
        holders=state.holders,
        running=state.running,
        pins=state.pins,
        labels=state.labels,
        kept_by_msb=state.kept_by_msb,
    )
    assert {*unnamed(done)} <= {
        *unnamed(state)
    }  # a manifest that goes on being there has a name, or had none
    taken = less + (disk.going_anyway_bytes if going or not plan.shortfall else 0)
    smaller = replace(
        disk,
        total_bytes=disk.total_bytes - taken,
        free_bytes=disk.free_bytes + taken,
        going_anyway_bytes=disk.going_anyway_bytes if taken == less else 0,
    )
    again = plan_by_rules([rules], done, None, smaller)
    assert again.going == ()
    assert again.empty


@given(rules_without_bound, caches(of_msb=True), st.booleans())
@settings(max_examples=100, deadline=None)
def test_msb_is_not_made_to_delete_layers_of_what_it_does_not_know(
    rules: Rules, state: IndexState, bounded: bool
) -> None:
    if bounded:
        rules = msgspec.structs.replace(rules, max_size=0, best_effort=True)
    check_layers_of_unknown(state, plan_by_rules([rules], state, None, Disk(total_bytes=1)))


def check_layers_of_unknown(state: IndexState, plan: Plan) -> None:
    known = [digest for digest in plan.manifests if digest not in state.unknown_to_msb]
    named = [digest for name, digest in plan.references.items() if name not in state.unknown_to_msb]
    by_msb = {layer for digest in known if digest in named for layer in state.manifests[digest]}
    staying = [
        digest
        for digest in state.manifests
        if digest not in plan.manifests and digest in state.unknown_to_msb
    ]
    assert not by_msb & {layer for digest in staying for layer in state.manifests[digest]}


# -- a plan that was shown -----------------------------------------------------------------------------------


@st.composite
def later_than(draw: st.DrawFn, before: IndexState) -> IndexState:
    """A cache some time later: names have moved, went, came or were used, and images came to be needed."""
    now = before.now_ns + draw(st.integers(0, 3))
    after = draw(st.integers(before.now_ns, now))
    images: dict[str, tuple[str, ImageFacts]] = {}
    what = st.sampled_from(("same", "same", "same", "moved", "gone", "used", "again"))
    running = dict(before.running)
    if draw(st.booleans()):
        running.pop(draw(st.sampled_from(DIGESTS)), None)
    if draw(st.integers(0, 3)) == 0:
        running[draw(st.sampled_from(DIGESTS))] = ("sandbox:new",)
    for name, digest in before.references.items():
        happened, found = draw(what), before.facts[name]
        if happened == "moved":
            digest = draw(st.sampled_from(DIGESTS))
        if happened == "gone":
            continue
        if happened == "used":
            found = found._replace(idle_since=after)
        elif happened != "same":
            found = ImageFacts(after, after, after)
        in_use = digest in running
        if found.idle_since is None and not in_use:
            found = found._replace(idle_since=after)  # its boot has ended
        images[name] = digest, found._replace(idle_since=None) if in_use else found
    for name in draw(st.sets(st.sampled_from(NAMES), max_size=2)):
        if name not in images:
            digest = draw(st.sampled_from(DIGESTS))
            images[name] = digest, ImageFacts(None if digest in running else after, after, after)
    manifests = {**before.manifests}
    for digest in draw(st.sets(st.sampled_from(DIGESTS), max_size=1)):
        manifests.setdefault(digest, tuple(draw(st.text("wxyz", max_size=3))))
    named = {digest for digest, _ in images.values()}
    pins, holders = dict(before.pins), dict(before.holders)
    if draw(st.integers(0, 2)) == 0:
        pins[draw(st.sampled_from((*NAMES[:4], *DIGESTS)))] = Pin("bob")
    if draw(st.integers(0, 2)) == 0:
        holders[draw(st.sampled_from(DIGESTS))] = ("sandbox:new",)
    idle = {digest: before.facts[digest].since for digest in unnamed(before) if draw(st.booleans())}
    return cache(
        dict(sorted(images.items(), key=lambda each: [*before.references, *NAMES].index(each[0]))),
        manifests,
        unnamed={digest: idle.get(digest, after) for digest in manifests if digest not in named},
        holders=holders,
        running=running,
        pins=pins,
        labels=before.labels,
        unknown={*before.unknown_to_msb, *(name for name in images if name not in before.references)}
        & {*images, *manifests}
        if before.unknown_to_msb
        else (),
        kept_by_msb=before.kept_by_msb,
        now=now,
    )


@given(all_rules(), caches(), disks(), st.data())
@settings(max_examples=150, deadline=None)
def test_of_what_was_shown_goes_what_nothing_has_needed_since(
    rules: Rules, before: IndexState, disk: Disk, data: st.DataObject
) -> None:
    shown = plan_by_rules([rules], before, None, disk)
    later = data.draw(later_than(before))
    plan = plan_by_rules([rules], later, shown, disk)
    still = expected(msgspec.structs.replace(rules, max_size=None, min_free=None), later, disk).candidates
    going = set()
    for each in shown.going:
        before_then, name = before.facts[each.subject].idle_since, each.subject
        where = later.references.get(name, name)
        now_ = later.facts[name].idle_since if name in later.facts else None
        if name in still and where == before.references.get(name, name):
            assert before_then is not None
            assert now_ is not None
            if now_ <= before_then:
                going.add(name)
    assert {each.subject for each in plan.going} == going
    assert plan.references.items() <= shown.references.items()
    assert {*plan.manifests} == ({*later.manifests} - manifests_left(later, going)) & {*shown.manifests}
    left = [own for digest, own in later.manifests.items() if digest not in plan.manifests]
    assert {*plan.layers} <= {*shown.layers} - {layer for own in left for layer in own}
    verdicts = Counter(each.subject for each in (*plan.going, *plan.kept))
    assert not verdicts or max(verdicts.values()) == 1
    assert {each.subject for each in plan.kept if each.rule == "used-since"} == {
        each.subject
        for each in shown.going
        if each.subject in still and used_since(each, later.facts[each.subject].idle_since)
    }


@given(rules_without_bound, caches(of_msb=True), st.data())
@settings(max_examples=100, deadline=None)
def test_what_came_or_was_used_since_keeps_its_layers_from_msb(
    rules: Rules, before: IndexState, data: st.DataObject
) -> None:
    shown = plan_by_rules([rules], before, None, Disk())
    later = data.draw(later_than(before))
    check_layers_of_unknown(later, plan_by_rules([rules], later, shown, Disk()))


def test_a_use_since_a_plan_was_shown_keeps_the_layers_of_what_msb_does_not_know() -> None:
    own = {"M": "x", "N": "x"}
    before = cache({"a:1": ("M", at(0)), "b:1": ("N", at(0))}, own, unknown=["a:1", "M"], kept_by_msb=True)
    shown = plan_by_rules([Rules(grace=2)], before, None, Disk())
    assert {*shown.references} == {"a:1", "b:1"}
    later = replace(before, now_ns=NOW + 5, facts={**before.facts, "a:1": at(NOW + 1)})
    plan = plan_by_rules([Rules(grace=2)], later, shown, Disk())
    assert {each.subject: (each.rule, each.by) for each in plan.kept} == {
        "a:1": ("used-since", ()),
        "b:1": ("shared", ("M",)),
    }
    assert plan.empty


def test_what_points_elsewhere_since_a_plan_was_shown_stays_however_late_that_was_learned() -> None:
    state = cache({"a:1": ("M", at(5)), "b:1": ("N", at(5))}, TWO)
    shown = plan_by_rules([Rules(grace=0)], state, None, Disk())
    later = replace(state, references={"a:1": "N", "b:1": "N"}, facts={**state.facts, "M": at(5)})
    assert [*plan_by_rules([Rules(grace=0)], later, shown, Disk()).references] == ["b:1"]


def test_what_was_shown_to_stay_for_room_stays() -> None:
    rules, state, disk = Rules(max_size=80), cache(FOUR, OWN), Disk(TEN, total_bytes=100)
    shown = plan_by_rules([rules], state, None, disk)
    later = replace(state, facts={**state.facts, "a:1": at(NOW)})
    plan = plan_by_rules([rules], later, shown, Disk(TEN, total_bytes=100))
    assert [*plan.references] == ["a:2"]  # and no other one in the place of what was used
    assert {each.subject: each.rule for each in plan.kept} == {
        "a:1": "used-since",
        "b:1": "room",
        "b:2": "room",
    }


@pytest.mark.parametrize(
    ("facts", "idle_since", "expected"),
    [(at(5), 5, False), (at(5), 6, True), (at(5), 4, False), (at(5), None, True), (None, 5, True)],
)
def test_used_since(facts: ImageFacts | None, idle_since: int | None, expected: bool) -> None:
    assert used_since(Verdict("a:1", "due", facts=facts), idle_since) == expected


# -- when an image goes --------------------------------------------------------------------------------------


def at_time(state: IndexState, now: int) -> IndexState:
    pins = {name: pin for name, pin in state.pins.items() if pin.until_ns is None or pin.until_ns > now}
    return replace(state, now_ns=now, pins=pins)


def candidates(rules: Rules, state: IndexState, now: int) -> set[str]:
    return expected(rules, at_time(state, now), Disk()).candidates


@given(rules_without_bound, caches())
@settings(max_examples=80, deadline=None)
def test_when_an_image_goes_it_is_a_candidate_and_not_before(rules: Rules, state: IndexState) -> None:
    at_times = {now: candidates(rules, state, now) for now in range(NOW * 3)}
    for subject in state.facts:
        digest = state.references.get(subject, subject)
        found = goes_at([rules], state, subject, digest)
        when = [now for now, going in at_times.items() if subject in going]
        if when == [*at_times]:
            assert found is not None
            assert found <= NOW
        else:
            assert found == min(when, default=None)


def test_when_an_image_goes() -> None:
    images = {"a:1": ("M", at(5, 7)), "b:1": ("N", at(15))}

    def when(rules: Rules, subject: str = "a:1", **more: Collection[object]) -> int | None:
        state = replace(cache(images, TWO), **more)  # type: ignore[arg-type]
        return goes_at([rules], state, subject, state.references.get(subject, subject))

    assert when(Rules(unused_for=100)) == 105
    assert when(Rules(unused_for=100, grace=200)) == 205
    assert when(Rules(unused_for=100, older_than=99)) == 106
    assert when(Rules(unused_for=100), pins={"a:1": Pin("alice", 107)}) == 107
    assert when(Rules(unused_for=100), pins={"M": Pin("alice", 103)}) == 105
    assert when(Rules(unused_for=100), pins={"a:1": Pin("alice", 300), "M": Pin("bob", 400)}) == 400
    assert when(Rules(unused_for=100), pins={"a:1": Pin("alice", 300), "M": Pin("bob")}) is None
    assert when(Rules(unused_for=100, keep_last=1)) is None
    assert when(Rules(unused_for=100), holders={"M": HELD}) is None
    assert when(Rules(unused_for=100, max_size=0)) is None
    assert when(Rules(unused_for=100), subject="c:1") is None
    # Nothing is waited for: not even that the time comes at which it is said to have been used.
    future = cache({"a:1": ("M", at(NOW + 9))}, ONE)
    assert goes_at([Rules(keep_last_by="used")], future, "a:1", "M") == NOW
    pinned = replace(future, pins={"a:1": Pin("alice", NOW + 1)})
    assert goes_at([Rules(unused_for=0)], pinned, "a:1", "M") == NOW + 1
