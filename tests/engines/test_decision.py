"""Decisions of deletions: each event fits, and nothing is lost between the parts."""

from __future__ import annotations

from msb_cache import (
    ImageCache,
)
from msb_cache.engines.own.delete import started
from msb_cache.eventstore import events as ev
from msb_cache.retention.plan import Plan, Verdict
from tests.examples import ONE, TWO, archive


def test_long_lists_are_split_into_parts(cache: ImageCache) -> None:
    cache.load(archive(ONE, TWO))
    for number in range(60):
        cache.hold("one:1", f"snapshot:{number}/{'x' * 400}")
    report = cache.prune()
    assert report.operation is not None
    (kept,) = cache.deletion(report.operation).kept
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
