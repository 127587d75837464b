"""The compressed bytes of a layer that have arrived so far, kept in a file so that a download can go on.

Not for deciding what is right in them: a partial file is only ever a beginning that still has to be hashed.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from msb_cache import ownership

_SHARED = stat.S_ISGID | stat.S_IWGRP


def path_of(folder: Path, digest: str) -> Path:
    """Return where the bytes of a blob lie that have arrived."""
    return folder / f"{digest.partition(':')[2]}.partial"


class Partial:
    """An open and locked ``<hex>.partial``; ``size`` is how many of the blob's first bytes it holds."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._deleted = False
        self.size = os.fstat(descriptor).st_size

    @classmethod
    def open(cls, folder: Path, digest: str, limit: int) -> Partial | None:
        """Open or create a blob's file, or None while another process downloads the same blob into it.

        More than ``limit`` bytes cannot be this blob's beginning and are dropped.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # As in the cache's other folders: setgid and writable, so a group shares it on purpose.
        mode = 0o660 if folder.stat().st_mode & _SHARED == _SHARED else 0o600
        path = path_of(folder, digest)
        while True:
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = ownership.open_file(path, flags, mode)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise FileExistsError(17, "a partial download is not a regular file", str(path))
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _same(path, descriptor):
                    found = os.fstat(descriptor)
                    if os.geteuid() in (0, found.st_uid) and stat.S_IMODE(found.st_mode) != mode:
                        os.fchmod(descriptor, mode)
                    partial = cls(path, descriptor)
                    if partial.size > limit:
                        partial.truncate(0)
                    return partial
            except BlockingIOError:
                os.close(descriptor)
                return None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # it was deleted before it was locked

    def read(self, size: int, position: int) -> bytes:
        """Up to ``size`` stored bytes from a position on; none where the file ends."""
        return os.pread(self._descriptor, min(size, max(self.size - position, 0)), position)

    def write(self, data: bytes, position: int) -> None:
        """Store the bytes from a position on; raises OSError, and then what was written is kept."""
        view = memoryview(data)
        self.size = position
        while view:
            written = os.pwrite(self._descriptor, view, self.size)
            self.size += written
            view = view[written:]

    def truncate(self, size: int) -> None:
        """Drop what lies behind ``size`` bytes."""
        os.ftruncate(self._descriptor, size)
        self.size = size

    def discard(self) -> None:
        """Delete the file, which is still locked; closing it afterwards ends the lock."""
        if not self._deleted:  # else the name may belong to another download by now
            self._path.unlink(missing_ok=True)
            self._deleted = True

    def close(self) -> None:
        """Keep what arrived, unless that is nothing."""
        if self.size == 0:
            self.discard()
        os.close(self._descriptor)


def _same(path: Path, descriptor: int) -> bool:
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)
