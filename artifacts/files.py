"""Single files of the cache: written so that they are whole or absent, measured, deleted."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path


def measure(path: str | Path) -> int | None:
    """Return a regular file's size in bytes, or None when there is none; links are not followed."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def exists(path: Path) -> bool:
    """Return whether a regular file lies at ``path`` itself, not behind a link."""
    return measure(path) is not None


def delete(path: str | Path) -> int | None:
    """Delete a file (a link: the link itself) and return its size in bytes, None when it was absent."""
    size = measure(path)
    try:
        os.unlink(path)
    except FileNotFoundError:
        return None
    return 0 if size is None else size


def is_shared(folder: str | Path) -> bool:
    """Return whether a group shares a folder: it may write there, and new files become the group's.

    That is the setgid bit together with the group's right to write, which nobody sets by accident.
    """
    shared = stat.S_ISGID | stat.S_IWGRP
    try:
        return os.stat(folder).st_mode & shared == shared
    except OSError:
        return False


def private_mode(folder: str | Path) -> int:
    """Return the permissions of a new file: its owner's, and the group's where a group shares the folder."""
    return 0o660 if is_shared(folder) else 0o600


def create_readable(path: Path) -> BinaryIO:
    """Open a new file that everybody who may enter the folder can read, as msb makes images of layers."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, private_mode(path.parent) | 0o044), "w+b")


def create(path: Path) -> BinaryIO:
    """Open a new file to write, with private permissions; raises OSError, also where anything lies there."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, private_mode(path.parent)), "wb")


def write(path: Path, content: bytes) -> None:
    """Write a new file and make its content durable; the name's durability is the folder's matter."""
    with create(path) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Make a file's content survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
