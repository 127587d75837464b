"""What ``--log-level`` logs, and how: on stderr, from that level on, as text or as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog

from msb_cache import diagnostics
from msb_cache.cli.logging import configure, staying


@pytest.fixture(autouse=True)
def nothing_stays_configured() -> Iterator[None]:
    yield
    diagnostics.use(None)
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("level", "logged"),
    [("debug", ["one", "two", "three"]), ("info", ["two", "three"]), ("warning", ["three"])],
)
def test_json(capsys: pytest.CaptureFixture[str], level: str, logged: list[str]) -> None:
    configure(level, "json")
    diagnostics.debug("one", path="/a")
    diagnostics.info("two")
    diagnostics.warning("three", count=3)
    out, err = capsys.readouterr()
    assert out == ""
    lines = [json.loads(line) for line in err.splitlines()]
    assert [line["event"] for line in lines] == logged
    assert lines[-1]["level"] == "warning"
    assert lines[-1]["count"] == 3
    assert lines[-1]["timestamp"].endswith("Z")


def test_text_has_no_colours_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "text")
    diagnostics.warning("a lock is held", path="/a")
    out, err = capsys.readouterr()
    assert out == ""
    assert "a lock is held" in err
    assert "path=/a" in err
    assert "\x1b" not in err


@pytest.mark.parametrize(
    ("level", "quiet", "own", "library"),
    [
        (None, False, ["two", "three"], ["six"]),
        (None, True, ["three"], ["six"]),
        ("debug", True, ["one", "two", "three"], ["four", "five", "six"]),
        ("warning", False, ["three"], ["six"]),
    ],
)
def test_what_stays_logs_its_decisions_and_of_the_library_warnings(
    capsys: pytest.CaptureFixture[str], level: str | None, quiet: bool, own: list[str], library: list[str]
) -> None:
    log = staying(level, None, quiet=quiet)
    log.debug("one")
    log.info("two", image="app:1")
    log.warning("three")
    diagnostics.debug("four")
    diagnostics.info("five")
    diagnostics.warning("six")
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in err.splitlines()]  # there is no terminal
    assert out == ""
    assert [line["event"] for line in lines] == [*own, *library]


def test_what_stays_logs_text_where_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    staying(None, "text").info("gc.run", outcome="a\x1b[31mb")
    err = capsys.readouterr().err
    assert "[info     ] gc.run" in err
    assert "\x1b" not in err


def test_structlog_comes_without_rich() -> None:
    """What stays would keep it in memory for nothing; where something else has it, it stays."""
    code = "import sys, msb_cache.cli.logging; print('rich' in sys.modules); import rich"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_text_is_shown_as_what_it_is_in_lines_of_either_kind(capsys: pytest.CaptureFixture[str]) -> None:
    for format_ in ("text", "json"):
        staying(None, format_).warning("note", said="a\u202eb\x1b[2Jc\nd")
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert err.strip().isprintable()
