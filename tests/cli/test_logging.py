"""What ``--log-level`` logs, and how: on stderr, from that level on, as text or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import structlog

from msb_cache import diagnostics
from msb_cache.cli.logging import configure


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
