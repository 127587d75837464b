"""How values look, and that a terminal has room for them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from msb_cache.cli import look, output
from tests.cli.support import APP, on_terminal

NS = 1_800_000_000_000_000_007  # 2027-01-15T08:00:00.000000007Z


@pytest.fixture
def india(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The local zone is five and a half hours ahead of UTC."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("ns", "local", "rfc3339"),
    [
        (None, "-", None),
        (NS, "2027-01-15 13:30:00 +0530", "2027-01-15T08:00:00.000000007+00:00"),
        (0, "1970-01-01 05:30:00 +0530", "1970-01-01T00:00:00.000000000+00:00"),
        (-1, "1970-01-01 05:29:59 +0530", "1969-12-31T23:59:59.999999999+00:00"),
    ],
)
def test_times(india: None, ns: int | None, local: str, rfc3339: str | None) -> None:
    assert look.absolute(ns) == local
    assert output.rfc3339(ns) == rfc3339


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("app:1", "app:1"),
        ("äpp – 二", "äpp – 二"),
        ("\x1b[31m\r\n\x07", "\\x1b[31m\\r\\n\\x07"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud800", "\\ud800"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert output.printable(text) == shown


@pytest.mark.parametrize("said", ["", "1"])
def test_an_error_on_stderr(
    said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", said)
    output.error("it has \x1b[31m in its name")
    assert capsys.readouterr() == ("", "error: it has \\x1b[31m in its name\n")


@pytest.mark.parametrize("count", [0, 1, output.SCREENFUL, output.SCREENFUL + 1])
def test_a_json_array_in_parts_is_what_it_is_at_once(count: int, capsys: pytest.CaptureFixture[str]) -> None:
    values = [{"number": number, "text": "a\nb", "none": None, "list": []} for number in range(count)]
    output.json_array(iter(values))
    in_parts = capsys.readouterr().out
    output.json(values)
    assert in_parts == capsys.readouterr().out
    assert json.loads(in_parts) == values


def test_lines_of_the_usual_commands_fit_80_columns_or_are_tables(home: Path) -> None:
    """Only tables and digests may be wider than a terminal."""
    for command in ("inspect app:1", "prune -n", "verify"):
        for line in on_terminal(command.split(), NO_COLOR="1").said.splitlines():
            assert len(line) <= 80 or APP.digest in line or "MEDIA TYPE" in line or "application/" in line
