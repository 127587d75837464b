"""What lies idle, how long, and since which event."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.cli import look
from msb_cache.cli.common import NOTHING_CACHED
from msb_cache.eventstore import clock
from tests.cli.support import APP, RFC3339, TOOL, Call, written
from tests.imagebuilder import docker_archive
from tests.msbhome import MsbHome

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
            before = cache.last_used(at_least=timedelta(days=30))
        if measured is None:
            pytest.skip("this system does not say how long it has been running")
        ahead = time.time_ns() + 400 * DAY
        with ImageCache(aged, clock=lambda: ahead, note=notes.append) as cache:
            cache._ledger._uptime = lambda: measured
            found = cache.last_used(at_least=timedelta(days=30))
        assert [image.reference for image in found] == [image.reference for image in before]
        assert len(found) == 1
        monkeypatch.setattr(clock, "since_start", lambda: (measured[0], measured[1] - 400 * DAY))
        done = call("last-used")
        assert "note: the computer's clock jumped ahead by 400 days, which does not count here" in done.err

    def test_nothing(self, own_home: Path, call: Call) -> None:
        done = call("last-used")
        assert (done.code, done.raw, done.err) == (0, b"", f"{NOTHING_CACHED}\n")
        assert call("last-used", "--format", "json").json == []


class TestBoots:
    """In a home that msb keeps, an image is in use while a sandbox runs from it: every command says so."""

    @pytest.fixture
    def kept(self, own_home: Path) -> Iterator[MsbHome]:
        home = MsbHome(own_home)
        home.load("app:1", "one")
        home.now = time.time_ns()  # after the beginning of this process
        home.create("app:1", "dev", team="infra", root="flat")
        home.boot("dev", os.getpid())
        yield home
        home.close()

    def test_while_it_lasts(self, kept: MsbHome, call: Call) -> None:
        since = look.absolute(kept.now)
        assert call("list").lines[1].endswith("   now")
        assert f"Now:             in use by sandbox:dev since {since}" in call("inspect", "app:1").lines
        (line,) = (line for line in call("why", "app:1").lines if "In use" in line)
        assert line.split(maxsplit=2)[2].startswith(f"by sandbox:dev since {since}")
        (line,) = (line for line in call("why", "app:1").lines if "Held" in line)
        assert "held by sandbox:dev, running, flat root, seen by" in line
        assert not line.endswith("now")
        assert call("history", "app:1").lines[-1].startswith(f"in use by sandbox:dev since {since}")
        assert not call("history", "app:1", "--reverse").lines[-1].startswith("in use")
        line = call("last-used").lines[1]
        assert f"in use by sandbox:dev since {since}" in line
        assert "   -   " in line
        assert "   now   " in line
        assert call("last-used", "--idle-for", "1 hour").lines == []
        for words in (["list"], ["inspect", "app:1"], ["last-used"]):
            found = call(*words, "--format", "json").json
            found = found[0] if isinstance(found, list) else found
            assert (found["in_use_by"], found["idle_since"]) == (["sandbox:dev"], None)
            assert RFC3339.fullmatch(found["in_use_since"])
        found = call("why", "app:1", "--format", "json").json
        assert [use["type"] for use in found["uses"]] == ["image.used"]
        assert found["statuses"] == {"sandbox:dev": "Running"}
        assert call("list", "--as-of", "@1", "--format", "json").json == []

    def test_when_it_is_over(self, kept: MsbHome, call: Call) -> None:
        call("sync")
        kept.end(1)
        ended = look.absolute(kept.now)
        assert "in use" not in call("list").out
        assert f"Idle since:      {ended}" in call("inspect", "app:1").lines
        assert any("Idle since:" in line and ended in line for line in call("why", "app:1").lines)
        (line,) = (line for line in call("why", "app:1").lines if "Held" in line)
        assert line.endswith(", stopped now")
        assert "in use" not in call("history", "app:1").out
        assert "use ended by sandbox:dev" in call("last-used").lines[1]
        (found,) = call("last-used", "--format", "json").json
        assert (found["in_use_by"], found["in_use_since"]) == ([], None)
        assert found["idle_since"] == found["event"]["occurred_at"]
        before = call("list", "--as-of", f"@{found['event']['seq'] - 1}")
        assert before.lines[1].endswith("   now")
        assert "   sandbox:dev   " in before.lines[1]

    def test_who_holds_it(self, kept: MsbHome, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MSB_CACHE_LABELS", "team")
        header, line = call("holders").lines
        assert header.split() == ["HOLDER", "STATUS", "DIGEST", "REFERENCE", "SINCE", "MORE"]
        assert line.split()[:2] == ["sandbox:dev", "running"]
        assert line.endswith("flat root, team=infra")
        (found,) = call("holders", "--format", "json").json
        assert (found["status"], found["root"], found["labels"]) == ("Running", "flat", {"team": "infra"})
        monkeypatch.setenv("MSB_CACHE_LABELS", ",".join(map(str, range(99))))
        done = call("sync", "--force")
        assert (done.code, done.err) == (
            2,
            "error: MSB_CACHE_LABELS names 99 labels; name at most 16, a log cannot be erased\n",
        )
