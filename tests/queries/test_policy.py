"""What a policy means: sizes, shares, durations, and what selections select."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from msb_cache.errors import InvalidConfigError, InvalidReferenceError
from msb_cache.queries.policy import limit_of, marks_of, matcher, parse_size, rule_of, rules_of
from msb_cache.retention.policy import CachePolicy, NamedRule, PrunePolicy, Watermarks
from msb_cache.retention.rules import Limit, Rules, Share

SECOND = 10**9
HOUR = 3600 * SECOND
DAY = 24 * HOUR
NOW = 1_800_000_000 * SECOND
DIGEST = "sha256:" + "ab12" * 16
PYTHON, API = "docker.io/library/python:3.12", "ghcr.io/acme/api:3"


def rules(**given: Any) -> Rules:
    return rule_of(PrunePolicy(**given), NOW)


def limit(most: str | int) -> int | Share:
    found = limit_of(PrunePolicy(max_delete=most))
    assert found is not None
    assert found.of_at_least == 0
    return found.most


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20GiB", 20 * 2**30),
        ("500MB", 500 * 10**6),
        ("1.5g", 3 * 2**29),
        ("10 k", 10 * 2**10),
        ("10K", 10 * 2**10),
        ("1kb", 1000),
        ("1KiB", 1024),
        ("1TB", 10**12),
        ("1 pib", 2**50),
        ("5B", 5),
        ("5", 5),
        (" 5 ", 5),
        ("0", 0),
        ("0.1", 1),
        ("1.0000001k", 1025),
        (0, 0),
        (7, 7),
        (2**60, 2**60),
        ("1024PiB", 2**60),
    ],
)
def test_sizes(text: str | int, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "5ib", "5i", "5Gi", "-1", "+1", "1e3", "1_000", "1,5g", ".5g", "5.", "g", "5 g b", "5gg"),
        *("10%", "1EB", "٣", "1\n2", "0x10", "inf", "nan"),
        *("1025PiB", "9" * 15 + "p", "1" * 16, -1, 2**60 + 1, True, False),
    ],
)
def test_what_is_no_size(text: str | int) -> None:
    with pytest.raises(InvalidConfigError):
        parse_size(text)


def test_what_a_policy_means() -> None:
    found = rules(
        unused_for="14d",
        older_than=timedelta(hours=3, microseconds=1),
        keep_last=3,
        keep_last_by="pulled",
        max_size="1k",
        min_free="10%",
        grace="5m",
        best_effort=True,
    )
    assert found == Rules(
        unused_for=14 * DAY,
        older_than=3 * HOUR + 1000,
        keep_last=3,
        keep_last_by="pulled",
        max_size=1024,
        min_free=Share(10.0),
        grace=300 * SECOND,
        best_effort=True,
    )
    assert rules() == Rules(grace=HOUR)
    assert rules(grace="0s").grace == 0
    assert rules(grace=timedelta(0)).grace == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("10%", Share(10.0)),
        (" 12.5 % ", Share(12.5)),
        ("0%", Share(0.0)),
        ("100%", Share(100.0)),
    ],
)
def test_shares(given: str, expected: Share) -> None:
    assert rules(min_free=given).min_free == expected
    assert limit(given) == expected


@pytest.mark.parametrize(("given", "expected"), [(0, 0), (7, 7), ("7", 7), (" 100 ", 100)])
def test_counts(given: str | int, expected: int) -> None:
    assert limit(given) == expected


@pytest.mark.parametrize(
    "given",
    [
        {"unused_for": "14"},
        {"unused_for": ""},
        {"unused_for": "-1d"},
        {"unused_for": timedelta(microseconds=-1)},
        {"unused_for": 14},
        {"older_than": "2 fortnights"},
        {"older_than": timedelta(days=-1)},
        {"grace": "soon"},
        {"grace": timedelta(days=-1)},
        {"grace": 3600},
        {"keep_last": 0},
        {"keep_last": -1},
        {"keep_last": True},
        {"keep_last": 10**9 + 1},
        {"keep_last_by": "age"},
        {"max_size": "big"},
        {"max_size": "10%"},
        {"min_free": "100.5%"},
        {"min_free": "101%"},
        {"min_free": "-1%"},
        {"min_free": True},
        {"best_effort": True},
        {"best_effort": True, "unused_for": "1d"},
        {"max_delete": -1},
        {"max_delete": "-1"},
        {"max_delete": True},
        {"max_delete": "1.5"},
        {"max_delete": "1k"},
        {"max_delete": "1" * 10},
        {"max_delete": "٣"},
        {"max_delete": "101%"},
        {"filter": "dangling"},
        {"filter": (7,)},
        {"filter": None},
        {"exclude": "api"},
        {"exclude": ["api", None]},
        {"filter": ("",)},
        {"filter": ("python",)},
        {"filter": ("until=24h",)},
        {"filter": ("label",)},
        {"filter": ("label=",)},
        {"filter": ("label!=",)},
        {"filter": ("reference= ",)},
        {"filter": ("dangling=maybe",)},
    ],
    ids=repr,
)
def test_what_makes_no_sense(given: dict[str, Any]) -> None:
    meaning = limit_of if "max_delete" in given else lambda policy: rule_of(policy, NOW)
    with pytest.raises(InvalidConfigError):
        meaning(PrunePolicy(**given))


@pytest.mark.parametrize(
    ("limit", "going", "total", "allowed"),
    [
        (Limit(3), 3, 3, True),
        (Limit(3), 4, 100, False),
        (Limit(0), 0, 0, True),
        (Limit(Share(90)), 9, 10, True),
        (Limit(Share(90)), 10, 10, False),
        (Limit(Share(90), 10), 10, 10, False),
        (Limit(Share(90), 10), 9, 9, True),
        (Limit(Share(0)), 1, 1000, False),
    ],
)
def test_how_much_may_go(limit: Limit, going: int, total: int, allowed: bool) -> None:
    assert limit.allows(going, total) is allowed


def test_a_policy_has_a_brake_and_a_prune_none() -> None:
    assert limit_of(PrunePolicy()) is None
    assert limit_of(CachePolicy()) == Limit(Share(90.0), 10)
    assert limit_of(CachePolicy(max_delete=5)) == Limit(5)
    assert limit_of(CachePolicy(max_delete="100%")) == Limit(Share(100.0))


def test_rules_of_a_file_are_named_take_what_may_go_and_keep_what_is_kept() -> None:
    policy = CachePolicy(
        rules=(
            NamedRule(name="ci", rule=PrunePolicy(unused_for="1d", filter=("label=ci",))),
            NamedRule(name="room", rule=PrunePolicy(max_size="1k")),
        ),
        keep=("reference=python", "digest=ab12"),
        watermarks=Watermarks(high="85%", low="80%"),
    )
    found = rules_of(policy, NOW)
    assert [each.name for each in found] == ["ci", "room", "watermarks"]
    assert [each.best_effort for each in found] == [True, True, True]
    assert [each.needs_labels for each in found] == [True, False, False]
    for each in found:
        assert each.protects is not None
        assert each.protects([PYTHON], "sha256:0", {})
        assert each.protects([API], DIGEST, {})
        assert not each.protects([API], "sha256:0", {})
    assert all(each.needs_labels for each in rules_of(replace(policy, keep=("label=a",)), NOW))
    assert [each.protects for each in rules_of(replace(policy, keep=()), NOW)] == [None] * 3


@pytest.mark.parametrize(
    ("high", "low", "expected"),
    [
        ("85%", "80%", {"starts_at": Share(85.0), "min_free": Share(20.0)}),
        ("2k", 1024, {"starts_at": 2048, "max_size": 1024}),
    ],
)
def test_watermarks(high: str, low: str | int, expected: dict[str, Any]) -> None:
    found = marks_of(Watermarks(high=high, low=low))
    assert found == Rules(name="watermarks", best_effort=True, **expected)


@pytest.mark.parametrize(
    ("high", "low"), [("80%", "80%"), ("80%", "85%"), ("80%", "1k"), ("1k", "80%"), ("1k", "1k"), ("x", "1k")]
)
def test_what_are_no_watermarks(high: str, low: str) -> None:
    with pytest.raises(InvalidConfigError):
        marks_of(Watermarks(high=high, low=low))


@pytest.mark.parametrize(
    "given",
    [
        {"filter": ("reference=a b",)},
        {"filter": ("digest=python",)},
        {"filter": ("digest=abc",)},
        {"exclude": ("",)},
        {"exclude": ("a\n",)},
        {"exclude": ("sha256:ab1",)},
        {"exclude": ("sha256:AB12",)},
        {"exclude": ("sha256:ab12*",)},
        {"filter": ("reference=sha256:latest",)},
    ],
    ids=repr,
)
def test_what_is_no_reference(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidReferenceError):
        rules(**given)


# -- patterns ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "names", "expected"),
    [
        ("python", [PYTHON], True),
        ("python:3.12", [PYTHON], True),
        ("python:3", [PYTHON], False),
        ("python:latest", [PYTHON], False),
        ("docker.io/library/python:latest", [PYTHON], False),
        ("python:*", [PYTHON], True),
        ("python:3.*", [PYTHON], True),
        ("py*n", [PYTHON], True),
        ("pytho", [PYTHON], False),
        ("docker.io/library/python", [PYTHON], True),
        ("docker.io/library/python:3.12", [PYTHON], True),
        ("docker.io/library/*", [PYTHON], True),
        ("docker.io/*", [API], False),
        ("library/python", [PYTHON], True),
        ("*:3", [PYTHON], False),
        ("*:3", [API], True),
        ("*/api", [API], True),
        ("ghcr.io/acme/*", [API], True),
        ("ghcr.io/acme/a?i", [API], True),
        ("ghcr.io/acme", [API], False),
        ("acme/api", [API], False),
        ("acme/api", ["docker.io/acme/api:3"], True),
        ("localhost:5000/app", ["localhost:5000/app:1"], True),
        ("localhost:5000/app:1", ["localhost:5000/app:1"], True),
        ("localhost:5000/app:2", ["localhost:5000/app:1"], False),
        ("python", [f"docker.io/library/python@{DIGEST}"], True),
        ("python:3.12", [f"docker.io/library/python:3.12@{DIGEST}"], False),
        ("index.docker.io/library/python:3.12", [PYTHON], True),
        ("index.docker.io/library/python:3.12", [PYTHON, "index.docker.io/library/python:3.12"], True),
        ("index.docker.io/library/python", [PYTHON, "index.docker.io/library/python:3.12"], True),
        ("*", [PYTHON], True),
        ("*", [], False),
        ("sha256:ab12", [PYTHON], True),
        ("sha256:ab12", [], True),
        (DIGEST, [], True),
        ("sha256:ab13", [PYTHON], False),
        ("ab12", [PYTHON], False),
    ],
)
def test_patterns(pattern: str, names: Sequence[str], expected: bool) -> None:
    assert matcher(pattern)(names, DIGEST) is expected
    assert selects(f"reference={pattern}", names=names) is expected
    excludes = rules(exclude=(pattern,)).excludes
    assert excludes is not None
    assert excludes(names, DIGEST) is expected


# -- selections -------------------------------------------------------------------------------------------


def selects(
    *filters: str,
    names: Sequence[str] = (PYTHON,),
    digest: str = DIGEST,
    labels: dict[str, str] | None = None,
) -> bool:
    found = rules(filter=filters).selects
    assert found is not None
    return found(names, digest, labels or {})


def test_no_selection() -> None:
    assert rules().selects is None
    assert rules().excludes is None
    assert not rules().needs_labels


@pytest.mark.parametrize(
    ("filters", "labels", "expected"),
    [
        (["label=a"], {"a": ""}, True),
        (["label=a"], {"a": "1"}, True),
        (["label=a"], {"b": "a"}, False),
        (["label=a=1"], {"a": "1"}, True),
        (["label=a=1"], {"a": "2"}, False),
        (["label=a=1"], {}, False),
        (["label=a="], {"a": ""}, True),
        (["label=a="], {"a": "1"}, False),
        (["label=a=b=c"], {"a": "b=c"}, True),
        (["label=a=b=c"], {"a": "b"}, False),
        (["label=a", "label=b"], {"a": "1"}, True),
        (["label=a", "label=b"], {"b": "1"}, True),
        (["label=a", "label=b"], {"c": "1"}, False),
        (["label!=a"], {}, True),
        (["label!=a"], {"a": "1"}, False),
        (["label!=a=1"], {"a": "1"}, False),
        (["label!=a=1"], {"a": "2"}, True),
        (["label!=a=b=c"], {"a": "b=c"}, False),
        (["label!=a", "label!=b"], {"a": "1"}, False),
        (["label!=a", "label!=b"], {"b": "1"}, False),
        (["label!=a", "label!=b"], {"c": "1"}, True),
        (["label=a", "label!=b"], {"a": "1"}, True),
        (["label=a", "label!=b"], {"a": "1", "b": "1"}, False),
        (["label=a", "label!=b"], {}, False),
        ([" label =a"], {"a": "1"}, True),
    ],
)
def test_labels(filters: list[str], labels: dict[str, str], expected: bool) -> None:
    assert selects(*filters, labels=labels) is expected
    assert rules(filter=tuple(filters)).needs_labels


@pytest.mark.parametrize(
    ("filters", "names", "expected"),
    [
        (["dangling"], [], True),
        (["dangling"], [PYTHON], False),
        (["dangling=true"], [], True),
        (["dangling=YES"], [PYTHON], False),
        (["dangling=1"], [], True),
        (["dangling=false"], [], False),
        (["dangling=0"], [PYTHON], True),
        (["dangling=no"], [PYTHON], True),
        (["dangling=true", "dangling=false"], [], True),
        (["dangling=true", "dangling=false"], [PYTHON], True),
        (["digest=ab12"], [PYTHON], True),
        (["digest=sha256:ab12"], [], True),
        ([f"digest={DIGEST}"], [], True),
        (["digest=ab13"], [], False),
        (["digest=ab13", "digest=ab12"], [], True),
        (["reference=python", "reference=node"], [PYTHON], True),
        (["reference=node", "digest=ab12"], [PYTHON], False),
        (["reference=python", "digest=ab12"], [PYTHON], True),
        (["reference=python", "digest=ab13"], [PYTHON], False),
        (["reference=python", "dangling"], [PYTHON], False),
        (["reference=python", "label=a"], [PYTHON], False),
    ],
)
def test_selections(filters: list[str], names: list[str], expected: bool) -> None:
    assert selects(*filters, names=names) is expected


def test_labels_are_read_only_if_they_are_asked_about() -> None:
    assert not rules(filter=("reference=python", "dangling", "digest=ab12"), exclude=("a",)).needs_labels
    assert rules(filter=("reference=python", "label!=a")).needs_labels
