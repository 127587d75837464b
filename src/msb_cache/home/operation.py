"""An operation that changes files of a home: its id, its lock, and the folders in which it prepares them.

The lock is held from before anything is decided until everything is done. A process that gets it without
waiting knows that the operation's owner is gone (see ``recovery``). What stands in the lock's file is for
people who wait, and nothing is decided by it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from msb_cache.artifacts import durable
from msb_cache.artifacts.layout import Layout
from msb_cache.artifacts.locks import FolderLease, Lock, is_free
from msb_cache.errors import BusyError, InvalidReferenceError
from msb_cache.eventstore.ids import uuid7
from msb_cache.oci.reference import Reference
from msb_cache.waiting import SAY_AFTER

_LONGEST_NAMES = 4096  # bytes of a lock file that are looked at


class Operation:
    """A running operation; a context manager that ends it."""

    def __init__(self, layout: Layout) -> None:
        self._unfinished = False
        self._layout = layout
        # From here on no refused command takes folders away that this operation has found or made.
        self._home = FolderLease(layout.db)
        self._lease()
        try:
            durable.make_folder_unsynced(layout.operations)
            while True:
                self.id = uuid7()
                self._lock = Lock(layout.operation_lock(self.id))
                if self._lock.acquire():
                    break
                # A process that looks for interrupted operations just tries this one, which is not begun yet.
        except BaseException:
            self._home.release()
            raise

    def _lease(self) -> None:
        deadline = time.monotonic() + SAY_AFTER
        while True:
            durable.make_folder(self._layout.db)
            if self._home.acquire(wait=SAY_AFTER):
                return
            if time.monotonic() >= deadline:
                raise BusyError(
                    f"another process takes away the folders that it has made in {self._layout.home}, "
                    "and has not ended; try again later"
                )

    @property
    def descriptor(self) -> int:
        """The operation's lock, for a program that does part of it and may outlive this process."""
        return self._lock.descriptor

    def staging(self) -> Path:
        """Return the operation's own folder on the cache's file system, made at the first call.

        Its name is not durable yet: an addition makes it so before it publishes anything.
        """
        durable.make_folder(self._layout.staging_root)
        folder = self._layout.staging(self.id)
        durable.make_folder_unsynced(folder)
        return folder

    def building(self) -> Path:
        """Return the operation's own folder on the log's file system, made at the first call."""
        folder = self._layout.building(self.id)
        durable.make_folder_unsynced(folder)
        return folder

    def tell(self, references: Sequence[Reference]) -> None:
        """Say to those who wait which references this operation is about, as many as there is room for."""
        said = ""
        for reference in references:
            line = f"{reference.canonical}\n"
            if len(said) + len(line) > _LONGEST_NAMES:
                break
            said += line
        self._lock.write(said)

    def leave_to_recovery(self) -> None:
        """Keep the staging folder and its journal: something could not be undone now."""
        self._unfinished = True

    def undone(self) -> None:
        """Everything is undone after all."""
        self._unfinished = False

    @contextmanager
    def part(self) -> Iterator[Operation]:
        """One of several additions that are this operation; what it staged goes when it has ended.

        Raises:
            BusyError: as for ``begin_again``.
        """
        self._check_undone()
        try:
            yield self
        finally:
            if not self._unfinished:
                self._clear()

    def begin_again(self) -> None:
        """Take away what is staged: it is to be staged once more.

        Raises:
            BusyError: what was published could not be taken back yet, and its journal stays for the process
                that recovers it.
            OSError: it cannot be taken away.
        """
        self._check_undone()
        durable.delete_folder_unsynced(self._layout.staging(self.id))

    def _check_undone(self) -> None:
        if self._unfinished:
            raise BusyError(
                f"files of operation {self.id} could not be taken back yet, so nothing more is added by it; "
                "the next command that writes does that, then try again"
            )

    def _clear(self) -> None:
        for folder in (self._layout.staging(self.id), self._layout.building(self.id)):
            with suppress(OSError):  # the next command that writes does it
                durable.delete_folder_unsynced(folder)

    def __enter__(self) -> Operation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self._unfinished:
                self._clear()
            self._lock.release(unlink=not self._unfinished)
        finally:
            self._home.release()


def others(layout: Layout, own: Operation) -> Iterator[tuple[str, list[str]]]:
    """Yield the operations that other processes run now, with the references they tell, in familiar form."""
    for operation in layout.interrupted_operations():
        lock = layout.operation_lock(operation)
        if operation == own.id or is_free(lock):
            continue
        names = []
        for line in _beginning(lock).splitlines(keepends=True):
            if not line.endswith("\n"):
                break  # cut off, and what is left of it may name another image
            try:
                names.append(Reference.parse(line[:-1]).familiar)
            except InvalidReferenceError:
                break  # not ours: it is shown to people, so nothing else is
        yield operation, names


def _beginning(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return ""  # it has just ended
    with os.fdopen(descriptor, "rb") as file:
        return file.read(_LONGEST_NAMES).decode(errors="replace")
