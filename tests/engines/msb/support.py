"""What the tests of a home that msb keeps ask of it."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from msb_cache import DataRequest, ImageCache, SyncReport
from msb_cache import failpoints as steps
from tests.fakemsb import FakeMsb


def at(step: str, action: Callable[[], object]) -> None:
    """Do something once, when a step is reached."""
    done: list[str] = []

    def observer(reached: str) -> None:
        if reached == step and not done:
            done.append(step)
            action()

    steps.observer = observer


def forked(action: Callable[[], object], observer: Callable[[str], None] | None = None) -> int:
    """Begin something in a forked process, which may be observed; return the process's id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # xdist's threads do not matter to the child
        child = os.fork()
    if child == 0:
        code = 1
        try:
            steps.observer = observer
            action()
            code = 0
        finally:
            os._exit(code)
    return child


class Kill:
    """An observer that kills the process at the n-th step, from 0, of those from ``begin`` on."""

    def __init__(self, begin: str, number: int) -> None:
        self._begin, self._left = begin, number
        self._begun = False

    def __call__(self, step: str) -> None:
        self._begun = self._begun or step == self._begin
        if self._begun:
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self._left -= 1


def lease(artifact: Path) -> Path:
    """Return the lock that msb takes for an artifact, shared to use it, alone to delete it."""
    name = sha256(artifact.name.encode()).hexdigest()
    return artifact.parent / ".msb-leases" / f"{name}.lock"


def age(home: Path, seconds: float = 7200) -> None:
    """Let every artifact in a home's cache be that old."""
    now = time.time()
    for name in files_of(home):
        os.utime(home / "cache" / name, (now - seconds,) * 2)


def files_of(home: Path) -> dict[str, int]:
    """Return the artifacts in a home's cache, and their sizes in bytes."""
    cache = home / "cache"
    return {
        str(path.relative_to(cache)): path.stat().st_size
        for folder in ("manifests", "layers", "fsmeta", "vmdk")
        for path in (cache / folder).glob("*")
        if path.suffix in (".erofs", ".vmdk", ".json")
    }


def check(cache: ImageCache, fake: FakeMsb) -> None:
    """Both indexes have the same images and holds, the log is sound, and no needed file is missing."""
    assert cache.sync(force=True) == SyncReport()
    theirs = fake.rows("SELECT reference, digest FROM image_ref JOIN manifest m ON m.id = manifest_id")
    assert {handle.reference: handle.manifest_digest for handle in cache.list()} == dict(theirs)
    held = fake.rows(
        "SELECT 'sandbox:' || name, digest FROM sandbox_rootfs JOIN sandbox s ON s.id = sandbox_id "
        "JOIN manifest m ON m.id = manifest_id"
    )
    assert {(hold.holder, hold.manifest_digest) for hold in cache.holds()} == set(held)
    assert cache.rebuild() == []
    found = cache.verify()
    assert found.sound
    # The fake's flat roots are not named by their bytes.
    read = cache.verify(data=DataRequest()).disk
    assert [each for each in read if each.problem == "altered" and each.kind != "flat"] == []
    assert not [problem for problem in found.disk if problem.problem not in ("extra", "leftover")]
    for summary in cache.prunes():
        assert summary.counters.finished_at is not None


def operation_of(cache: ImageCache, operation: str | None) -> list[tuple[str, str]]:
    """Return type and subject of an operation's events; the log says that this process did them."""
    assert operation is not None
    events = cache.events(operation=operation)
    assert not [event for event in events if event.actor.observed]
    return [(event.type, event.subject) for event in events]


def outcomes(cache: ImageCache, operation: str | None) -> dict[tuple[str, str], str]:
    """Return what became of each artifact: the outcome, and the reason if there is one."""
    assert operation is not None
    return {
        (artifact.kind, artifact.subject): " ".join(filter(None, (artifact.outcome, artifact.reason)))
        for artifact in cache.prune_report(operation).artifacts
    }
