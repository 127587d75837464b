"""Options that mean the same everywhere, and how a command that waits is asked to end."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import click
import pytest

from msb_cache.cli.common import (
    PATH,
    done,
    examples,
    limit_option,
    note,
    on_terminal,
    reason_option,
    stopping,
)


def test_a_limit_is_a_number_from_one_on() -> None:
    @click.command()
    @limit_option
    def command(limit: int | None) -> int | None:
        return limit

    assert command.main(["-n", "7"], standalone_mode=False) == 7
    assert command.main([], standalone_mode=False) is None
    for text in ("", "x", "1.5", "-1", "0", "9" * 5000):
        with pytest.raises(click.BadParameter):
            command.main(["--limit", text], standalone_mode=False)


def test_a_path_is_for_its_reader_to_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    for path in (tmp_path / "file", tmp_path, tmp_path / "none"):
        assert PATH(str(path)) == str(path)

    @click.command()
    @click.argument("path", type=PATH)
    def command(path: str) -> None: ...

    (offered,) = PATH.shell_complete(click.Context(command), command.params[0], "a")
    assert (offered.value, offered.type) == ("a", "file")  # which asks the shell for its own


def test_examples_stay_as_they_are() -> None:
    assert examples("one", "two") == "\b\nExamples:\n  one\n  two"


def test_a_reason_has_a_length() -> None:
    @click.command()
    @reason_option
    def command(reason: str | None) -> int:
        return len(reason or "")

    assert command.main(["--reason", "x" * 300], standalone_mode=False) == 300
    assert command.main([], standalone_mode=False) == 0
    with pytest.raises(click.BadParameter, match="at most 300 characters"):
        command.main(["--reason", "x" * 301], standalone_mode=False)


def test_a_closed_stream_is_no_terminal() -> None:
    assert not on_terminal(None)
    assert not on_terminal(io.StringIO())


def test_what_is_said_beside_the_answer_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    note("this is unusual")
    done("Used", "app:1")
    assert capsys.readouterr() == ("", "note: this is unusual\n  ✓ Used       app:1\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_asks_to_stop_and_is_given_back(number: int) -> None:
    before = signal.getsignal(number)
    with stopping() as stopped:
        assert not stopped()
        os.kill(os.getpid(), number)
        assert stopped()
        assert signal.getsignal(number) != before
    assert signal.getsignal(number) == before


def test_signals_are_given_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), stopping():
        _ = 1 // 0
    assert signal.getsignal(signal.SIGINT) == before
