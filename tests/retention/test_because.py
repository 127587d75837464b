"""The rule that decided of an image, in words."""

from __future__ import annotations

from typing import Any

import pytest

from msb_cache.retention.because import Reason, because, shown_repository
from msb_cache.shapes import rfc3339
from tests.logs import PYTHON, digest

DAY = 86_400 * 10**9
SHORT = digest(1)[:19]
POLICY = {"unused_for": "14d", "older_than": "30d", "keep_last": 2, "grace": "1h"}


@pytest.mark.parametrize(
    ("rule", "more", "said"),
    [
        ("held", {"by": ("sandbox:a", "snapshot:/b")}, "held by sandbox:a, snapshot:/b"),
        ("held", {"by": ("sandbox:a",), "more": 4}, "held by sandbox:a and 4 more"),
        ("running", {"by": ("sandbox:a",)}, "in use by sandbox:a"),
        ("pinned", {"by": ("alice",)}, "pinned by alice"),
        ("pinned", {"by": ("alice",), "until_ns": 0}, f"pinned by alice until {rfc3339(0)}"),
        ("needed", {"by": (digest(1), "python:3.12")}, f"needed by {SHORT}, python:3.12"),
        ("referenced", {"by": ("app:1",)}, "referenced by app:1"),
        ("recent", {}, "recent"),
        ("unknown", {}, "msb does not know it, and what msb needs of it cannot be told"),
        (
            "shared",
            {"by": ("app:1",), "more": 1},
            "shares layers with app:1 and 1 more, which msb does not know",
        ),
        ("excluded", {}, "excluded"),
        ("grace", {"idle_ns": DAY}, "idle 1 day, within the grace of 1h"),
        ("grace", {}, "in use, within the grace of 1h"),
        ("unused-for", {"idle_ns": 13 * DAY}, "idle 13 days, not over 14d"),
        ("older-than", {"age_ns": 2 * DAY}, "2 days old, not over 30d"),
        ("keep-last", {"rank": 2, "repository": "app"}, "2nd of the last 2 of app"),
        ("room", {"idle_ns": DAY}, "idle 1 day, and its room is not needed"),
        ("too-little", {"idle_ns": DAY}, "idle 1 day; with all that may go the bound is not met"),
        ("used-since", {}, "was used after it was shown"),
        ("msb-only", {}, "without a reference msb deletes it only with all that nothing uses"),
    ],
)
def test_why_it_stays(rule: str, more: dict[str, Any], said: str) -> None:
    assert because(Reason(False, rule, **more), POLICY) == said


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({}, "idle 20 days"),
        ({"grace": "1h"}, "idle 20 days"),
        ({"unused_for": "14d"}, "idle 20 days, over 14d"),
        ({"older_than": "30d"}, "40 days old, over 30d"),
        ({"keep_last": 2}, "3rd of app, after the last 2"),
        ({"max_size": "1GiB"}, "idle 20 days, and its room is needed"),
        (
            {**POLICY, "min_free": "10%"},
            "idle 20 days, over 14d; 40 days old, over 30d; 3rd of app, after the last 2; its room is needed",
        ),
    ],
    ids=str,
)
def test_why_it_goes(policy: dict[str, Any], said: str) -> None:
    reason = Reason(True, "due", idle_ns=20 * DAY, age_ns=40 * DAY, rank=3, repository="app")
    assert because(reason, policy) == said


FILE = {
    "rules": [{"name": "ci", "unused_for": "3d", "grace": "5m"}, {"name": "room", "max_size": "1GiB"}],
    "watermarks": {"high": "85%", "low": "80%"},
}


@pytest.mark.parametrize(
    ("goes", "rule", "by", "said"),
    [
        (True, "due", "ci", "ci: idle 20 days, over 3d"),
        (False, "unused-for", "ci", "ci: idle 20 days, not over 3d"),
        (False, "grace", "ci", "ci: idle 20 days, within the grace of 5m"),
        (True, "due", "room", "room: idle 20 days, and its room is needed"),
        (True, "due", "watermarks", "watermarks: idle 20 days, and its room is needed"),
        (False, "grace", "watermarks", "watermarks: idle 20 days, within the grace of 1h"),
        (False, "protected", "ci", "kept by the policy"),
        (False, "running", "ci", "in use"),
    ],
)
def test_by_a_policy_file_the_rule_s_name_comes_first(goes: bool, rule: str, by: str, said: str) -> None:
    assert because(Reason(goes, rule, idle_ns=20 * DAY, repository="app", policy_rule=by), FILE) == said


@pytest.mark.parametrize("rule", ["unused", "due"])
def test_what_no_reference_points_at(rule: str) -> None:
    said = because(Reason(True, rule, idle_ns=DAY), {})
    assert (
        said == ("nothing uses it" if rule == "unused" else "idle 1 day") + ", and no reference points at it"
    )


@pytest.mark.parametrize(
    ("rank", "said"),
    [
        (1, "1st"),
        (2, "2nd"),
        (3, "3rd"),
        (4, "4th"),
        (11, "11th"),
        (12, "12th"),
        (21, "21st"),
        (113, "113th"),
    ],
)
def test_ordinals(rank: int, said: str) -> None:
    assert (
        because(Reason(False, "keep-last", rank=rank, repository="a"), POLICY) == f"{said} of the last 2 of a"
    )


@pytest.mark.parametrize(
    ("reference", "shown"),
    [
        (PYTHON, "python"),
        ("ghcr.io/acme/app:1", "ghcr.io/acme/app"),
        ("localhost:5000/app:1", "localhost:5000/app"),
        (f"docker.io/library/app@{digest(1)}", "app"),
        (None, None),
    ],
)
def test_a_repository_as_people_see_it(reference: str | None, shown: str | None) -> None:
    assert shown_repository(reference) == shown
