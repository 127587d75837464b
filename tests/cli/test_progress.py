"""How far a pull or a deletion is: lines for a log, bars on a terminal, nothing if quiet."""

from __future__ import annotations

import io
import sys
from contextlib import suppress

import pytest

from msb_cache.cli import progress
from msb_cache.cli.progress import deleting, display
from msb_cache.engines.decision import Progress as Deleted
from msb_cache.oci.registry.downloads import LayerProgress
from tests.logs import digest

STEPS = (
    LayerProgress(digest(1), "exists", 2048, 2048),
    LayerProgress(digest(2), "resumed", 1024, 4096),
    LayerProgress(digest(2), "bytes", 2048, 4096),
    LayerProgress(digest(2), "retry", 2048, 4096, "the connection broke"),
    LayerProgress(digest(2), "done", 4096, 4096),
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_of_a_deletion_if_quiet_or_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (True, False):
        with deleting(quiet) as report:
            assert report is None
    assert capsys.readouterr() == ("", "")


def terminal_as_stderr(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Not a fixture: pytest sets stderr anew before a test runs."""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return found


def test_a_deletion_that_takes_long_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_as_stderr(monkeypatch)
    monkeypatch.setattr(progress, "_SHOWN_AFTER", 0)
    with deleting(quiet=False) as report:
        assert report is not None
        for done in (1, 7, 12):
            report(Deleted(done, 12))
    last = terminal.getvalue().rpartition("deleted ")[2]
    assert "12/12" in last


def test_one_that_is_over_at_once_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_as_stderr(monkeypatch)
    with deleting(quiet=False) as report:
        assert report is not None
        report(Deleted(1, 1))
    assert terminal.getvalue() == ""


def test_a_bar_goes_when_the_deletion_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_as_stderr(monkeypatch)
    monkeypatch.setattr(progress, "_SHOWN_AFTER", 0)
    with suppress(KeyboardInterrupt), deleting(quiet=False) as report:
        assert report is not None
        report(Deleted(1, 2))
        raise KeyboardInterrupt
    assert terminal.getvalue().endswith(("\x1b[?25h\r\x1b[1A\x1b[2K", "\x1b[?25h\r\x1b[2K"))


def test_nothing_if_quiet() -> None:
    with display(quiet=True) as show:
        assert show is None


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with display(quiet=False) as show:
        assert show is not None
        for step in STEPS:
            show(step)
    one, two = digest(1)[:19], digest(2)[:19]
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"  {one}  2.0 KiB already here",
        f"  {two}  going on at 1.0 KiB of 4.0 KiB",
        f"  {two}  trying again: the connection broke",
        f"  {two}  4.0 KiB fetched",
    ]


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_as_stderr(monkeypatch)
    with display(quiet=False) as show:
        assert show is not None
        for step in STEPS:
            show(step)
    last = terminal.getvalue().rpartition(digest(1)[:19])[2]
    assert "already here" in last
    assert digest(2)[:19] in last
    assert "4.0/4.0 KiB" in last
    assert "done" in last
