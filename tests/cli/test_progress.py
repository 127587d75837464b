"""How far a pull is: lines for a log, bars on a terminal, nothing if quiet."""

from __future__ import annotations

import io
import sys

import pytest

from msb_cache.cli.progress import display
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


def test_nothing_if_quiet() -> None:
    with display(quiet=True) as progress:
        assert progress is None


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with display(quiet=False) as progress:
        assert progress is not None
        for step in STEPS:
            progress(step)
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
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with display(quiet=False) as progress:
        assert progress is not None
        for step in STEPS:
            progress(step)
    last = terminal.getvalue().rpartition(digest(1)[:19])[2]
    assert "already here" in last
    assert digest(2)[:19] in last
    assert "4.0/4.0 KiB" in last
    assert "done" in last
