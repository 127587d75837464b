"""The end of holds, and of none."""

from __future__ import annotations

from pathlib import Path

from tests.cli.support import Call


def test_releasing_nothing_is_no_error(home: Path, call: Call) -> None:
    done = call("release", "sandbox:dev")
    assert (done.code, done.out, done.err) == (0, "", "sandbox:dev holds nothing.\n")
