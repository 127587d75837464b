"""``flock`` locks on files, as microsandbox takes them beside its artifacts, exclusive but for leases.

The kernel drops a lock when its process ends, however it ends; so a lock that can be had says that
its last owner is gone, and no process id is ever consulted. Locks are never downgraded.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import TracebackType

from msb_cache.artifacts.durable import delete_unsynced
from msb_cache.artifacts.files import open_private
from msb_cache.waiting import Wait

_open_descriptors: set[int] = set()


def _close_in_child() -> None:
    # flock belongs to the open file, which a forked child shares: it must not keep the lock alive.
    for descriptor in _open_descriptors:
        os.close(descriptor)
    _open_descriptors.clear()


os.register_at_fork(after_in_child=_close_in_child)


class Lock:
    """One lock file, held from ``acquire`` to ``release``."""

    _how = fcntl.LOCK_EX

    def __init__(self, path: str | Path) -> None:
        self.path = os.fspath(path)
        self._descriptor: int | None = None

    def acquire(self, *, wait: float | None = 0.0, say: Callable[[], object] | None = None) -> bool:
        """Take the lock, creating its file if needed.

        Args:
            wait: seconds to try; 0 not at all, None for as long as it takes.
            say: called once, when it is not to be had for a second.

        Returns:
            Whether the lock is held now.
        """
        waiting = Wait(say, wait)
        while True:
            descriptor = _open(self.path)
            _open_descriptors.add(descriptor)
            try:
                fcntl.flock(descriptor, self._how | fcntl.LOCK_NB)
                if self._is_current(descriptor):
                    self._descriptor = descriptor
                    return True
            except BlockingIOError:
                if waiting.over():
                    return False
            finally:
                if self._descriptor is None:
                    _close(descriptor)

    def release(self, *, unlink: bool = False) -> None:
        """Give the lock up; with ``unlink`` its file goes first, while no other process can hold it."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        try:
            if unlink:
                delete_unsynced(self.path)
        finally:
            _close(descriptor)

    def _is_current(self, descriptor: int) -> bool:
        # Between open and flock the last owner may have unlinked the file and a third process made
        # a new one: then two would hold "the" lock.
        try:
            there = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        here = os.fstat(descriptor)
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    @property
    def descriptor(self) -> int:
        """The open file that holds the lock: a program that inherits it keeps the lock until it ends, too."""
        assert self._descriptor is not None  # noqa: S101
        return self._descriptor

    def write(self, text: str) -> None:
        """Replace the lock file's content, to tell waiters who holds it."""
        assert self._descriptor is not None  # noqa: S101
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, text.encode(), 0)
        except OSError as error:
            error.filename = self.path
            raise

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Lease(Lock):
    """A lock that others may hold as well: on what they use, and a process deletes that has it alone."""

    _how = fcntl.LOCK_SH


class FolderLease:
    """A folder that is there to stay: leased by all who work below it, and by one alone who removes it.

    The lock is on the folder itself, so none is left behind.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = os.fspath(folder)
        self._descriptor: int | None = None

    def acquire(self, *, wait: float = 0.0, alone: bool = False) -> bool:
        """Lease the folder; return whether that is done, within ``wait`` seconds.

        It is not where the folder is missing, or another process removes it; ``alone``: or works below it.
        """
        how = fcntl.LOCK_NB | (fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        waiting = Wait(seconds=wait)
        while True:
            try:
                descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
            _open_descriptors.add(descriptor)
            try:
                fcntl.flock(descriptor, how)
                there, here = os.stat(self._folder), os.fstat(descriptor)
                if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
                    self._descriptor = descriptor
                    return True
            except FileNotFoundError:
                return False
            except BlockingIOError:
                if waiting.over():
                    return False
            finally:
                if self._descriptor is None:
                    _close(descriptor)

    def release(self) -> None:
        """Give it up; it need not be held."""
        if self._descriptor is not None:
            _close(self._descriptor)
            self._descriptor = None


def is_free(path: Path) -> bool:
    """Return whether no process holds the lock; makes no lock file to find out."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False  # no lock, but a link in its place
        raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _open(path: str) -> int:
    try:
        try:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return open_private(path, os.O_RDWR)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            problem = "it is no lock file, but a link or a folder; delete it"
            raise OSError(error.errno, problem, path) from None
        raise


class LockSet:
    """Several locks, taken in sorted path order so that no two processes wait for each other.

    Args:
        paths: the lock files.
        waiting: called with each lock file that is not to be had for a second.
    """

    def __init__(self, paths: Iterable[Path], waiting: Callable[[Path], None] = lambda path: None) -> None:
        self._paths = sorted(set(paths))
        self._locks = [Lock(path) for path in self._paths]
        self._waiting = waiting

    def __enter__(self) -> LockSet:
        _allow_descriptors(len(self._locks))
        try:
            for path, lock in zip(self._paths, self._locks, strict=True):
                lock.acquire(wait=None, say=partial(self._waiting, path))
        except BaseException:
            self.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give all locks up; a lock file whose artifact does not exist goes with its lock."""
        for lock in reversed(self._locks):
            lock.release(unlink=not os.path.lexists(lock.path.removesuffix(".lock")))


class HeldLocks:
    """Locks that are taken one after the other, each once and without waiting, and given up together.

    Args:
        unlinks: asked of each lock file as it is given up: whether it goes with its lock.
    """

    def __init__(self, unlinks: Callable[[Path], bool]) -> None:
        self._locks: dict[Path, Lock] = {}
        self._unlinks = unlinks

    def take(self, paths: Iterable[Path]) -> bool:
        """Take those of the locks that are not held yet; return whether all are now.

        Where there is no folder for a lock file, no process has that lock.
        """
        wanted = sorted({path for path in paths if path not in self._locks and path.parent.is_dir()})
        _allow_descriptors(len(wanted))
        for path in wanted:
            lock = Lock(path)
            if not lock.acquire():
                return False
            self._locks[path] = lock
        return True

    def __enter__(self) -> HeldLocks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._locks:
            path, lock = self._locks.popitem()
            lock.release(unlink=self._unlinks(path))


def _allow_descriptors(count: int) -> None:
    """Raise this process's soft limit of open files, where many locks need it and the hard one allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(_open_descriptors) + count + 256
    if (
        soft != resource.RLIM_INFINITY
        and soft < needed
        and (hard == resource.RLIM_INFINITY or needed <= hard)
    ):
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _close(descriptor: int) -> None:
    _open_descriptors.discard(descriptor)
    os.close(descriptor)
