"""What lies idle, how long, and since which event."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.eventstore import clock
from tests.cli.support import APP, TOOL, Call, written
from tests.imagebuilder import docker_archive

DAY = 86400 * 10**9


class TestLastUsed:
    @pytest.fixture
    def aged(self, own_home: Path, tmp_path: Path) -> Path:
        """app:1 and app:latest loaded 40 days ago, tool:2 35 days ago; app:1 used 10 days ago."""

        now = time.time_ns()

        def at(days: int) -> ImageCache:
            return ImageCache(own_home, clock=lambda: now - days * DAY - 10**9)

        with at(40) as cache:
            cache.load(io.BytesIO(docker_archive(APP)))
        with at(35) as cache:
            cache.load(written(tmp_path / "tool.tar", TOOL))
        with at(10) as cache:
            cache.use("app:1", holder="sandbox:dev")
        return own_home

    def test_longest_first(self, aged: Path, call: Call) -> None:
        done = call("last-used")
        assert [line.split()[0] for line in done.lines[1:]] == [
            "app:latest",
            "example.org/team/tool:2",
            "app:1",
        ]
        assert ["40 days" in done.lines[1], "35 days" in done.lines[2], "10 days" in done.lines[3]] == [
            True
        ] * 3
        assert "loaded from stdin" in done.lines[1]
        assert "used by sandbox:dev" in done.lines[3]

    @pytest.mark.parametrize(
        ("length", "count"),
        [
            ("30 days", 2),
            ("36days", 1),
            ("6 weeks", 0),
            ("1 Week", 3),
            ("1 month", 2),
            ("500 hours", 2),
            ("0 seconds", 3),
        ],
    )
    def test_only_what_is_idle(self, aged: Path, call: Call, length: str, count: int) -> None:
        found = call("last-used", "--idle-for", length, "--format", "json").json
        assert len(found) == count
        assert all(each["event"]["type"] in ("image.pulled", "image.used") for each in found)
        assert [each["idle_ns"] for each in found] == sorted(
            (each["idle_ns"] for each in found), reverse=True
        )

    def test_the_event_is_the_one_that_list_shows(self, aged: Path, call: Call) -> None:
        told = {each["reference"]: each for each in call("last-used", "--format", "json").json}
        for image in call("list", "--format", "json").json:
            assert told[image["reference"]]["event"]["occurred_at"] == image["last_used_at"]

    def test_what_was_used_while_the_clock_was_ahead(self, aged: Path, call: Call) -> None:
        now = time.time_ns()
        for ahead in (3652 * DAY, 0):
            with ImageCache(aged, clock=lambda ahead=ahead: now + ahead) as cache:
                cache.use("app:1", holder="sandbox:ahead" if ahead else None)
                if ahead:
                    cache.use("example.org/team/tool:2", holder="sandbox:ahead")
        done = call("last-used")
        assert [line.split()[0] for line in done.lines[1:]] == [
            "app:latest",
            "app:1",
            "example.org/team/tool:2",
        ]
        assert ["under a minute" in line for line in done.lines[1:]] == [False, True, True]
        assert "used by sandbox:ahead" in done.lines[3]
        found = call("last-used", "--format", "json").json
        shown = {each["reference"]: each["last_used_at"] for each in call("list", "--format", "json").json}
        assert {each["reference"]: each["last_used_at"] for each in found} == shown
        assert max(shown.values()) < "2036"

    def test_a_clock_that_is_ahead_makes_no_image_idle(
        self, aged: Path, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is known from the machine's own time, before anything is recorded."""
        notes = list[str]()
        with ImageCache(aged) as cache:
            cache.use("app:latest")
            measured = clock.since_start()
            before = cache.idle(at_least_ns=30 * DAY)
        if measured is None:
            pytest.skip("this system does not say how long it has been running")
        ahead = time.time_ns() + 400 * DAY
        with ImageCache(aged, clock=lambda: ahead, note=notes.append) as cache:
            cache._ledger._uptime = lambda: measured
            found = cache.idle(at_least_ns=30 * DAY)
        assert [image.reference for image in found] == [image.reference for image in before]
        assert len(found) == 1
        monkeypatch.setattr(clock, "since_start", lambda: (measured[0], measured[1] - 400 * DAY))
        done = call("last-used")
        assert "note: the computer's clock jumped ahead by 400 days, which does not count here" in done.err

    def test_nothing(self, own_home: Path, call: Call) -> None:
        done = call("last-used")
        assert (done.code, done.raw, done.err) == (0, b"", "No images are cached.\n")
        assert call("last-used", "--format", "json").json == []
