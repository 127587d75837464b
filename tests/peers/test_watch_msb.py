"""watch beside the real msb: who removed each image is named, or it is said who saw it; never another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import PROGRAM
from tests.imagebuilder import docker_archive, file, image, layer
from tests.moving import settle
from tests.msb.conftest import needs_fanotify
from tests.peers.realmsb import BASE, short_home

pytestmark = [pytest.mark.peer, needs_fanotify]

REMOVALS = int(os.environ.get("MSB_CACHE_TEST_REMOVALS", "12"))
"""100 and more are for a machine that does nothing else meanwhile."""
ALICE, BOB = 4242, 4343  # users without an account


class Users:
    """msb run by several users in one home in which everybody may write."""

    def __init__(self, program: Path, home: Path) -> None:
        self.program, self.home = program, home

    def __call__(self, *arguments: str, user: int = 0) -> None:
        environment = {"MSB_HOME": str(self.home), "MSB_BACKEND": "local", "HOME": str(self.home)}
        subprocess.run(
            [self.program, *arguments],
            env=environment,
            user=user,
            group=user,
            extra_groups=[],
            umask=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=60,
        )


@pytest.fixture
def users(msb: str) -> Iterator[Users]:
    """A home with images, and an msb that other users may run as well."""
    with short_home() as home:
        home.parent.chmod(0o755)
        found = Users(Path(msb), home)
        built = [
            image([BASE, layer([file("app", b"app%d" % number)])], f"app{number}:1")
            for number in range(REMOVALS)
        ]
        archive = home.parent / "all.tar"
        archive.write_bytes(docker_archive(*built))
        found("load", "-q", "-i", str(archive))
        for path in (home, *home.rglob("*")):
            path.chmod(0o777)
        settle(home)
        yield found


class Watched:
    """What ``msb-cache watch`` prints, as it prints it."""

    def __init__(self, home: Path) -> None:
        command = [str(PROGRAM), "--home", str(home), "watch", "--format", "json"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.events: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.events.append(json.loads(line))

    def removed(self) -> dict[str, dict[str, Any]]:
        return {each["subject"]: each["actor"] for each in self.events if each["type"] == "image.removed"}

    def wait_for(self, there: Callable[[], bool], seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while not there():
            assert time.monotonic() < until, self.events[-3:]
            assert self._process.poll() is None
            time.sleep(0.005)

    def end(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(20)
        self._thread.join(20)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._process.stdout.close()
        with self._process.stderr as stderr:
            assert (code, stderr.read()) == (0, "")


@contextmanager
def watching(home: Path) -> Iterator[Watched]:
    watched = Watched(home)
    try:
        # What is there was recorded; the next look begins a window.
        watched.wait_for(lambda: len([e for e in watched.events if e["type"] == "image.pulled"]) == REMOVALS)
        time.sleep(0.6)
        yield watched
    finally:
        watched.end()


@contextmanager
def over_and_over(*actions: Callable[[], object]) -> Iterator[None]:
    """Do each of these in a thread of its own until the block ends."""
    ended = threading.Event()

    def repeat(action: Callable[[], object]) -> None:
        while not ended.is_set():
            action()

    threads = [threading.Thread(target=repeat, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def test_who_removed_an_image_is_named(users: Users) -> None:
    with watching(users.home) as watched:
        for number in range(REMOVALS):
            users("image", "rm", f"app{number}:1", user=ALICE)
            watched.wait_for(lambda count=number + 1: len(watched.removed()) == count)  # type: ignore[misc]
        removed = watched.removed().values()
    named = [actor for actor in removed if "seen_by" in actor]
    assert {(actor["uid"], actor["program"]) for actor in named} == {(ALICE, "msb image rm")}
    assert {actor["observed"] for actor in removed} == {True}
    assert len(named) >= REMOVALS - max(1, REMOVALS // 20)


def test_beside_others_no_one_else_is_named(users: Users) -> None:
    sync = [str(PROGRAM), "--home", str(users.home), "sync"]
    with (
        watching(users.home) as watched,
        over_and_over(
            lambda: users("ls", user=BOB),
            lambda: (subprocess.run(sync, capture_output=True, check=False), time.sleep(0.5)),
        ),
    ):
        for number in range(REMOVALS):
            users("image", "rm", f"app{number}:1", user=ALICE)
        watched.wait_for(lambda: len(watched.removed()) == REMOVALS)
        removed = watched.removed()
    told = {(actor["uid"], actor["program"]) for actor in removed.values() if "seen_by" in actor}
    assert told <= {(ALICE, "msb image rm")}
