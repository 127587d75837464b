"""A small file system of its own that can be filled, also by a process that takes all that comes free."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from msb_cache.errors import MicrosandboxError


class SmallDisk:
    """A mounted file system, and the file that fills it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def free(self) -> int:
        space = os.statvfs(self.folder)
        return space.f_bavail * space.f_frsize

    def fill(self, room: int) -> None:
        """Leave so many bytes, or up to a block less."""
        with self._filler.open("ab") as filler:
            descriptor, step = filler.fileno(), 1 << 20
            while step >= 512:
                try:
                    os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, step)
                except OSError:
                    step //= 2
            os.ftruncate(descriptor, os.fstat(descriptor).st_size - room)
            os.fsync(descriptor)  # what was cut off comes free with that
        assert self.free() <= room + 4096

    def empty(self) -> None:
        self._filler.unlink()

    @contextmanager
    def taken_up(self) -> Iterator[None]:
        """Have a process take all that comes free as long as the block runs."""
        child = _fork()
        if child == 0:
            with self._filler.open("ab", buffering=0) as filler:
                while True:
                    for size in (1 << 16, 1 << 12, 1 << 10):
                        try:
                            while True:
                                filler.write(bytes(size))
                        except OSError:
                            pass
        try:
            yield
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@contextmanager
def ext4(folder: Path, block: int, *, mib: int = 12) -> Iterator[SmallDisk]:
    """Mount an empty ext4 of its own on a folder, with blocks of so many bytes."""
    folder.mkdir()
    image = folder.with_name(f"{folder.name}.img")
    with image.open("wb") as file:
        file.truncate(mib << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-b", str(block), "-m", "0", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, folder], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        image.unlink()


def in_child(action: Callable[[], object]) -> Any:
    """Return what an action returned in a process of its own, which could die of a signal; or what it said.

    What it returns must fit into JSON. A refusal is the text of its error. Anything else that goes wrong, or
    a signal, fails the test; an exit without a word returns nothing.
    """
    reading, writing = os.pipe()
    child = _fork()
    if child == 0:
        code = 1
        try:
            try:
                result: object = [action()]
            except (MicrosandboxError, OSError) as error:
                result = str(error)
            os.write(writing, json.dumps(result).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    status = os.waitpid(child, 0)[1]
    assert status == 0, f"it ended with status {status}"
    result = json.loads(said or b"[null]")
    return result if isinstance(result, str) else result[0]


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # others' threads do not matter to the child
        return os.fork()
