"""A small disk on which what comes has no room until some is made, while others fill it, or it is killed."""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msb_cache import BoundNotKeptError, ImageCache, MicrosandboxError
from msb_cache.oci.registry.options import RegistryOptions
from tests.engines.interrupting import in_a_child
from tests.imagebuilder import BuiltImage, docker_archive, file, image, layer
from tests.registry_server import RegistryServer
from tests.reliability.scenarios import check_whole
from tests.reliability.smalldisk import SmallDisk, ext4

DAY = 86400 * 10**9
MIB = 1 << 20
FAST = RegistryOptions(timeout=5, retries=1, backoff=0.01)
POLICY = '[[rule]]\nname = "idle"\nunused-for = "1h"\n'


@functools.cache
def built(name: str, mib: int) -> BuiltImage:
    """An image of so many MiB, whose blob has some three eighths of that, as those of real images have."""
    noise = random.Random(zlib.crc32(name.encode())).randbytes(mib * MIB)
    noise = noise.translate(bytes(byte & 7 for byte in range(256)))
    return image([layer([file(name, noise)], "gzip")], f"{name}:1")


@pytest.fixture
def disk(tmp_path: Path, require_peer: Callable[[str], str]) -> Iterator[SmallDisk]:
    require_peer("root")
    with ext4(tmp_path / "disk", 4096, mib=16) as mounted:
        yield mounted


@pytest.fixture
def server() -> Iterator[RegistryServer]:
    with RegistryServer() as running:
        yield running


@pytest.fixture
def home(disk: SmallDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four images of a MiB, idle for 4 to 1 days, on a disk that has not much more left."""
    home = disk.folder / "home"
    for number in range(4):
        path = tmp_path / f"{number}.tar"
        path.write_bytes(docker_archive(built(f"old{number}", 1)))
        ago = (4 - number) * DAY
        with ImageCache(home, clock=lambda ago=ago: time.time_ns() - ago) as cache:
            cache.load(path)
    config = tmp_path / "config"
    (config / "msb-cache").mkdir(parents=True)
    (config / "msb-cache/policy.toml").write_text(POLICY)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config))
    subprocess.run(["sync", "--file-system", home], check=True)
    disk.fill(5 * MIB // 4)
    return home


def names(home: Path) -> list[str]:
    with ImageCache(home) as cache:
        return sorted(handle.reference for handle in cache.list())


def test_a_pull_that_does_not_fit_fits_when_room_is_made(home: Path, server: RegistryServer) -> None:
    reference = server.add(built("new", 2))
    with ImageCache(home) as cache:
        with pytest.raises(OSError, match="No space"):
            cache.pull(reference, options=FAST)
        said: list[str] = []
        cache.pull(reference, options=FAST, make_room=True, note=said.append)
    assert said[0].startswith("makes room: ")
    assert reference in names(home)
    assert "old0:1" not in names(home)
    check_whole(home)


def test_what_is_in_use_never_goes(home: Path, server: RegistryServer) -> None:
    reference = server.add(built("new", 2))
    with ImageCache(home) as cache:
        for number in range(4):
            cache.hold(f"old{number}:1", f"sandbox:{number}")
        with pytest.raises(BoundNotKeptError, match="too little"):
            cache.pull(reference, options=FAST, make_room=True)
        assert len(cache.list()) == 4
        assert cache.events(reverse=True, limit=1)[0].type == "image.pull_failed"
    check_whole(home)


def test_far_more_than_was_expected(home: Path, disk: SmallDisk, tmp_path: Path) -> None:
    """Zeros become a thousand times their blob: the disk is full before that is known."""
    zeros = image([layer([file("zeros", bytes(3 * MIB))], "gzip")], "zeros:1")
    path = tmp_path / "zeros.tar"
    path.write_bytes(docker_archive(zeros))
    with ImageCache(home) as cache:
        with pytest.raises(OSError, match="No space"):
            cache.load(path)
        cache.load(path, make_room=True)
    assert "zeros:1" in names(home)
    check_whole(home)


def test_far_more_than_may_go(home: Path, disk: SmallDisk, tmp_path: Path) -> None:
    zeros = image([layer([file("zeros", bytes(9 * MIB))], "gzip")], "zeros:1")
    path = tmp_path / "zeros.tar"
    path.write_bytes(docker_archive(zeros))
    with ImageCache(home) as cache:
        cache.hold("old3:1", "sandbox:dev")
        with pytest.raises(BoundNotKeptError, match="too little"):
            cache.load(path, make_room=True)
    assert "old3:1" in names(home)
    assert os.listdir(home / "cache/tmp") == []
    check_whole(home)


def test_another_process_takes_what_comes_free(home: Path, disk: SmallDisk, server: RegistryServer) -> None:
    """It ends, with the image or with an error, and the cache is whole."""
    reference = server.add(built("new", 2))
    with disk.taken_up(), ImageCache(home) as cache, pytest.raises((MicrosandboxError, OSError)):
        cache.pull(reference, options=FAST, make_room=True)
    disk.empty()
    check_whole(home)
    with ImageCache(home) as cache:
        cache.pull(reference, options=FAST, make_room=True)
    assert reference in names(home)


@pytest.mark.parametrize(
    ("step", "which"),
    [
        ("delete.decided", 1),
        ("delete.unlinked", 2),
        ("room.made", 1),
        ("add.layer", 1),
        ("add.staged", 1),
        ("room.made", 2),
        ("add.journaled", 1),
        ("add.published", 1),
    ],
)
def test_killed_between_the_deletion_and_the_end(home: Path, tmp_path: Path, step: str, which: int) -> None:
    """The next writer makes it whole, nothing is left over, and the same again succeeds."""
    (tmp_path / "new.tar").write_bytes(docker_archive(built("new", 2)))
    count = 0

    def kill(reached: str) -> None:
        nonlocal count
        count += reached == step
        if count == which:
            os.kill(os.getpid(), signal.SIGKILL)

    def load(cache: ImageCache, folder: Path) -> None:
        cache.load(folder / "new.tar", make_room=True)

    assert in_a_child(home, load, tmp_path, kill) == signal.SIGKILL
    with ImageCache(home) as cache:
        cache.release("sandbox:nobody")
    check_whole(home)
    left = names(home)
    assert "new:1" not in left
    assert "old3:1" in left
    with ImageCache(home) as cache:
        load(cache, tmp_path)
    assert "new:1" in names(home)
    assert {*left} - {*names(home)} <= {"old0:1", "old1:1"}
    check_whole(home)
