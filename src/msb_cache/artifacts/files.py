"""Single files of the cache: made with the right mode, written, measured. Their names: see ``durable``."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from msb_cache.artifacts.kinds import KINDS

if TYPE_CHECKING:
    from pathlib import Path

BLOCK = 512
"""Bytes that ``st_blocks`` counts in, whatever the file system's blocks are."""


def is_full(error: OSError) -> bool:
    """Return whether there was no room left, on the disk or within this user's quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def ignoring_full_disk() -> Iterator[None]:
    """Go on without what the block would write, if there is no room for it."""
    try:
        yield
    except OSError as error:
        if not is_full(error):
            raise


def measure(path: str | Path) -> int | None:
    """Return a regular file's size in bytes, or None when there is none; links are not followed."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def measure_artifact(kind: str, path: str | Path) -> int | None:
    """Return what a file of this kind takes, as ``measure``: of one with holes, what it has on the disk."""
    if not KINDS[kind].sparse:
        return measure(path)
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_blocks * BLOCK if stat.S_ISREG(found.st_mode) else None


def exists(path: Path) -> bool:
    """Return whether a regular file lies at ``path`` itself, not behind a link."""
    return measure(path) is not None


def is_shared(folder: str | Path) -> bool:
    """Return whether a group shares a folder: it may write there, and new files become the group's.

    That is the setgid bit together with the group's right to write, which is not set by accident.
    """
    shared = stat.S_ISGID | stat.S_IWGRP
    try:
        return os.stat(folder).st_mode & shared == shared
    except OSError:
        return False


def open_private(path: str | Path, flags: int, *, readable: bool = False) -> int:
    """Open a file that may have to be made, and return its descriptor.

    A new file is its owner's, less what the umask takes; where a group shares the folder it is the group's,
    too, whatever the umask: one member's must not lock the others out. ``readable`` lets every user read who
    may enter the folder. One that root makes is the folder's owner's (see ``ownership``).
    """
    from msb_cache import ownership  # a command that reads makes none

    flags |= os.O_CLOEXEC | os.O_NOFOLLOW
    mode = 0o044 if readable else 0
    if not is_shared(os.path.dirname(path)):
        return ownership.open_file(path, flags, mode | 0o600)
    mode |= 0o660
    descriptor = ownership.open_file(path, flags, mode)
    try:
        found = os.fstat(descriptor)
        if os.geteuid() in (0, found.st_uid) and stat.S_IMODE(found.st_mode) != mode:
            os.fchmod(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def create_readable(path: Path) -> BinaryIO:
    """Open a new file that every user who may enter the folder can read, as msb makes images of layers."""
    return os.fdopen(open_private(path, os.O_RDWR | os.O_EXCL, readable=True), "w+b")


def create(path: str | Path) -> BinaryIO:
    """Open a new file to write, with private permissions; raises OSError, also where anything lies there."""
    return os.fdopen(open_private(path, os.O_WRONLY | os.O_EXCL), "wb")


def write(path: Path, content: bytes) -> None:
    """Write a new file and make its content durable; the name's durability is the folder's matter."""
    with create(path) as file:
        file.write(content)
        file.flush()
        sync_descriptor(file.fileno(), path)


def sync(path: str | Path) -> None:
    """Make a file's content survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        sync_descriptor(descriptor, path)
    finally:
        os.close(descriptor)


def sync_descriptor(descriptor: int, path: str | Path) -> None:
    """Make what is open survive a power loss; an error names ``path``."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        error.filename = os.fspath(path)  # or an archive that is being read would get the blame
        raise
