"""A power loss at any moment, by what POSIX promises and by what ext4 does: nothing is lost, nothing leaks.

The suite tries a few states of two scenarios by chance. MSB_CACHE_TEST_CUTS=100 tries every scenario: power
losses after so many of its operations, and after it was killed at up to so many steps and system calls, and
recovered.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.registry_server import RegistryServer
from tests.reliability.killing import Bench, spread
from tests.reliability.power import Mode, Recording
from tests.reliability.scenarios import ONE, SCENARIOS, SETTINGS

CUTS = int(os.environ.get("MSB_CACHE_TEST_CUTS", "2"))
SEED = int(os.environ.get("MSB_CACHE_TEST_SEED", str(random.randrange(1 << 32))))
NAMING = ["rename", "link", "unlink", "unlinkat", "mkdir", "rmdir", "fsync"]
"""System calls before which a process may be killed while names are not durable yet."""

MODES: tuple[Mode, ...] = ("strict", "ordered")


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    """Yield a reference to an image in a registry on this machine."""
    with RegistryServer() as server:
        yield server.add(ONE)


@pytest.fixture
def chance() -> random.Random:
    print(f"MSB_CACHE_TEST_SEED={SEED}")  # shown when a test fails
    return random.Random(SEED)


def try_states(
    bench: Bench, recording: Recording, cuts: list[int], chance: random.Random, where: str
) -> None:
    """Check states that a power loss leaves after so many operations."""
    for cut in cuts:
        for mode in MODES:
            seed = chance.randrange(1 << 40)
            lost = bench.after(recording, cut, mode, random.Random(seed))
            end = len(recording.operations)
            bench.check(lost, f"{where}, power lost after {cut} of {end} operations, {mode} {seed}")


EACH = pytest.mark.parametrize(
    "name", SCENARIOS if CUTS > 10 else [None, None], ids=lambda name: name or "any"
)
"""Each scenario, or where only a few states are tried, any two: recording one takes a second or two."""


@pytest.fixture
def bench(name: str | None, tmp_path: Path, registry: str, chance: random.Random) -> Bench:
    chosen = name or chance.choice([*SCENARIOS])
    return Bench(chosen, tmp_path / "bench", lambda folder: (folder / SETTINGS).write_text(registry))


@EACH
def test_power_is_lost(bench: Bench, chance: random.Random, require_peer: Callable[[str], str]) -> None:
    recording = bench.recorded(require_peer("strace"))
    end = len(recording.operations)
    try_states(bench, recording, [*(chance.randint(0, end) for _ in range(CUTS)), end], chance, "not killed")


@EACH
def test_power_is_lost_behind_a_recovery(
    bench: Bench, chance: random.Random, require_peer: Callable[[str], str]
) -> None:
    """What recovery undid and finished is durable before what remembers it goes."""
    step = chance.randint(1, len(bench.steps))
    for at in [step] if CUTS <= 10 else places(bench, require_peer("strace"), chance):
        recording, begin = bench.recorded_recovery(require_peer("strace"), at)
        where = f"killed at {f'{bench.steps[at - 1]} ({at})' if isinstance(at, int) else at}"
        end = len(recording.operations)
        try_states(bench, recording, [chance.randint(begin, end), end], chance, where)


def places(bench: Bench, strace: str, chance: random.Random) -> Iterator[int | tuple[str, int]]:
    """Yield steps and system calls at which to kill: as many of each as states are tried."""
    yield from spread(CUTS, len(bench.steps), chance)
    calls = bench.calls(strace, NAMING)
    points = [(call, number) for call, count in calls.items() for number in range(1, count + 1)]
    yield from points if len(points) <= CUTS else chance.sample(points, CUTS)


PROGRAM = """
import os, sys
os.chdir("/")
def path(name): return os.path.join(sys.argv[1], name)
def sync(name):
    descriptor = os.open(path(name), os.O_RDONLY); os.fsync(descriptor); os.close(descriptor)
def write(name, data):
    with open(path(name), "wb") as file: file.write(data)
write("unsynced", b"u" * 2048)
write("content", b"c" * 2048); sync("content")
write("both", b"b" * 2048); sync("both"); sync(".")
write("new", b"n" * 2048); os.rename(path("new"), path("old"))
os.mkdir(path("folder")); write("folder/below", b""); sync("folder/below"); sync("folder")
os.unlink(path("gone"))
os.writev(1, [b"."])
"""


def test_what_a_power_loss_may_leave(tmp_path: Path, require_peer: Callable[[str], str]) -> None:
    """States that the model makes of a few operations: all that may be left, and nothing else."""
    root = tmp_path / "recorded"
    root.mkdir()
    (root / "old").write_bytes(b"o")
    (root / "gone").write_bytes(b"g")
    recording = Recording(root)
    recording.run(require_peer("strace"), [sys.executable, "-c", PROGRAM, str(root)])
    recording.check()
    end = len(recording.operations)
    assert (recording.acknowledged(end), recording.acknowledged(end - 1)) == (1, 0)

    written = [*["unsynced", "content", "both", "new", "old", "folder", "folder/below", "gone"]]
    for mode in MODES:
        trees = [recording.crash(end, mode, random.Random(seed)) for seed in range(1000)]
        left = {name: {tree.get(name, "absent") for tree in trees} for name in written}
        # A sync of the folder came after these; what was not synced can be without content.
        assert left["both"] == {b"b" * 2048}
        assert left["content"] == {b"c" * 2048}
        assert {b"", b"u" * 2048} <= left["unsynced"]
        assert "absent" not in left["unsynced"]
        assert left["gone"] == {b"g", "absent"}
        if mode == "strict":
            assert left["folder"] == {None, "absent"}
            assert left["folder/below"] == {b"", "absent"}
            assert {b"o", b"", b"n" * 2048} < left["old"]
            lengths = {content.count(b"n") for content in left["old"] if isinstance(content, bytes)}
            assert lengths == {0, 512, 1024, 1536, 2048}
            assert {"absent", b"n" * 2048} < left["new"]
        else:  # the last sync has committed all names before it
            assert left["folder/below"] == {b""}
            assert left["old"] == {b"", b"n" * 2048}
            assert left["new"] == {"absent"}
    (root / "old").write_bytes(b"x")
    with pytest.raises(AssertionError):
        recording.check()  # something happened that was not recorded
