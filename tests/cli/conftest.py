"""A home with three references on two images, and the command run in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.cli.main import run
from tests.cli.support import APP, TOOL, Done, written

Call = Callable[..., Done]


@pytest.fixture
def call(capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """Run the command in this process."""

    def call(*arguments: object) -> Done:
        capfdbinary.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capfdbinary.readouterr()
        return Done(code, captured.out, captured.err.decode())

    return call


@pytest.fixture
def home(own_home: Path, tmp_path: Path) -> Path:
    """A home, which MSB_HOME names, with app:1, app:latest and example.org/team/tool:2."""
    with ImageCache(own_home) as cache:
        cache.load(written(tmp_path / "app.tar", APP))
        cache.load(written(tmp_path / "tool.tar", TOOL))
    return own_home
