"""The present is asked as the past is."""

from __future__ import annotations

from pathlib import Path

from msb_cache.fleet.present import Present
from tests.fleet.filled import in_file
from tests.fleet.random_lives import Clock, Host


def test_it_is_asked_about_the_logs_that_were_named(tmp_path: Path) -> None:
    clock = Clock()
    with in_file(tmp_path) as filled, Host(tmp_path / "home", "ci-1", clock).cache as cache:
        filled.add(cache.home)
        fleet = filled.fleet()
        present = Present(fleet._everywhere, ["a log"], 5)
        asked = present.ask(
            lambda reading, logs: [(logs, reading.rows("SELECT count(*) FROM msb_cache.head"))]
        )
        assert asked == [(["a log"], [(1,)])]
        assert present.known_references() == ["docker.io/library/app:1"]
        assert (present.now_ns, present.unknown) == (5, None)
