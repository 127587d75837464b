"""Many hosts at once, with processes killed, the server restarted, connections cut, and every log sent twice.

``MSB_CACHE_TEST_FLEET=200x5000x16`` says how many logs, events of each, and processes.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from msb_cache.fleet.admission import init
from tests.fleet.postgres import Server
from tests.fleet.shipping import alerts, asked, grow, host, is_whole
from tests.logs import new_ledger, some_events

LOGS, EVENTS, PROCESSES = map(int, os.environ.get("MSB_CACHE_TEST_FLEET", "12x300x4").split("x"))
SEED = int(os.environ.get("MSB_CACHE_TEST_FLEET_SEED", "1"))
_SHIPS = """
import os, random, sys, time
from msb_cache import FleetError, ImageCache
from msb_cache.fleet import ship

dsn, number, processes, done, *homes = sys.argv[1:]
chosen = random.Random(f"{number} {time.time_ns()}")
ship.BATCH_EVENTS = chosen.choice((7, 50, 400, 5000))
# Each log is sent by two of the processes, and by whichever is started in place of one that was killed.
number, processes = int(number), int(processes)
mine = [home for at, home in enumerate(homes) if number in (at % processes, (at + 1) % processes)]
chosen.shuffle(mine)
for home in mine:
    while True:
        try:
            with ImageCache(home) as cache:
                cache.ship(dsn)
            break
        except FleetError as error:
            if not error.temporary:
                raise
            time.sleep(0.1)
open(done, "w").close()
"""


def _make(home: str, events: int) -> None:
    ledger = new_ledger(Path(home), some_events()[:1])
    for left in range(events - 2, 0, -1000):
        grow(ledger, min(left, 1000), "sandbox:x")
    ledger.close()


class Trouble:
    """Kills processes, restarts the server and cuts connections, until it is ended."""

    def __init__(self, server: Server, admin: str, processes: dict[int, subprocess.Popen[bytes]]) -> None:
        self.server, self.admin, self.processes = server, admin, processes
        self.random = random.Random(SEED)
        self.done = {"killed": 0, "restarted": 0, "cut": 0}
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._make)

    def _make(self) -> None:
        restart = time.monotonic() + 1
        while not self.ended.wait(self.random.uniform(0.05, 0.4)):
            self.done["cut"] += self._cut()
            if self.random.random() < 0.3 and (running := [*self.processes.values()]):
                self.random.choice(running).send_signal(signal.SIGKILL)
                self.done["killed"] += 1
            if time.monotonic() > restart:
                self.server.restart("immediate")
                self.done["restarted"] += 1
                restart = time.monotonic() + self.random.uniform(2, 6)

    def _cut(self) -> int:
        import psycopg

        with suppress(psycopg.Error):
            return len(
                asked(
                    self.admin,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE 'host-%%' "
                    "AND random() < %s",
                    0.5,
                )
            )
        return 0


@pytest.fixture
def homes(tmp_path: Path) -> list[str]:
    found = [str(tmp_path / f"host-{number}") for number in range(LOGS)]
    with ThreadPoolExecutor(min(PROCESSES, os.cpu_count() or 1)) as pool:
        list(pool.map(_make, found, [EVENTS] * LOGS))
    return found


@pytest.mark.slow
def test_nothing_is_lost_doubled_or_reordered(
    postgres: Server, admin: str, homes: list[str], tmp_path: Path
) -> None:
    init(admin)
    dsn = host(admin, LOGS)
    processes: dict[int, subprocess.Popen[bytes]] = {}
    trouble = Trouble(postgres, admin, processes)
    began = time.monotonic()

    def start(number: int) -> None:
        done = tmp_path / f"done-{number}"
        command = [sys.executable, "-c", _SHIPS, dsn, str(number), str(PROCESSES), str(done), *homes]
        processes[number] = subprocess.Popen(command)

    for number in range(PROCESSES):
        start(number)
    trouble.thread.start()
    try:
        # All of them troubled for a while; then, so that it ends, the rest in peace.
        patience = began + max(5, LOGS * EVENTS / 8000)
        while processes:
            for number, process in [*processes.items()]:
                code = process.poll()
                if code is None:
                    continue
                assert code in (0, -signal.SIGKILL)
                del processes[number]
                if not (tmp_path / f"done-{number}").exists():
                    start(number)
            if time.monotonic() > patience and not trouble.ended.is_set():
                trouble.ended.set()
                trouble.thread.join()
            time.sleep(0.02)
    finally:
        trouble.ended.set()
        trouble.thread.join()
        for process in processes.values():
            process.kill()
            process.wait()
    seconds = time.monotonic() - began
    print(f"{LOGS} logs, {LOGS * EVENTS} events, {PROCESSES} processes, {seconds:.1f} s, {trouble.done}")
    assert trouble.done["killed"]
    assert trouble.done["restarted"]
    wrong = [home for home in homes if not is_whole(admin, home)]
    assert wrong == []
    assert asked(admin, "SELECT count(*), sum(size)::bigint FROM msb_cache.head") == [(LOGS, LOGS * EVENTS)]
    assert asked(admin, "SELECT count(*) FROM msb_cache.events") == [(LOGS * EVENTS,)]
    assert alerts(dsn, admin) == []
