"""Single files of the cache: written so that they are whole or absent, measured, deleted."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def measure(path: Path) -> int | None:
    """Return a regular file's size in bytes, or None when there is none; links are not followed."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def exists(path: Path) -> bool:
    """Return whether a regular file lies at ``path`` itself, not behind a link."""
    return measure(path) is not None


def delete(path: Path) -> int | None:
    """Delete a file (a link: the link itself) and return its size in bytes, None when it was absent."""
    size = measure(path)
    try:
        os.unlink(path)
    except FileNotFoundError:
        return None
    return 0 if size is None else size


def write(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a new file and make its content durable; the name's durability is the folder's matter."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
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
