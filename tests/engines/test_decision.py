"""Decisions of deletions: each event fits, and nothing is lost between the parts."""

from __future__ import annotations

from functools import partial

from msb_cache import ImageCache
from msb_cache.engines.own.delete import started
from msb_cache.eventstore import events as ev
from msb_cache.retention.plan import Plan, Verdict
from msb_cache.shapes import jsonable
from tests import verdicts
from tests.examples import ONE, TWO, archive
from tests.logs import digest
from tests.verdicts import DAY


def test_long_lists_are_split_into_parts(cache: ImageCache) -> None:
    cache.load(archive(ONE, TWO))
    for number in range(60):
        cache.hold("one:1", f"snapshot:{number}/{'x' * 400}")
    report = cache.prune()
    assert report.operation is not None
    (kept,) = cache.prune_report(report.operation).kept
    assert (len(kept.holders), kept.more) == (20, 40)
    planned = [ev.PlannedArtifact(kind="layer", subject="x" * 5000) for _ in range(2000)]
    parts = started("prune", {}, planned, Plan())
    assert [part.part for part in parts] == [1, 2, 3, 4]
    assert all(part.parts == 4 for part in parts)
    assert [artifact for part in parts for artifact in part.artifacts] == planned
    judged = tuple(
        Verdict(f"docker.io/library/app:{number}", "due", idle_ns=number) for number in range(60_000)
    )
    parts = started("prune", {}, planned[:1], Plan(kept=judged[:30_000], going=judged[30_000:]))
    assert len(parts) > 1
    assert [each.idle_ns for part in parts for each in (*part.kept, *part.going)] == [*range(60_000)]


verdict = partial(verdicts.verdict, policy={"unused_for": "14d", "grace": "1h"})


def test_a_verdict_as_plain_data() -> None:
    held = verdict(goes=False, rule="held", by=("sandbox:dev",), idle_ns=None, freed_bytes=0)
    assert jsonable(held) == {
        "reference": "python:3.12",
        "digest": digest(1),
        "deletes": False,
        "rule": "held",
        "policy_rule": None,
        "because": "held by sandbox:dev",
        "by": ["sandbox:dev"],
        "idle_ns": None,
        "age_ns": 30 * DAY,
        "rank": None,
        "until": None,
        "size_bytes": 5000,
        "freed_bytes": 0,
    }
    assert verdict(spelling="docker.io/library/python:3.12").to_dict()["reference"].startswith("docker.io/")
    nameless = verdict(reference=None).to_dict()
    assert (nameless["reference"], nameless["because"]) == (None, "idle 20 days, over 14d")


def test_of_many_holders_some_are_named() -> None:
    found = verdict(goes=False, rule="held", by=tuple(f"sandbox:{number}" for number in range(100)))
    assert found.because.endswith("sandbox:18, sandbox:19 and 80 more")
    assert len(found.to_dict()["by"]) == 100
