"""Eight processes do everything at once in one home: only documented errors, and everything whole in the end.

MSB_CACHE_TEST_CROWD_SECONDS=30 lets them work longer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from msb_cache import ImageCache
from tests.registry_server import RegistryServer
from tests.reliability.killing import ROOT
from tests.reliability.scenarios import ONE, check_whole, write_archives

SECONDS = float(os.environ.get("MSB_CACHE_TEST_CROWD_SECONDS", "3"))
PROCESSES = 8


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
