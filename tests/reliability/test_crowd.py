"""Eight processes, or threads, do everything at once in one home: only documented errors, and all whole then.

MSB_CACHE_TEST_CROWD_SECONDS=30 lets them work longer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from msb_cache import ImageCache
from tests.registry_server import RegistryServer
from tests.reliability.crowd import share
from tests.reliability.killing import ROOT
from tests.reliability.scenarios import ONE, check_whole, write_archives

SECONDS = float(os.environ.get("MSB_CACHE_TEST_CROWD_SECONDS", "3"))
PROCESSES = THREADS = 8


def test_a_crowd(tmp_path: Path) -> None:
    home = tmp_path / "home"
    write_archives(tmp_path)
    with RegistryServer() as registry:
        remote = registry.add(ONE)
        crowd = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.reliability.crowd"),
                    *(str(home), str(tmp_path), remote, str(number), str(SECONDS)),
                ],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(PROCESSES)
        ]
        said = [json.loads(process.communicate(timeout=SECONDS + 120)[0]) for process in crowd]
    check_crowd(home, said)


def test_a_crowd_of_threads_with_one_cache(tmp_path: Path) -> None:
    home = tmp_path / "home"
    write_archives(tmp_path)
    with RegistryServer() as registry, ImageCache(home) as cache, ThreadPoolExecutor(THREADS) as pool:
        remote = registry.add(ONE)
        records = pool.map(
            lambda number: share(cache, tmp_path, remote, str(number), SECONDS), range(THREADS)
        )
        said = [vars(record) for record in records]
    check_crowd(home, said)


def check_crowd(home: Path, said: list[dict[str, Any]]) -> None:
    """Check that only documented errors were met, and that nothing is left when all is released."""
    done, met = Counter[str](), Counter[str]()
    for each in said:
        assert each["others"] == []
        done.update(each["done"])
        met.update(each["met"])
    print(f"{sum(done.values())} commands: {dict(done)}; met: {dict(met)}")
    assert sum(done.values()) > 0
    with ImageCache(home) as cache:
        assert cache.rebuild() == []
        for holder in {hold.holder for hold in cache.holds()}:
            cache.release(holder)
        cache.prune(orphans=True)
        assert cache.list() == []
    check_whole(home)
    left = [
        path
        for folder in ("layers", "fsmeta", "vmdk", "manifests")
        for path in (home / "cache" / folder).iterdir()
    ]
    assert left == []
