"""Diagnostics: nothing is logged, nor structlog imported, unless a program passes a logger."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from msb_cache import diagnostics


class Recorder:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Any:
        return lambda event, **fields: self.lines.append((level, event, fields))


@pytest.fixture(autouse=True)
def no_logger() -> Iterator[None]:
    yield
    diagnostics.use(None)


@pytest.mark.parametrize("level", ["debug", "info", "warning"])
def test_lines_go_to_the_logger_that_was_passed_last(level: str) -> None:
    log = getattr(diagnostics, level)
    first, second = Recorder(), Recorder()
    diagnostics.use(first)
    log("fetched", bytes=5)
    diagnostics.use(second)
    log("stored")
    diagnostics.use(None)
    log("nowhere")
    assert first.lines == [(level, "fetched", {"bytes": 5})]
    assert second.lines == [(level, "stored", {})]


def test_structlog_is_not_imported() -> None:
    program = (
        "import sys; from msb_cache import diagnostics\n"
        "diagnostics.info('x'); print('structlog' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
