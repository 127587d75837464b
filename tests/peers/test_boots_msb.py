"""Boots with the real msb: each is a use, seen while its machine runs, when it is killed, and when it ended.

A machine does not come up without virtualisation: after some seconds msb ends it and records that. Here it is
killed a moment after its record appears, as a crash does it.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from msb_cache import ImageCache
from msb_cache.msb import liveness
from msb_cache.msb.database import Asked, read
from msb_cache.msb.liveness import Process
from msb_cache.msb.runs import Cursor, MsbRun
from tests.peers.realmsb import Msb


def rows(real: Msb, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{real.home}/db/msb.db?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


@contextmanager
def running(real: Msb, *words: str) -> Iterator[int]:
    """Start a sandbox; yield its machine's process, which msb has recorded, and kill that in the end."""
    environment = {name: value for name, value in os.environ.items() if name != "MSB_PATH"}
    environment |= {"MSB_HOME": str(real.home), "MSB_BACKEND": "local"}
    before = {number for (number,) in rows(real, "SELECT id FROM run")}
    with subprocess.Popen(
        [real.program, *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as command:
        deadline = time.monotonic() + 60
        new: list[tuple[int, int]] = []
        while not new:
            assert time.monotonic() < deadline, "msb recorded no boot"
            time.sleep(0.02)
            new = [row for row in rows(real, "SELECT id, pid FROM run") if row[0] not in before and row[1]]
        ((_, pid),) = new
        try:
            yield pid
        finally:
            if os.path.exists(f"/proc/{pid}"):
                os.kill(pid, signal.SIGKILL)
            command.wait(timeout=60)


def runs_of(real: Msb) -> tuple[MsbRun, ...]:
    found = read(real.home / "db" / "msb.db", Asked(Cursor())).runs
    assert found is not None
    return found.found


def told(cache: ImageCache, reference: str) -> list[tuple[str, str | None]]:
    """Return the boots of an image, and how they ended."""
    types = ["image.used", "image.use_ended"]
    return [
        (event.type, getattr(event.data, "how", None))
        for event in cache.history(reference, types=types)
        if event.data.run
    ]


def check(real: Msb, cache: ImageCache) -> None:
    """Compare with msb's database, read by other means: who runs, and the last use of each image."""
    newest = rows(
        real,
        "SELECT r.reference, max(r.updated_at, coalesce(max(b.started_at), '')) FROM image_ref r "
        "LEFT JOIN sandbox s ON json_extract(s.config, '$.image.Oci.reference') = r.reference "
        "LEFT JOIN run b ON b.sandbox_id = s.id WHERE r.reference LIKE '%:1' GROUP BY r.reference",
    )
    for reference, at in newest:
        handle = cache.get(reference)
        assert handle.last_used_at is not None
        assert handle.last_used_at.strftime("%Y-%m-%d %H:%M:%S") == at[:19], reference


def test_the_boots_that_msb_recorded_are_adopted(real: Msb, cache: ImageCache) -> None:
    report = cache.sync()
    ended = rows(real, "SELECT s.name, terminated_at FROM run r JOIN sandbox s ON s.id = r.sandbox_id")
    assert len(ended) == 2
    assert [event.type for event in report.events].count("image.use_ended") == 2
    assert told(cache, "app:1") == [("image.used", None), ("image.use_ended", "ended")]
    assert [use.holder for use in cache.uses()] == []
    idle = cache.get("app:1").idle_since
    assert idle is not None
    assert idle.strftime("%Y-%m-%d %H:%M:%S") == dict(ended)["dev"][:19]
    check(real, cache)
    assert {hold.holder: hold.status for hold in cache.holds()} == {
        "sandbox:dev": "Stopped",
        "sandbox:ops": "Stopped",
    }


CREATE = ("create", "app:1", "--name", "boxy", "--root-disk", "256M", "--memory", "64M")


def test_a_start_is_a_use_until_its_machine_is_killed(real: Msb, cache: ImageCache) -> None:
    with running(real, *CREATE):
        pass
    cache.sync()
    before = told(cache, "app:1")
    assert before == [("image.used", None), ("image.use_ended", "ended")] * 2
    with running(real, "start", "boxy") as pid:
        run = runs_of(real)[-1]
        assert run.pid == pid
        found = liveness.find(pid, "boxy", run.started_at_ns)
        assert isinstance(found, Process), "the machine that runs is not taken for it"
        handle = cache.get("app:1")
        assert (handle.in_use_by, handle.in_use_since_ns) == (("sandbox:boxy",), run.started_at_ns)
        assert [image.in_use_by for image in cache.last_used()][-1] == ("sandbox:boxy",)
        check(real, cache)
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert cache.get("app:1").in_use_by == ()
    real("ls")  # which may, or may not, record the end
    assert cache.get("app:1").in_use_by == ()
    assert told(cache, "app:1")[len(before) :] in (
        [("image.used", None), ("image.use_ended", "vanished")],
        [("image.used", None), ("image.use_ended", "ended")],
    )
    check(real, cache)
    assert cache.rebuild() == []


def test_a_sandbox_that_ran_and_is_removed_unseen_is_counted(real: Msb, cache: ImageCache) -> None:
    cache.sync()
    before = told(cache, "app:1")
    with running(real, *CREATE):
        pass
    with running(real, "start", "boxy"):
        pass
    real("rm", "--force", "boxy")
    report = cache.sync()
    assert told(cache, "app:1") == before
    assert report.notes == ("2 boots left no row in msb.db: their sandboxes were removed before a sync",)
    assert [hold.holder for hold in cache.holds("app:1")] == ["sandbox:dev"]


def test_a_sandbox_of_a_folder_holds_and_uses_nothing(real: Msb, cache: ImageCache, tmp_path: Path) -> None:
    cache.sync()
    (tmp_path / "root" / "bin").mkdir(parents=True)
    before = len(rows(real, "SELECT 1 FROM run"))
    with running(real, "create", str(tmp_path / "root"), "--name", "bound", "--memory", "64M"):
        report = cache.sync()
    assert len(rows(real, "SELECT 1 FROM run")) == before + 1
    assert report.events == ()
    assert {hold.holder for hold in cache.holds()} == {"sandbox:dev", "sandbox:ops"}


def test_a_root_in_memory_holds_as_msb_says(real: Msb, cache: ImageCache) -> None:
    words = ("create", "alone:1", "--name", "mem", "--root-disk", "tmpfs:64M", "--memory", "64M")
    with running(real, *words, "--label", "team=infra"):
        cache.sync()
    (hold,) = cache.holds("alone:1")
    assert (hold.holder, hold.root, hold.labels) == ("sandbox:mem", "tmpfs", {})
    real("ls")
    real("image", "rm", "alone:1", fails=True)
    assert "alone:1" in real.references()
