"""Killed, stopped or failing at any step, moment or system call: nothing is lost, nothing leaks, all goes on.

The suite runs a few of each by chance. MSB_CACHE_TEST_CUTS=500 runs up to so many of each kind and scenario.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.support import PROGRAM
from tests.registry_server import RegistryServer
from tests.reliability.killing import CHANGING, WRITING, Bench, spread
from tests.reliability.scenarios import ONE, SCENARIOS, SETTINGS

CUTS = int(os.environ.get("MSB_CACHE_TEST_CUTS", "2"))
SEED = int(os.environ.get("MSB_CACHE_TEST_SEED", str(random.randrange(1 << 32))))


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    """Yield a reference to an image in a registry on this machine."""
    with RegistryServer() as server:
        yield server.add(ONE)


@pytest.fixture(scope="module", params=list(SCENARIOS))  # preparing one takes longer than cutting it short
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, registry: str) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    return Bench(request.param, folder, lambda folder: (folder / SETTINGS).write_text(registry))


@pytest.fixture
def chance() -> random.Random:
    print(f"MSB_CACHE_TEST_SEED={SEED}")  # shown when a test fails
    return random.Random(SEED)


def test_killed_at_a_step(bench: Bench, chance: random.Random) -> None:
    for number in spread(CUTS, len(bench.steps), chance):
        cut = bench.at_step(number)
        assert cut.short
        bench.check(cut, f"step {number}, {bench.steps[number - 1]}")


def test_killed_at_a_moment(bench: Bench, chance: random.Random) -> None:
    for _ in range(CUTS):
        seconds = chance.uniform(0, bench.seconds * 1.2)
        bench.check(bench.at_moment(seconds), f"{seconds:.6f} s")


def test_killed_at_a_system_call(
    bench: Bench, chance: random.Random, require_peer: Callable[[str], str]
) -> None:
    strace = require_peer("strace")
    points = _points(bench.calls(strace, CHANGING), chance)
    for call, number in points:
        cut = bench.at_call(strace, call, number)
        bench.check(cut, f"{call} number {number}")


def test_a_full_disk_at_a_system_call(
    bench: Bench, chance: random.Random, require_peer: Callable[[str], str]
) -> None:
    strace = require_peer("strace")
    for call, number in _points(bench.calls(strace, WRITING), chance):
        cut = bench.failing(strace, call, number, "ENOSPC")
        where = f"no space from {call} number {number} on"
        bench.check(cut, where)
        assert "Traceback" not in cut.said, where
        assert not cut.short or "rror: " in cut.said, where


def test_a_system_call_that_fails_once(
    bench: Bench, chance: random.Random, require_peer: Callable[[str], str]
) -> None:
    strace = require_peer("strace")
    for call, number in _points(bench.calls(strace, CHANGING), chance):
        cut = bench.failing_once(strace, call, number, "EIO")
        where = f"an I/O error of {call} number {number}"
        assert "Traceback" not in cut.said, where
        assert not cut.short or "rror: " in cut.said, where
        bench.check(cut, where)


def test_stopped_at_a_system_call(
    bench: Bench, chance: random.Random, require_peer: Callable[[str], str]
) -> None:
    strace = require_peer("strace")
    if random.Random(f"{SEED} {bench.name}").random() > CUTS / 10:
        pytest.skip("a stop takes seconds: in the suite a fifth of the scenarios are tried, others each time")
    for call, number in _points(bench.calls(strace, CHANGING), chance):
        cut = bench.stopping(strace, call, number, _answers_or_says_what_it_waits_for)
        where = f"stopped at {call} number {number}"
        assert not cut.short, (where, cut)
        bench.check(cut, where)


def _answers_or_says_what_it_waits_for(home: Path) -> None:
    """List images beside a stopped process: there is an answer, or a note and an end at Ctrl-C."""
    reader = subprocess.Popen(
        [PROGRAM, "--home", home, "list", "-q"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    )
    try:
        try:
            _, said = reader.communicate(timeout=4)
        except subprocess.TimeoutExpired:
            reader.send_signal(signal.SIGINT)
            _, said = reader.communicate(timeout=10)
            assert reader.returncode == 130, said
            assert "waiting" in said
        else:
            assert reader.returncode == 0, said
    finally:
        reader.kill()


def _points(calls: dict[str, int], chance: random.Random) -> list[tuple[str, int]]:
    points = [(call, number) for call, count in sorted(calls.items()) for number in range(1, count + 1)]
    return points if len(points) <= CUTS else chance.sample(points, CUTS)


def test_a_rebuild_that_is_killed_leaves_nothing_that_was_taken_of_the_wrong_index(tmp_path: Path) -> None:
    """The next rebuild finds an index that is right, so it would leave wrong snapshots for good."""
    bench = Bench("rebuild of a wrong index", tmp_path)
    assert {"rebuild.compared", "rebuild.forgot", "log.committing", "log.committed"} <= set(bench.steps)
    for number, step in enumerate(bench.steps, start=1):
        bench.check(bench.at_step(number), f"step {number}, {step}")
