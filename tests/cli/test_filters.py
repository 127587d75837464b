"""Searching the log: filters, wildcards, digests, streaming, and staying for what comes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from msb_cache import Actor, ImageCache
from tests.cli.conftest import Call
from tests.cli.support import APP, APP_NEXT, PROGRAM, TOOL, sentence, written
from tests.logs import ticking

USAGE, NOT_FOUND = 2, 3
SECOND = 10**9
START = 1_700_000_000 * SECOND  # 2023-11-14T22:13:20Z


@pytest.fixture
def long(own_home: Path, tmp_path: Path) -> Path:
    """A home where each event has a second of its own, by two people on two machines."""
    clock = ticking(START, SECOND)
    for user, host in (("ada", "one"), ("grace", "two")):
        actor = Actor(user=user, uid=1, host=host, program="test", reason='it\'s "due"')
        with ImageCache(own_home, actor=actor, clock=lambda: next(clock)) as cache:
            if user == "ada":
                cache.load(written(tmp_path / "app.tar", APP))
                cache.load(written(tmp_path / "tool.tar", TOOL))
            cache.hold("app:1", f"sandbox:{user}")
            cache.use("example.org/team/tool:2", holder=f"sandbox:{user}")
            cache.load(written(tmp_path / "next.tar", APP_NEXT))
    return own_home


def every(call: Call, *arguments: object) -> list[dict[str, Any]]:
    done = call(*arguments, "--format", "json")
    assert (done.code, done.err) == (0, "")
    return done.json  # type: ignore[no-any-return]


def seqs(call: Call, *arguments: object) -> list[int]:
    return [event["seq"] for event in every(call, *arguments)]


def test_each_filter_is_what_it_says(long: Path, call: Call) -> None:
    events = every(call, "events")
    middle = events[len(events) // 2]["recorded_at"]
    operation = events[3]["operation"]
    for words, fits in {
        f"--since {middle}": lambda event: event["recorded_at"] >= middle,
        f"--until {middle}": lambda event: event["recorded_at"] <= middle,
        f"--since {middle} --until {middle}": lambda event: event["recorded_at"] == middle,
        f"--occurred --since {middle}": lambda event: event["occurred_at"] >= middle,
        f"--occurred --until {middle}": lambda event: event["occurred_at"] <= middle,
        "--type image.held": lambda event: event["type"] == "image.held",
        "--type image.held --type image.used": lambda event: event["type"] in ("image.held", "image.used"),
        "--actor ada": lambda event: event["actor"]["user"] == "ada",
        "--actor grace@two": lambda event: event["actor"]["user"] == "grace",
        "--host two": lambda event: event["actor"]["host"] == "two",
        "--holder sandbox:ada": lambda event: event["data"].get("holder") == "sandbox:ada",
        f"--operation {operation}": lambda event: event["operation"] == operation,
        f"--digest {TOOL.digest}": lambda event: TOOL.digest in json.dumps(event),
        f"--digest {TOOL.digest[7:13]}": lambda event: TOOL.digest in json.dumps(event),
        f"--digest {TOOL.layers[0].digest}": lambda event: TOOL.layers[0].digest in json.dumps(event),
        "--grep TEAM/tool": lambda event: "team/tool" in json.dumps(event),
        "--subject app:1": lambda event: event["subject"] == "docker.io/library/app:1",
        "--subject app:*": lambda event: event["subject"].startswith("docker.io/library/app:"),
        f"--subject {APP.digest[:14]}": lambda event: event["subject"] == APP.digest,
        "--subject app:1 --subject example.org/*": lambda event: (
            event["subject"] in ("docker.io/library/app:1", "example.org/team/tool:2")
        ),
        "--actor ada --type image.held": lambda event: (
            event["actor"]["user"] == "ada" and event["type"] == "image.held"
        ),
    }.items():
        expected = [event["seq"] for event in events if fits(event)]  # type: ignore[no-untyped-call]
        assert expected, words
        assert seqs(call, "events", *words.split()) == expected, words
        assert seqs(call, "events", *words.split(), "--reverse") == expected[::-1], words
        assert seqs(call, "events", *words.split(), "-n", 2) == expected[:2], words
        assert seqs(call, "events", *words.split(), "-n", 2, "--reverse") == expected[::-1][:2], words
        if words.startswith("--subject"):
            continue
        # The same filter on a history.
        own = seqs(call, "history", "app:1")
        assert seqs(call, "history", "app:1", *words.split()) == [seq for seq in own if seq in expected], (
            words
        )
    assert len(seqs(call, "events", "--grep", 'it\'s "due"')) == len(events)


def test_history_in_reverse_and_in_part(long: Path, call: Call) -> None:
    whole = seqs(call, "history", "app:1")
    assert len(whole) > 3
    assert seqs(call, "history", "app:1", "--reverse") == whole[::-1]
    assert seqs(call, "history", "app:1", "-n", 2) == whole[:2]
    assert seqs(call, "history", "app:1", "-n", 2, "--reverse") == whole[::-1][:2]


def test_history_of_several_and_of_a_digest(long: Path, call: Call) -> None:
    one, latest = (set(seqs(call, "history", name)) for name in ("app:1", "app:latest"))
    assert set(seqs(call, "history", "app:*")) == one | latest
    assert seqs(call, "history", "app:?") == sorted(one)
    assert seqs(call, "history", "*") == sorted(
        {*one, *latest, *seqs(call, "history", "example.org/team/tool:2")}
    )
    of_next = every(call, "history", APP_NEXT.digest[7:15])
    assert [event["type"] for event in of_next] == [
        "manifest.added",
        "image.pulled",
        "image.held",
        "image.pulled",
    ]
    assert all(APP_NEXT.digest in json.dumps(event) for event in of_next)
    of_old = every(call, "history", APP.digest)
    assert [event["type"] for event in of_old] == [
        "manifest.added",
        "image.pulled",
        "image.pulled",
        "image.held",
        "image.pulled",  # where it moved away
    ]


def test_times_are_local_with_their_offset(long: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        first = call("events", "-n", "1").lines[1]
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


def test_digests_wherever_a_reference_does(home: Path, call: Call, tmp_path: Path) -> None:
    for text in (TOOL.digest, TOOL.digest[7:], TOOL.digest[:11], TOOL.digest[7:11]):
        assert call("inspect", text, "--format", "json").json["reference"] == "example.org/team/tool:2"
        assert call("list", "-q", text).lines == ["example.org/team/tool:2"]
        assert call("use", "-q", text).code == 0
        assert call("hold", "-q", text, "sandbox:x").code == 0
        assert call("save", "-q", text, "-o", tmp_path / "saved.tar").code == 0
    assert call("release", "-q", "sandbox:x").code == 0
    assert call("list", "-q", APP.digest[7:19]).lines == ["app:latest", "app:1"]
    # What acts on one reference wants to know which.
    for command in ("use", "remove"):
        done = call(command, APP.digest)
        assert (done.code, done.raw) == (USAGE, b"")
        assert "app:1" in sentence(done.err)
        assert "app:latest" in sentence(done.err)
    assert call("remove", "-q", TOOL.digest[7:15]).code == 0
    assert call("list", "-q", "example.org/*").code == NOT_FOUND


def test_an_exact_reference_wins(home: Path, call: Call, tmp_path: Path) -> None:
    name = TOOL.digest[7:13]
    call("load", "-q", "-i", tmp_path / "app.tar", "--tag", name)
    assert call("inspect", name, "--format", "json").json["digest"] == APP.digest
    assert {event["data"]["manifest_digest"] for event in every(call, "history", name)} == {APP.digest}
    assert call("inspect", f"sha256:{name}", "--format", "json").json["digest"] == TOOL.digest


def test_wildcards_in_lists(home: Path, call: Call) -> None:
    for pattern, found in {
        "app:*": ["app:latest", "app:1"],
        "docker.io/library/app:*": ["app:latest", "app:1"],
        "app:?": ["app:1"],
        "*/tool:*": ["example.org/team/tool:2"],
        "*": ["app:1", "app:latest", "example.org/team/tool:2"],
        "*p*:*1*": ["app:1"],
    }.items():
        assert sorted(call("list", "-q", pattern).lines) == sorted(found), pattern
    assert sorted(call("list", "-q", "app:1", "*/tool:*").lines) == ["app:1", "example.org/team/tool:2"]


@pytest.mark.parametrize(
    ("code", "command", "says"),
    [
        (USAGE, ["events", "--since", "soon"], "'soon' is no time"),
        (USAGE, ["history", "app:1", "--until", "2026-02-30"], "is no time"),
        (USAGE, ["events", "--type", "image.eaten"], "no event type; there are: log.created"),
        (USAGE, ["history", "app:1", "--type", "x"], "no event type"),
        (USAGE, ["events", "--digest", "xyz"], "is no digest"),
        (USAGE, ["events", "--digest", "abc"], "is no digest"),
        (NOT_FOUND, ["events", "--digest", "0000"], "no such digest"),
        (NOT_FOUND, ["events", "--operation", "00000000"], "no operation has the id"),
        (NOT_FOUND, ["history", "app:1", "--operation", "zz"], "no operation has the id"),
        (NOT_FOUND, ["events", "--since", "now", "--operation", "zz"], "no operation has the id"),
        (NOT_FOUND, ["history", "nothing:*"], "no image matches 'nothing:*'"),
        (NOT_FOUND, ["list", "nothing:*"], "no image matches 'nothing:*'"),
        (NOT_FOUND, ["list", "app:2"], "image not found: app:2"),
        (NOT_FOUND, ["events", "--subject", "nothing*"], "no image matches"),
        (NOT_FOUND, ["events", "--subject", "nothing"], "the log knows no image nothing:latest"),
        (USAGE, ["list", "bad pattern*"], "is no image reference with wildcards"),
        (USAGE, ["history", "a\x1b*"], "is no image reference with wildcards"),
        (USAGE, ["list", "*" * 400], "is no image reference with wildcards"),
        (USAGE, ["events", "--holder", "dev"], "'dev' is no holder; write sandbox:NAME"),
        (USAGE, ["events", "--grep", ""], "1 to 1000 characters"),
        (USAGE, ["events", "--grep", "x" * 2000], "1 to 1000 characters"),
        (USAGE, ["events", "-n", "-1"], "-1"),
        (USAGE, ["events", "--follow", "--reverse"], "oldest first"),
        (USAGE, ["history", "app:1", "--follow", "--until", "now"], "has no end"),
        (NOT_FOUND, ["history", "nothing", "--follow"], "the log knows no image"),
        (NOT_FOUND, ["inspect", "0000"], "no such digest is in the cache"),
        (NOT_FOUND, ["holders", "sha256:0000"], "no such digest is in the cache"),
        (USAGE, ["holders", "UPPER"], "lower case"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_bad_input(home: Path, call: Call, code: int, command: list[str], says: str) -> None:
    done = call(*command)
    assert (done.code, done.raw) == (code, b"")
    assert says in sentence(done.err)


def test_an_ambiguous_digest_lists_candidates(home: Path, call: Call) -> None:
    with ImageCache(home) as cache, cache._ledger.write("x") as transaction:
        from msb_cache.eventstore.store import NewEvent
        from tests.logs import layer, manifest_added, pulled

        for number in range(9):
            digest = "sha256:abcd" + f"{number}" * 60
            transaction.append(
                [
                    NewEvent(manifest_added([layer(number)]), digest),
                    NewEvent(pulled(digest), f"example.org/x:{number}"),
                ]
            )
    for command in ("inspect", "history", "use", "remove", "holders", "list", "save"):
        done = call(command, "abcd")
        assert (done.code, done.raw) == (USAGE, b"")
        said = sentence(done.err)
        assert said.startswith("several digests begin with 'abcd': sha256:abcd0000")
        assert said.endswith("and more; give more")
    assert call("inspect", "abcd3", "--format", "json").json["reference"] == "example.org/x:3"


def test_long_tables_come_in_columns(long: Path, call: Call) -> None:
    with ImageCache(long) as cache:
        for _ in range(150):
            cache.use("app:1")
    table = call("events")
    assert len({re.search(r"\d{4}-\d\d-\d\d", line).start() for line in table.lines[1:]}) == 1  # type: ignore[union-attr]
    assert len(every(call, "events")) == len(table.lines) - 1
    assert len(call("history", "app:1").lines) == len(every(call, "history", "app:1"))


class Following:
    """``--follow`` as a program."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [PROGRAM, "--home", str(home), *arguments, "--follow"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def wait_for(self, text: str, count: int = 1) -> None:
        deadline = time.monotonic() + 20
        while sum(text in line for line in [*self.lines]) < count:
            assert time.monotonic() < deadline, (text, self.lines)
            time.sleep(0.02)

    def end(self, number: int) -> tuple[int, str]:
        self.process.send_signal(number)
        code = self.process.wait(10)
        self._reader.join()
        assert self.process.stderr is not None
        assert self.process.stdout is not None
        said = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return code, said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_follow(home: Path, call: Call, number: int) -> None:
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
    assert following.end(number) == (0, "")
    assert [json.loads(line)["seq"] for line in following.lines] == expected


def test_follow_a_history(home: Path) -> None:
    with ImageCache(home) as cache:
        for _ in range(15):
            cache.use("app:1")
        following = Following(home, "history", "app:1")
        following.wait_for("image.used", 10)
        cache.use("example.org/team/tool:2")
        cache.remove("app:latest")
        cache.remove("app:1")
        following.wait_for("layer.deleted")
        of_its_own = len(cache.history("app:1"))
        followed = 16 - 10
    assert following.end(signal.SIGINT) == (0, "")
    assert len(following.lines) == of_its_own - followed
    assert not any("tool:2" in line for line in following.lines)
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}  ", line) for line in following.lines)


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
