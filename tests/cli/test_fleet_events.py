"""The fleet's commands that tell what happened, as programs and people see them; at both places."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from msb_cache.cli.main import run
from tests.cli.support import NOT_FOUND, PROGRAM, USAGE
from tests.fleet.conftest import filled as filled
from tests.fleet.conftest import postgres as postgres
from tests.fleet.filled import Filled
from tests.fleet.random_lives import Life


@pytest.fixture
def hosts(filled: Filled, tmp_path: Path) -> tuple[list[str], list[Life], list[str]]:
    """The command's beginning, two hosts, and their logs."""
    lives = [Life(tmp_path / name, f"{name}-{tmp_path.name}") for name in ("build", "ci")]
    lives[0].step(("load", "app:1", 2))
    lives[0].step(("hold", "app:1", 1))
    lives[1].step(("load", "tool:1", 1))
    lives[1].step(("remove", "app:1", 3))
    logs = [filled.add(life.home) for life in lives]
    [(name, value)] = filled.options.items()
    return ["fleet", f"--{name}", value], lives, logs


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert run([*arguments]) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def test_a_history_names_the_hosts(hosts, capsys) -> None:
    fleet, lives, logs = hosts
    narrowed = [option for log_id in logs for option in ("--host", log_id)]
    text = said(capsys, *fleet, "history", "app:1", *narrowed)
    assert [line.split()[0] for line in text.splitlines()].count(lives[1].host) > 2
    assert "removed" in text
    assert "SECRET" not in text
    rows = json.loads(said(capsys, *fleet, "history", "app:1", *narrowed, "--format", "json"))
    assert [*rows[0]][:4] == ["host", "log_id", "folded_seq", "seq"]
    assert {row["host"] for row in rows} == {life.host for life in lives}
    newest = said(capsys, *fleet, "history", "app:1", *narrowed, "-q", "-n", "2").split()
    assert newest == [f"{row['host']}@{row['seq']}" for row in rows[-2:]]


def test_events_have_the_words_of_one_host(hosts, capsys) -> None:
    fleet, lives, logs = hosts
    with lives[0].cache() as cache:
        own = [event.seq for event in cache.events(types=["image.pulled", "image.held"])]
    of_one = [*fleet, "events", "--host", lives[0].host, "--type", "image.pulled", "--type", "image.held"]
    assert said(capsys, *of_one, "--format", "{seq}").split() == [*map(str, own)]
    assert said(capsys, *of_one, "--recorded").splitlines()[0].split()[:4] == [
        "HOST",
        "SEQ",
        "WHEN",
        "RECORDED",
    ]
    assert said(
        capsys, *fleet, "events", "--host", logs[0], "--since", "@2", "--until", "@3", "-q"
    ).split() == [
        f"{lives[0].host}@2",
        f"{lives[0].host}@3",
    ]
    narrowed = [option for log_id in logs for option in ("--host", log_id)]
    error = said(capsys, *fleet, "events", *narrowed, "--since", "@2", code=USAGE)
    assert "choose one with --host" in error
    assert "no host's log has seen ap:1" in said(
        capsys, *fleet, "events", "--host", logs[0], "--subject", "ap:1", code=NOT_FOUND
    )


def test_hosts_of_one_name_are_told_apart(filled: Filled, tmp_path: Path, capsys) -> None:
    name = f"runner-{tmp_path.name}"
    lives = [Life(tmp_path / folder, name) for folder in ("a", "b")]
    for life in lives:
        life.step(("load", "app:1", 1))
    logs = [filled.add(life.home) for life in lives]
    [(option, value)] = filled.options.items()
    fleet = ["fleet", f"--{option}", value]
    narrowed = ["--host", logs[0], "--host", logs[1]]
    both = {f"{name} ({log_id[:12]})" for log_id in logs}
    for asked in (["history", "app:1"], ["events"], ["events", "-n", "30"]):
        text = said(capsys, *fleet, *asked, *narrowed)
        assert {line.rpartition(")")[0] + ")" for line in re.findall(rf"^{name} .{{14}}", text, re.M)} == both
    assert f"\n{name} (" not in said(capsys, *fleet, "events", "--host", logs[0])


def test_why_says_it_of_each_host(hosts, capsys) -> None:
    fleet, lives, logs = hosts
    narrowed = [option for log_id in logs for option in ("--host", log_id)]
    text = said(capsys, *fleet, "why", "app:1", *narrowed)
    first, second = text.split("\n\n")
    assert first.startswith(lives[0].host)
    assert "app:1 is here." in first
    assert "sandbox:s1" in first
    assert second.startswith(lives[1].host)
    assert "app:1 is gone." in second
    assert "  msb-cache fleet prunes show " in second
    assert re.search(r"msb-cache restore \S+, on that host\n", second)
    rows = json.loads(said(capsys, *fleet, "why", "app:1", *narrowed, "--format", "json"))
    assert [(row["host"], row["kind"], row["here"]) for row in rows] == [
        (lives[0].host, "image", True),
        (lives[1].host, "image", False),
    ]


def test_why_says_what_is_not_asked_where_something_is_there(hosts, capsys) -> None:
    fleet, lives, _ = hosts
    asked = (*fleet, "why", "app:1", "--host")
    for host, words, says in (
        (lives[0].host, (), True),
        (lives[0].host, ("-q",), False),
        (lives[1].host, (), False),
    ):
        assert run([*asked, host, *words]) == 0
        assert ("policies, files and msb databases are not asked" in capsys.readouterr().err) == says, host


def test_diff_says_what_one_has_that_the_other_has_not(hosts, capsys) -> None:
    fleet, lives, _ = hosts
    text = said(capsys, *fleet, "diff", lives[0].host, lives[1].host)
    assert [line.split()[:3] for line in text.splitlines()[:3]] == [
        ["+", "image", "tool:1"],
        ["-", "image", "app:1"],
        ["-", "hold", "sandbox:s1"],
    ]
    found = json.loads(said(capsys, *fleet, "diff", lives[0].host, lives[1].host, "--format", "json"))
    assert found["added"][0]["reference"] == "tool:1"
    assert found["from_host"] == lives[0].host
    assert said(capsys, *fleet, "diff", lives[0].host, lives[1].host, "-q").split() == ["tool:1", "app:1"]


def test_what_is_followed_ends_within_a_second(hosts, filled) -> None:
    fleet, lives, logs = hosts
    with subprocess.Popen(
        [PROGRAM, *fleet, "events", "--follow", "--host", logs[0], "--format", "jsonl"],
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        shown = [json.loads(program.stdout.readline()) for _ in range(10)]
        lives[0].step(("use", "app:1", 1))
        filled.add(lives[0].home)
        came = json.loads(program.stdout.readline())
        asked = time.monotonic()
        program.send_signal(signal.SIGINT)
        program.wait(10)
        assert time.monotonic() - asked < 2
    assert (came["seq"], came["type"]) == (shown[-1]["seq"] + 1, "image.used")
