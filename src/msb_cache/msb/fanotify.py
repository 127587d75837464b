"""What the kernel says of the files in a folder: who opened, wrote, closed or renamed one, as it happens.

Linux tells a privileged listener the process of each event, and gives a descriptor of that process (a pidfd),
by which its number is known not to have been given to another one since. None of the files is opened: a
process that closes a descriptor of a database gives up the locks that it has there.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

MODIFY = 0x2
CLOSE_WRITE = 0x8
OPEN = 0x20
MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x40, 0x80, 0x100, 0x200
OVERFLOW = 0x4000
RENAMED = MOVED_FROM | MOVED_TO | CREATE | DELETE
"""A name in the folder came, went or became another."""

_CLOEXEC, _NONBLOCK, _UNLIMITED_QUEUE, _REPORT_PIDFD, _REPORT_DFID_NAME = 0x1, 0x2, 0x10, 0x80, 0xC00
_MARK_ADD, _MARK_REMOVE, _MARK_ONLYDIR = 0x1, 0x2, 0x8
_ATTRIB = 0x4
_EVENT_ON_CHILD = 0x08000000
_AT_FDCWD = -100
_INFO_DFID_NAME, _INFO_PIDFD = 2, 4
_EVENT = struct.Struct("=IBBHQii")
_INFO = struct.Struct("=BBH")
_HANDLE = struct.Struct("=8sIi")
_BUFFER = 4096
"""Bytes read at once: each event in them comes with a descriptor, and a process may have only so many."""


class Event(NamedTuple):
    """What happened to a file.

    Attributes:
        mask: what, all of it since the last event of this process and file was read.
        pid: of which process; 0: of one that this one cannot see.
        pidfd: a descriptor of that process, to be closed; None: it has ended.
        name: of the file; None: not said.
    """

    mask: int
    pid: int
    pidfd: int | None
    name: str | None


class Listener:
    """A queue of events; ``fileno`` can be polled.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN; else this system cannot do it.
    """

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            init, self._mark = libc.fanotify_init, libc.fanotify_mark
        except AttributeError:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
        init.argtypes = (ctypes.c_uint, ctypes.c_uint)
        self._mark.argtypes = (
            *(ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p),
        )
        flags = _CLOEXEC | _NONBLOCK | _UNLIMITED_QUEUE | _REPORT_PIDFD | _REPORT_DFID_NAME
        self._descriptor = _checked(init(flags, os.O_RDONLY))

    def fileno(self) -> int:
        """Return the queue's descriptor."""
        return self._descriptor

    def add_folder(self, path: str | os.PathLike[str]) -> None:
        """Listen to a folder's names and files; raises OSError, also where the file system cannot say."""
        mask = OPEN | MODIFY | CLOSE_WRITE | RENAMED | _EVENT_ON_CHILD
        self._change(_MARK_ADD | _MARK_ONLYDIR, mask, path)

    def add_file(self, path: str | os.PathLike[str]) -> None:
        """Listen to a file under every name that it has or comes to have; raises OSError."""
        self._change(_MARK_ADD, OPEN | MODIFY | CLOSE_WRITE, path)

    def has(self, path: str | os.PathLike[str]) -> bool:
        """Return whether this very folder or file is listened to, and not another that had its name."""
        try:
            # It takes back what is not asked for, which only finds out whether anything is.
            self._change(_MARK_REMOVE, _ATTRIB, path)
        except FileNotFoundError:
            return False
        return True

    def _change(self, flags: int, mask: int, path: str | os.PathLike[str]) -> None:
        _checked(self._mark(self._descriptor, flags, mask, _AT_FDCWD, os.fsencode(path)), path)

    def read(self) -> list[Event]:
        """Return the next events in their order, without waiting; none: there is none now."""
        try:
            return [*_events(os.read(self._descriptor, _BUFFER))]
        except BlockingIOError:
            return []

    def close(self) -> None:
        """End listening."""
        os.close(self._descriptor)


def _checked(result: int, path: str | os.PathLike[str] | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result


def _events(data: bytes) -> Iterator[Event]:
    start = 0
    while start < len(data):
        length, _, _, described, mask, _, pid = _EVENT.unpack_from(data, start)
        name, pidfd = None, None
        at, end = start + described, start + length
        while at < end:
            kind, _, size = _INFO.unpack_from(data, at)
            if kind == _INFO_PIDFD:
                (found,) = struct.unpack_from("=i", data, at + _INFO.size)
                pidfd = found if found >= 0 else None
            elif kind == _INFO_DFID_NAME:
                _, handle, _ = _HANDLE.unpack_from(data, at + _INFO.size)
                text = data[at + _INFO.size + _HANDLE.size + handle : at + size]
                name = os.fsdecode(text.partition(b"\0")[0])
            at += size
        yield Event(mask, pid, pidfd, name)
        start = end
