"""Where progress is shown, and where it is not."""

from __future__ import annotations

import io
import sys

import click
import pytest

from msb_cache.cli.showing import shows_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "term", "level", "shown"),
    [
        (Terminal(), "xterm", None, True),
        (Terminal(), None, None, True),
        (io.StringIO(), "xterm", None, False),
        (None, "xterm", None, False),
        (Terminal(), "dumb", None, False),
        (Terminal(), "unknown", None, False),
        (Terminal(), "xterm", "warning", False),
    ],
)
def test_where(
    monkeypatch: pytest.MonkeyPatch,
    stream: io.StringIO | None,
    term: str | None,
    level: str | None,
    shown: bool,
) -> None:
    with monkeypatch.context() as patched, click.Context(click.Command("x")) as context:
        patched.setattr(sys, "stderr", stream)
        patched.delenv("TERM", raising=False)
        if term is not None:
            patched.setenv("TERM", term)
        context.params["log_level"] = level
        assert shows_progress() is shown


def test_outside_of_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", Terminal())
        patched.setenv("TERM", "xterm")
        assert shows_progress()
