"""The log as a table, as JSON, and as it grows."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from msb_cache import ImageCache
from tests.cli.support import APP, RFC3339, USAGE, Call, Following, every, on_terminal, seqs, written


class TestEvents:
    def test_table(self, home: Path, call: Call) -> None:
        done = call("events")
        assert done.lines[0].split() == ["SEQ", "WHEN", "TYPE", "SUBJECT", "WHO", "DETAILS"]
        assert [int(line.split()[0]) for line in done.lines[1:]] == list(range(1, len(done.lines)))
        assert "log.created" in done.lines[1]

    def test_positions_are_what_other_commands_take(self, home: Path, call: Call) -> None:
        *_, last = call("events", "-q").lines
        (event,) = call("events", "--reverse", "-n", "1", "--format", "jsonl").lines
        assert last == f"@{json.loads(event)['seq']}"
        assert call("list", "-q", "--as-of", last).lines == call("list", "-q").lines

    def test_a_template(self, home: Path, call: Call) -> None:
        done = call("events", "--type", "log.created", "--format", "{seq}\\t{type}\\t{data.format}")
        assert done.out == "1\tlog.created\t1\n"
        done = call("events", "--format", "{nothing}")
        assert done.code == USAGE
        assert "no field 'nothing'" in done.err

    def test_filters(self, home: Path, call: Call) -> None:
        def seqs(*arguments: str) -> list[int]:
            return [event["seq"] for event in call("events", "--format", "json", *arguments).json]

        everything = seqs()
        assert everything == sorted(everything)
        assert seqs("--reverse") == everything[::-1]
        assert seqs("-n", "2") == everything[-2:]
        assert seqs("--reverse", "-n", "2") == everything[:-3:-1]
        pulls = call("events", "--type", "image.pulled", "--format", "json").json
        assert {event["type"] for event in pulls} == {"image.pulled"}
        assert len(pulls) == 3
        two = seqs("--type", "image.pulled", "--type", "log.created")
        assert two == [1, *(event["seq"] for event in pulls)]
        [operation] = {event["operation"] for event in pulls[:2]}
        assert set(seqs("--operation", operation)) >= {event["seq"] for event in pulls[:2]}
        assert pulls[2]["seq"] not in seqs("--operation", operation)


def test_times_in_json_are_now(loaded: Path, call: Call) -> None:
    for event in call("events", "--format", "json").json:
        for key in ("occurred_at", "recorded_at"):
            assert RFC3339.fullmatch(event[key])
            age = datetime.now(UTC) - datetime.fromisoformat(event[key])
            assert 0 <= age.total_seconds() < 60


def test_times_are_local_with_their_offset(long: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        first = call("events").lines[1]
        assert "2023-11-15 07:13:20 +0900" in first
        assert "2023-11-15 07:1" in call("history", "app:1").lines[0]
        # Local in, too: what was printed finds what was printed.
        assert seqs(call, "events", "--until", "2023-11-15 07:13:20") == seqs(
            call, "events", "--until", "2023-11-14T22:13:20Z"
        )
        assert seqs(call, "events", "--until", "2023-11-15") == []
        assert len(seqs(call, "events", "--since", "2023-11-15")) == len(seqs(call, "events"))
    finally:
        monkeypatch.undo()
        time.tzset()


def test_long_tables_come_in_columns(long: Path, call: Call) -> None:
    with ImageCache(long) as cache:
        for _ in range(150):
            cache.use("app:1")
    table = call("events")
    assert len({re.search(r"\d{4}-\d\d-\d\d", line).start() for line in table.lines[1:]}) == 1  # type: ignore[union-attr]
    assert len(every(call, "events")) == len(table.lines) - 1
    assert len(call("history", "app:1").lines) == len(every(call, "history", "app:1"))


def test_follow(home: Path) -> None:
    following = Following(home, "events", "--format", "json", "--type", "image.used", "--type", "image.held")
    with ImageCache(home) as cache:
        for round_ in range(12):
            cache.use("app:1")
            if round_ == 0:
                following.wait_for("image.used")
        cache.hold("app:1", "sandbox:x")
        cache.release("sandbox:x")
        following.wait_for("image.held")
        time.sleep(0.7)  # nothing comes, and it stays
        cache.use("app:latest")
        following.wait_for("app:latest")
        expected = [event.seq for event in cache.events(types=["image.used", "image.held"])]
    assert following.end(signal.SIGINT) == (0, "")
    assert [json.loads(line)["seq"] for line in following.lines] == expected


def test_follow_waits_for_a_log_and_ends_with_its_limit(own_home: Path, tmp_path: Path) -> None:
    following = Following(own_home, "events", "-n", "3")
    time.sleep(0.7)
    assert following.process.poll() is None
    assert not own_home.exists()
    with ImageCache(own_home) as cache:
        cache.load(written(tmp_path / "app.tar", APP))
    assert following.process.wait(10) == 0
    assert following.end(signal.SIGCONT)[0] == 0
    assert len(following.lines) == 3


def test_follow_since(home: Path) -> None:
    with ImageCache(home) as cache:
        for _ in range(15):
            cache.use("app:1")
        stop = threading.Event()
        seen = []
        for event in cache.follow(since="1 hour ago", stopped=stop.is_set, interval=0.01):
            seen.append(event.seq)
            if len(seen) == len(cache.events()):
                stop.set()
        assert seen == [event.seq for event in cache.events()]


def test_follow_leaves_nothing_open(home: Path) -> None:
    """The log can be closed, checkpointed and copied while somebody follows."""
    following = Following(home, "events")
    following.wait_for("image.pulled")
    time.sleep(0.2)
    with ImageCache(home) as cache:
        cache.use("app:1")
    assert following.end(signal.SIGTERM)[0] == 0
    assert os.listdir(home / "db").count("msb-cache.db-wal") == 0


def test_reading_slowly_while_others_write(home: Path) -> None:
    with ImageCache(home) as cache, ImageCache(home) as other:
        expected = [event.seq for event in cache.events()]
        seen = []
        for event in cache.iter_events():
            seen.append(event.seq)
            other.use("app:1")
            cache.list()  # nothing is held open in between
        assert seen == expected


def test_what_follows_ends_its_line(home: Path) -> None:
    talk = on_terminal(["events", "--follow"], [("image.pulled", b"\x03")])
    assert (talk.code, talk.said[-1:]) == (0, "\n")
    assert talk.said.splitlines()[-1].strip("^C") == ""
