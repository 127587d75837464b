"""Whether a run's process is there: told by its id, its beginning, and what can be seen from here."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from msb_cache.msb import liveness
from msb_cache.msb.liveness import Process, find, is_there

SECOND = 10**9


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits until its input ends, with the words that a sandbox's has."""
    program = "import sys; print(flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", program, "machine", "--name", "dev", "--vcpus", "1"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        started.stdout.readline()  # the system gives it its words a moment after it is said to have begun
        yield started
        started.kill()


def reused_pid() -> int:
    """Return the id of a process that is not there any more."""
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    return ended.pid


def test_a_process_is_found_and_told_from_others(child: subprocess.Popen[bytes]) -> None:
    found = find(child.pid, "dev", time.time_ns())
    assert isinstance(found, Process)
    assert (found.pid, found.boot) == (child.pid, liveness.boot())
    assert is_there(found)
    assert not is_there(found._replace(ticks=found.ticks - 1))  # another with its id
    assert not is_there(found._replace(boot="another start of the computer"))
    child.kill()
    child.wait()
    assert not is_there(found)


def test_one_that_ended_and_is_not_waited_for_is_gone(child: subprocess.Popen[bytes]) -> None:
    found = find(child.pid, "dev", time.time_ns())
    assert isinstance(found, Process)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_there(found)
    with patch.object(liveness, "_sees_all", lambda: True):
        assert find(child.pid, "dev", time.time_ns()) == "gone"


def test_a_process_younger_than_the_run_is_another() -> None:
    with patch.object(liveness, "_sees_all", lambda: True):
        assert find(os.getpid(), "dev", time.time_ns()) != "gone"
        assert find(os.getpid(), "dev", time.time_ns() - 10**6 * SECOND) == "gone"


def test_one_that_says_its_name_is_it_though_the_clock_was_set_forward(
    child: subprocess.Popen[bytes],
) -> None:
    assert isinstance(find(child.pid, "dev", time.time_ns() - 3600 * SECOND), Process)
    with patch.object(liveness, "_sees_all", lambda: True):
        assert find(child.pid, "vcpus", time.time_ns() - 3600 * SECOND) == "gone"


def test_from_within_a_container_nothing_is_said_to_be_gone() -> None:
    pid = reused_pid()
    with patch.object(liveness, "_sees_all", lambda: False):
        assert find(pid, "dev", time.time_ns()) == "unknown"
        assert find(os.getpid(), "dev", 0) == "unknown"
        assert is_there(Process(pid, 1, liveness.boot()))
    with patch.object(liveness, "_sees_all", lambda: True):
        assert find(pid, "dev", time.time_ns()) == "gone"
        assert not is_there(Process(pid, 1, liveness.boot()))


@pytest.mark.parametrize("pid", [None, 0, -1, -(2**40)])
def test_what_is_no_process_id_says_nothing(pid: int | None) -> None:
    assert find(pid, "dev", time.time_ns()) == "unknown"


def test_an_id_that_no_process_can_have_is_gone() -> None:
    with patch.object(liveness, "_sees_all", lambda: True):
        assert find(2**62, "dev", time.time_ns()) == "gone"


def test_a_hidden_process_is_there() -> None:
    with patch.object(liveness, "_ticks", lambda pid: 0):
        assert find(7, "dev", time.time_ns()) == "unknown"
        assert is_there(Process(7, 1, liveness.boot()))


def test_a_run_from_before_the_computers_start_cannot_last() -> None:
    started = liveness.computer_started_ns()
    assert abs(started - (time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME))) < SECOND
    assert liveness.began_before_start(started - 10 * SECOND)
    assert not liveness.began_before_start(started + SECOND)
    assert not liveness.began_before_start(None)
