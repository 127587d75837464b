"""Killed at any moment in a home that the real msb keeps: msb goes on, and the next command finds out.

MSB_CACHE_TEST_CUTS says how many moments of each command are tried.
"""

from __future__ import annotations

import os
import random
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from msb_cache import ImageCache
from msb_cache.artifacts.layout import Layout
from msb_cache.artifacts.locks import is_free
from tests.peers.realmsb import Msb, copied, short_home
from tests.peers.test_engine_msb import alike

pytestmark = pytest.mark.peer

CUTS = int(os.environ.get("MSB_CACHE_TEST_CUTS", "2"))

COMMANDS: dict[str, Callable[[ImageCache, Path], object]] = {
    "sync": lambda cache, archives: cache.sync(),
    "remove": lambda cache, archives: cache.remove("alone:1"),
    "prune": lambda cache, archives: cache.prune(),
    "load": lambda cache, archives: cache.load(archives / "next.tar"),
}


@pytest.mark.parametrize("name", list(COMMANDS))
def test_killed_at_a_moment(
    msb: str, prepared: Path, archives: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("MSB_PATH", msb)
    chance = random.Random()
    longest = 0.1
    for number in range(CUTS + 1):
        with short_home() as home:
            copied(prepared, home)
            # The first is not killed: it tells how long the command takes.
            seconds = None if number == 0 else chance.uniform(0, longest)
            began = time.monotonic()
            killed(home, archives, name, seconds)
            longest = time.monotonic() - began if number == 0 else longest
            with ImageCache(home) as cache:
                cache.use("two")  # any command that writes
                for summary in cache.prunes():
                    assert summary.counters.finished_at is not None, seconds
                there = "alone:1" in Msb(msb, home, archives).references()
                assert ("alone:1" in {handle.reference for handle in cache.list()}) == there, seconds
                alike(cache)


def killed(home: Path, archives: Path, name: str, seconds: float | None) -> None:
    """Run a command and kill it after so many seconds, None: not; and let what it started end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # others' threads do not matter to the child
        child = os.fork()
    if child == 0:
        try:
            os.setsid()
            with ImageCache(home) as cache:
                COMMANDS[name](cache, archives)
            os._exit(0)
        finally:
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    deadline = time.monotonic() + 30
    # What msb itself starts may begin a session of its own, and has our operation's lock as msb has.
    while any(in_session(stat, child) for stat in Path("/proc").glob("[0-9]*/stat")) or not all(
        is_free(lock) for lock in Layout(home).operations.glob("*.lock")
    ):
        assert time.monotonic() < deadline, "what it started does not end"
        time.sleep(0.01)


def in_session(stat: Path, session: int) -> bool:
    try:
        state, _, _, found = stat.read_text().rpartition(")")[2].split()[:4]
    except OSError:
        return False
    return int(found) == session and state not in "ZX"
