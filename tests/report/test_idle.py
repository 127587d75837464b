"""What is idle: by whom it was used last, and what it would free."""

from __future__ import annotations

from pathlib import Path

from msb_cache import ImageCache
from tests.report.scenario import BEGIN, BOB, HOUR, lived

NOW = BEGIN + 10 * HOUR


def test_who_used_it_last(tmp_path: Path) -> None:
    home = lived(tmp_path)
    with ImageCache(home, clock=lambda: NOW, actor=BOB) as cache:
        seq = cache.info().events
        cache.use("app:1", holder="sandbox:x")
        cache.unpin("example.org/team/tool:2")
        now = {each.reference: each for each in cache.report().idle}
        then = {each.reference: each for each in cache.report(as_of=seq).idle}
        usage = {each.reference: each.reclaimable_bytes for each in cache.disk_usage().images}
    assert [*now] == ["example.org/team/tool:2", "app:latest", "app:1"]
    assert now["app:1"].last_by == "sandbox:x, bob-login@build-host"
    assert then["app:1"].last_by == now["app:latest"].last_by == "alice-user@laptop-host"
    assert {name: each.reclaimable_bytes for name, each in now.items()} == {name: usage[name] for name in now}
    tool = "example.org/team/tool:2"
    assert (now[tool].pinned, then[tool].pinned, then[tool].reclaimable_bytes) == (False, True, 0)
    assert now[tool].reclaimable_bytes > 0
