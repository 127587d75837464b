"""``python -m msb_cache`` is the command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.support import PROGRAM


@pytest.mark.parametrize(
    "words", [["--version"], ["list", "--help"], ["list", "--nope"], ["--home", "none", "list"]]
)
def test_it_says_what_the_program_says(words: list[str], tmp_path: Path) -> None:
    one, other = (
        subprocess.run([*program, *words], capture_output=True, text=True, cwd=tmp_path)
        for program in ([sys.executable, "-m", "msb_cache"], [PROGRAM])
    )
    assert (one.returncode, one.stdout, one.stderr) == (other.returncode, other.stdout, other.stderr)
    assert one.stdout or one.stderr
