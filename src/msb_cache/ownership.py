"""Whose is what root makes: in a folder that belongs to another user, it is that user's from the beginning.

Root may work in a user's home: a service, or a person with ``sudo``. What it makes there is made in folders
that are the user's, and becomes the user's, group included, before it has its name: a process that is killed
between leaves nothing that locks the user out. Nothing that is there already changes hands, and no link is
followed. Where root makes things in folders of its own, or any other user anywhere, nothing is different.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

_REFUSED = (errno.EPERM, errno.EINVAL, errno.ENOSYS)
"""What the kernel says to a root that may not give things away, or to whom the user has no number."""


def is_readable_by_others(path: str, mode: int) -> bool:
    """Return whether a file of this mode is none in which a secret can lie.

    To systemd's credentials the unit's user has access by an ACL, whose mask shows as the group's bits.
    """
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials and os.path.dirname(os.path.realpath(path)) == os.path.realpath(credentials):
        return bool(mode & 0o007)
    return bool(mode & 0o077)


Owner = tuple[int, int]
"""A user's number, and a group's."""


def owner_of(folder: str | os.PathLike[str]) -> Owner | None:
    """Return who shall have what this process makes in a folder; None: it is this process's own.

    Of one that is not there yet, the nearest above it decides.
    """
    if os.geteuid() != 0:
        return None
    path = os.path.abspath(folder)
    while True:
        try:
            found = os.stat(path)
            break
        except FileNotFoundError:
            path = os.path.dirname(path)
        except OSError:
            return None
    return (found.st_uid, found.st_gid) if found.st_uid else None


def open_file(path: str | os.PathLike[str], flags: int, mode: int) -> int:
    """Open a file as ``os.open`` does with ``O_CREAT``; one that root makes is its folder's owner's."""
    path, flags = os.fspath(path), flags | os.O_CREAT
    owner = owner_of(os.path.dirname(path))
    if owner is None:
        return os.open(path, flags, mode)
    while True:
        if not flags & os.O_EXCL:
            with suppress(FileNotFoundError):
                return os.open(path, flags & ~os.O_CREAT)
        try:
            return _made(path, flags, mode, owner)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise


def _made(path: str, flags: int, mode: int, owner: Owner) -> int:
    nameless = flags & ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW) | os.O_TMPFILE
    try:
        descriptor = os.open(os.path.dirname(path) or ".", nameless, mode)
        try:
            _give(descriptor, owner)
            # By the descriptor's place, of which nothing is taken but that the link is followed.
            os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)
        except BaseException:
            os.close(descriptor)
            raise
    except FileExistsError:
        raise
    except OSError:
        # This file system has no files without a name, or there is no /proc: as close together as can be.
        descriptor = os.open(path, flags | os.O_EXCL, mode)
        _give(descriptor, owner)
    return descriptor


def make_folder(path: str | os.PathLike[str], mode: int) -> None:
    """Make a folder as ``os.mkdir`` does; one that root makes is the owner's of the folder above."""
    path = os.fspath(path)
    above, name = os.path.split(path)
    owner = owner_of(above)
    if owner is None:
        os.mkdir(path, mode)
        return
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    staged = os.path.join(above, f".{name[:100]}.{os.urandom(8).hex()}.new")
    os.mkdir(staged, mode)
    try:
        descriptor = os.open(staged, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            # Its owner could have put another of root's folders in its place; that has something in it.
            if os.fstat(descriptor).st_uid == 0 and not os.listdir(descriptor):
                _give(descriptor, owner)
        finally:
            os.close(descriptor)
        os.rename(staged, path)
    except BaseException as error:
        with suppress(OSError):
            os.rmdir(staged)
        if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from None
        raise


def _give(descriptor: int, owner: Owner) -> None:
    try:
        os.fchown(descriptor, *owner)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
