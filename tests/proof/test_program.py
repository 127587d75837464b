"""A program that is given something: what it reads, what is kept of what it says, and how it ends.

What signs by one has the rest of the tests: test_sign_command.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from msb_cache.errors import DeliveryError, InvalidConfigError
from msb_cache.proof.program import Ended, Program


def program(command: str) -> Program:
    return Program(command, "to keep it", DeliveryError)


def test_it_gets_what_it_is_given_and_is_told_of(tmp_path: Path) -> None:
    found = program(f"sh -c 'cat >{tmp_path}/got; echo out; echo one >&2; echo two >&2; exit 3' --secret")
    assert found.name == "sh"
    ended = found.run(b"given", seconds=10, most=100)
    assert ended == Ended(3, b"out\n", b"one\ntwo\n")
    assert ended.how == "failed with exit code 3: two"
    assert (tmp_path / "got").read_bytes() == b"given"
    assert Ended(-9, b"", b"").how == "was ended by signal 9"


def test_an_output_without_a_bound_is_kept_in_part() -> None:
    ended = program("sh -c 'yes | head -c 3000000; echo; echo end'").run(b"", seconds=20, most=None)
    assert ended.status == 0
    assert ended.output.endswith(b"\nend\n")
    assert len(ended.output) <= 4096
    with pytest.raises(DeliveryError, match=r"^yes, which is to keep it, prints more than 10 bytes$"):
        program("yes").run(b"", seconds=20, most=10)


def test_it_may_take_so_long() -> None:
    began = time.monotonic()
    with pytest.raises(DeliveryError, match=r"^sleep, which is to keep it, did not end within 1 seconds$"):
        program("sleep 60").run(b"", seconds=1, most=None)
    assert time.monotonic() - began < 10


def test_the_purpose_is_said_of_what_is_none() -> None:
    with pytest.raises(InvalidConfigError, match=r"^the command that is to keep it is empty"):
        program(" ")
    with pytest.raises(DeliveryError, match=r"^/none/such, which is to keep it, cannot be run: No such file"):
        program("/none/such --secret").run(b"", seconds=1, most=None)
