"""Whether the process of a run is still there: process ids alone do not tell, the system uses them again."""

from __future__ import annotations

import os
import time
from typing import Literal, NamedTuple

_INITIAL_NAMESPACE = 0xEFFFFFFC
"""The inode that Linux gives the process namespace in which a process sees all others."""
_SLACK = 2 * 10**9
"""Nanoseconds by which two accounts of one moment can differ: the wall clock is adjusted all the time."""


class Process(NamedTuple):
    """A process, told from all others by when it began: in ticks since the computer was started."""

    pid: int
    ticks: int
    boot: str


def find(pid: int | None, name: str, started_at_ns: int | None) -> Process | Literal["gone", "unknown"]:
    """Return the process that runs a sandbox.

    Args:
        pid: as msb recorded it.
        name: the sandbox's.
        started_at_ns: when the run began, in ns since the epoch; msb records it just after the process began.

    Returns:
        ``gone`` if it is not there or another process has its id; ``unknown`` if that cannot be told from
        here, as from within a container, which does not see the processes outside.
    """
    if pid is None or pid < 1:
        return "unknown"
    ticks = _ticks(pid)
    if ticks is None or (ticks and _began_later(ticks, started_at_ns) and not _runs(pid, name)):
        return "gone" if _sees_all() else "unknown"
    return Process(pid, ticks, boot()) if ticks else "unknown"


def is_there(process: Process) -> bool:
    """Return whether the process is still there, as far as that can be told."""
    if process.boot != boot():
        return False
    ticks = _ticks(process.pid)
    return ticks in (0, process.ticks) or (ticks is None and not _sees_all())


def boot() -> str:
    """Return what identifies the computer's present start."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def computer_started_ns() -> int:
    """Return when the computer was started, in ns since the epoch, as the clock is now."""
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def began_before_start(started_at_ns: int | None) -> bool:
    """Return whether a run began before the computer was started, so that it cannot last."""
    return started_at_ns is not None and started_at_ns < computer_started_ns() - _SLACK


def _ticks(pid: int) -> int | None:
    """Return when a process began, in ticks; 0 if it is there and hidden; None if it is not, or has ended."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name is in parentheses and may have any character in it.
            fields = file.read().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0


def _began_later(ticks: int, started_at_ns: int | None) -> bool:
    if started_at_ns is None:
        return False
    began = computer_started_ns() + ticks * 10**9 // os.sysconf("SC_CLK_TCK")
    return began > started_at_ns + _SLACK


def _runs(pid: int, name: str) -> bool:
    """Return whether the process says that it runs the sandbox: a clock set forward makes it seem younger."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"\0--name\0%b\0" % name.encode() in file.read(65536)
    except OSError:
        return False


def _sees_all() -> bool:
    try:
        return os.stat("/proc/self/ns/pid").st_ino == _INITIAL_NAMESPACE
    except OSError:
        return False
