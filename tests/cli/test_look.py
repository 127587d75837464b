"""What decides how output looks: colours, width, and times."""

from __future__ import annotations

import io
import os
import pty
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import IO

import click
import pytest

from msb_cache.cli import look
from msb_cache.cli.settings import Settings

NS = 1_800_000_000_000_000_007  # 2027-01-15T08:00:00.000000007Z
COLOURS = ("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TERM")


@contextmanager
def terminal() -> Iterator[IO[str]]:
    """A stream that is a terminal."""
    main, side = pty.openpty()
    with closing(os.fdopen(main, "rb", 0)), closing(os.fdopen(side, "w")) as stream:
        yield stream


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"TERM": "xterm"}, None),
        ({"TERM": "dumb"}, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": ""}, None),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}, False),
        ({"FORCE_COLOR": "3"}, True),
        ({"FORCE_COLOR": "0"}, None),
        ({"FORCE_COLOR": ""}, None),
        ({"CLICOLOR": "0"}, False),
        ({"CLICOLOR": "1"}, None),
        ({"CLICOLOR": "0", "CLICOLOR_FORCE": "1"}, True),
        ({"CLICOLOR_FORCE": "0"}, None),
    ],
)
def test_colours(environment: dict[str, str], expected: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in COLOURS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert look.color() is expected


def test_a_pipe_has_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert (look.width(), look.room()) == (None, None)
    monkeypatch.setattr(sys, "stdout", None)
    assert look.width() is None


@pytest.mark.parametrize(("said", "columns"), [("60", 60), ("200", 200), ("1", 20)])
def test_a_terminal_says_its_width(said: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", said)
    with terminal() as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert look.width(err=True) == columns
        with click.Context(click.Command("x")):
            look.choose(absolute=False, no_trunc=True)
            assert (look.width(err=True), look.room(err=True)) == (columns, None)
        assert look.room(err=True) == columns


def test_times_in_a_pipe_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert look.moment(NS) == look.absolute(NS) == "2027-01-15 13:30:00 +0530"
    assert look.absolute(-1) == "1970-01-01 05:29:59 +0530"
    assert look.moment(None) == look.absolute(None) == "-"
    monkeypatch.undo()
    time.tzset()


def test_times_on_a_terminal_are_how_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        an_hour_ago = time.time_ns() - 3600 * 10**9
        assert look.moment(an_hour_ago) == "1 hour ago"
        with click.Context(click.Command("x")):
            look.choose(absolute=True, no_trunc=False)
            assert look.moment(an_hour_ago) == look.absolute(an_hour_ago)


@pytest.mark.parametrize(("said", "expected"), [("auto", None), ("always", True), ("never", False)])
def test_settings_say_it_too(said: str, expected: bool | None) -> None:
    look.settle(Settings(times="absolute", color=said, columns={"list": ("size",)}, pager="more"))
    try:
        assert (look.color(), look.pager(), look.columns("list")) == (expected, "more", ("size",))
        assert look.columns("pins") is None
        with terminal() as stream, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            assert look.moment(NS) == look.absolute(NS)
    finally:
        look.settle(None)
