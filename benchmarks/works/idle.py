"""What stays and has nothing to do. The floor is what it may take: a hundredth of a processor, and 40 MiB."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import homes
import timing
from setting import Setting
from table import Measured
from timing import Run

from msb_cache import ImageCache
from msb_cache.engines.digesting import Measured as Read
from msb_cache.engines.digesting import record, stamp
from msb_cache.engines.named_files import NamedFiles
from msb_cache.eventstore.ids import uuid7
from msb_cache.projections.state import load

SHARE, MEMORY = 0.01, 40 << 20
SETTLE = 25.0
"""Seconds after which it has run once, or has looked at all there is, and has given memory back."""

POLICY = """\
[[rule]]
name = "idle"
unused-for = "3000d"

[watermarks]
high = "99.9%"
low = "99.8%"
"""


def gc(
    setting: Setting, *, images: int = 10_000, rounds: int = 3, seconds: float = 10.0, settle: float = SETTLE
) -> Measured:
    with setting.home(images) as home:
        homes.files(home, images)
        (home / "cache-policy.toml").write_text(POLICY)
        with _staying(setting, home, settle, "gc", "--every", "1h") as process:
            return _measured(f"idle `gc --every` of {images:,} images", process, rounds, seconds)


def watch(
    setting: Setting, *, images: int = 10_000, rounds: int = 3, seconds: float = 10.0, settle: float = SETTLE
) -> Measured:
    with setting.home(images) as home:
        homes.files(home, images)
        _digested(home)
        with _staying(setting, home, settle, "watch") as process:
            return _measured(f"idle `watch` of {images:,} images", process, rounds, seconds)


@contextmanager
def _staying(setting: Setting, home: Path, settle: float, *command: str) -> Iterator[int]:
    """Start a command that stays, and give its process's id when it has nothing more to do."""
    process = subprocess.Popen(
        [setting.program, *command],
        env=timing.environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(settle)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _measured(work: str, process: int, rounds: int, seconds: float) -> Measured:
    """Measure so many times for so long; the ratio is the larger of those of its time and its memory."""
    used = []
    for _ in range(rounds):
        before = _cpu(process)
        time.sleep(seconds)
        used.append(_cpu(process) - before)
    ours, most = Run(statistics.median(used), _memory(process)), Run(seconds * SHARE, MEMORY)
    ratio = max(ours.seconds / most.seconds, (ours.memory or 0) / MEMORY)
    return Measured(f"{work}, {seconds:g} s of it", ours, most, None, ratio, 1.0, rounds)


def _cpu(pid: int) -> float:
    """Return the processor time of a process and of its children that have ended, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line[:6] == "VmRSS:"]
    return int(line.split()[1]) << 10


def _digested(home: Path) -> None:
    """Let the log have a digest of every file, as after the days in which `watch` reads them."""
    with ImageCache(home) as cache:
        ledger = cache._ledger
        with ledger.read() as connection:
            assert connection is not None
            named = [*NamedFiles.of(ledger.layout, load(connection))]
        read = []
        for artifact in named:
            path = ledger.layout.artifact(*artifact)
            looks = stamp(path)
            if looks is not None:
                read.append(Read(artifact, path, looks, f"sha256:{'0' * 64}"))
        with ledger.write(uuid7(), owner="any") as transaction:
            record(transaction, {}, read)
