"""A real file system that is full: a clear sentence, the cache as before, and all goes on once there is room.

Every single write is tried in ``test_killed.py``, where strace lets it fail; here the kernel says it, and the
space that is left varies.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msb_cache import ImageCache
from tests.cli.support import execute, sentence
from tests.imagebuilder import docker_archive, file, image, layer
from tests.reliability.scenarios import LONE, check_whole, index_of

BIG = image([layer([file(f"file{n}", os.urandom(40_000)) for n in range(12)])], "big:1")
MOST = 8 << 20
ROOMS = [kib << 10 for kib in (0, 8, 40, 72, 160, 300, 600, 1000, 3000)]


@pytest.fixture
def small(tmp_path: Path, require_peer: Callable[[str], str]) -> Iterator[Path]:
    """Mount a file system of 8 MiB."""
    require_peer("root")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={MOST}", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def leave(folder: Path, room: int) -> Path:
    """Fill a file system up to so many bytes."""
    filler = folder / "filler"
    space = os.statvfs(folder)
    with filler.open("wb") as out:
        os.posix_fallocate(out.fileno(), 0, max(1, space.f_bavail * space.f_frsize - room))
    return filler


@pytest.mark.parametrize("command", ["load", "use", "prune", "import", "export"])
def test_full(small: Path, tmp_path: Path, command: str) -> None:
    home = small / "home"
    (tmp_path / "big.tar").write_bytes(docker_archive(BIG))
    (tmp_path / "lone.tar").write_bytes(docker_archive(LONE))
    with ImageCache(home) as cache:
        cache.load(tmp_path / "lone.tar")
        cache.export(tmp_path / "log.jsonl")
    arguments: dict[str, tuple[object, ...]] = {
        "load": ("--home", home, "load", tmp_path / "big.tar"),
        "use": ("--home", home, "use", "lone:1"),
        "prune": ("--home", home, "prune", "--yes"),
        "import": ("--home", small / "other", "import", tmp_path / "log.jsonl"),
        "export": ("--home", home, "export", "-o", small / "out.jsonl"),
    }
    before = index_of(home)
    failures = 0
    for room in ROOMS:
        filler = leave(small, room)
        done = execute(*arguments[command])
        if done.code != 0:
            failures += 1
            assert done.code == 1
            said = sentence(done.err)
            assert "make room" in said or "has room" in said, said
            assert str(small) in said, said
        filler.unlink()
        if done.code != 0 and command != "prune":  # a prune may have decided, and is finished later
            assert index_of(home) == before
        with ImageCache(home) as cache:
            cache.release("sandbox:nobody")
        check_whole(home)
        if done.code == 0:
            break
    assert failures > 0
    assert done.code == 0, "it never had room enough"
