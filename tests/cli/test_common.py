"""Options that mean the same everywhere, and how a command that waits is asked to end."""

from __future__ import annotations

import io
import os
import signal

import click
import pytest

from msb_cache.cli.common import done, examples, note, number, on_terminal, reason_option, stopping


@pytest.mark.parametrize(
    ("least", "text", "meant"),
    [(0, "0", 0), (1, "1", 1), (1, " 7 ", 7), (0, "9223372036854775807", 2**63 - 1), (1, 5, 5)],
)
def test_a_number(least: int, text: str | int, meant: int) -> None:
    assert number(least)(text) == meant


@pytest.mark.parametrize("text", ["", "x", "1.5", "-1", "0", "9223372036854775808", "9" * 5000])
def test_no_number(text: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        number(1)(text)
    assert len(caught.value.message) < 150
    assert "from 1 on" in caught.value.message


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
