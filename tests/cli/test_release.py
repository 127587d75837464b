"""The end of holds, and of none."""

from __future__ import annotations

from pathlib import Path

from tests.cli.support import Call


def test_releasing_nothing_is_no_error(home: Path, call: Call) -> None:
    done = call("release", "sandbox:dev")
    assert (done.code, done.out, done.err) == (0, "", "sandbox:dev holds nothing.\n")


def test_a_holder_like_it_is_offered(home: Path, call: Call) -> None:
    assert call("hold", "app:1", "sandbox:dev").code == 0
    done = call("release", "sandbox:dve")
    assert (done.code, done.err) == (0, "sandbox:dve holds nothing; did you mean sandbox:dev?\n")
