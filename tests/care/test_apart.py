"""Work in a child: what it returns, how it is ended, and what is said when it ends by itself."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from msb_cache.care.apart import DiedError, Stopped, in_child

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def never() -> bool:
    return False


def test_what_it_returns_comes_from_another_process() -> None:
    assert in_child(lambda stopped: [os.getppid(), 1], list[int], never) == [os.getpid(), 1]
    large = in_child(lambda stopped: "x" * 1_000_000, str, never)  # more than a pipe holds
    assert large == "x" * 1_000_000


def test_it_is_told_to_end_once_its_parent_is() -> None:
    def work(stopped: Stopped) -> bool:
        deadline = time.monotonic() + 20
        while not stopped() and time.monotonic() < deadline:
            time.sleep(0.01)
        return stopped()

    began = time.monotonic()
    assert in_child(work, bool, lambda: time.monotonic() - began > 0.2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1])
def test_one_that_is_killed_says_by_what(number: int) -> None:
    with pytest.raises(DiedError, match=f"signal {number}"):
        in_child(lambda stopped: os.kill(os.getpid(), number), int, never)


def test_one_that_fails_says_so_and_shows_why(capfd: pytest.CaptureFixture[str]) -> None:
    def work(stopped: Stopped) -> int:
        raise ZeroDivisionError("a mistake in the program")

    with pytest.raises(DiedError, match="exit code 1"):
        in_child(work, int, never)
    assert "ZeroDivisionError: a mistake in the program" in capfd.readouterr().err


def test_what_it_cannot_write_is_no_mistake_of_the_program(capfd: pytest.CaptureFixture[str]) -> None:
    def work(stopped: Stopped) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(DiedError, match="exit code 1: Broken pipe"):
        in_child(work, int, never)
    assert capfd.readouterr().err == ""


def test_one_whose_parent_was_killed_ends_without_a_word() -> None:
    work = "lambda stopped: time.sleep(1) or print('done', flush=True)"
    source = f"import time\nfrom msb_cache.care.apart import in_child\nin_child({work}, None, lambda: False)"
    with subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        deadline = time.monotonic() + 20
        while not children.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        parent.kill()
        assert parent.communicate(timeout=20) == ("done\n", "")  # when the child has ended, too


@contextmanager
def open_files() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


def test_nothing_is_left_open_and_no_child_either() -> None:
    with open_files():
        in_child(lambda stopped: 1, int, never)
        with pytest.raises(DiedError):
            in_child(lambda stopped: os.kill(os.getpid(), signal.SIGKILL), int, never)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_an_interrupt_ends_the_child_as_well() -> None:
    def interrupted() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_child(lambda stopped: time.sleep(0.2), type(None), interrupted)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
