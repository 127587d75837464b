"""An operation that changes files of a home: its id, its lock, and the folders in which it prepares them.

The lock is held from before anything is decided until everything is done. A process that gets it without
waiting knows that the operation's owner is gone (see ``recovery``). What stands in the lock's file is for
people who wait, and nothing is decided by it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from msb_cache.artifacts.layout import Layout, make_private
from msb_cache.artifacts.locks import Lock, is_free
from msb_cache.errors import InvalidReferenceError
from msb_cache.eventstore.ids import uuid7
from msb_cache.oci.reference import Reference

_LONGEST_NAMES = 4096  # bytes of a lock file that are looked at


class Operation:
    """A running operation; a context manager that ends it."""

    def __init__(self, layout: Layout) -> None:
        self.id = uuid7()
        self._unfinished = False
        self._layout = layout
        make_private(layout.operations)
        self._lock = Lock(layout.operation_lock(self.id))
        self._lock.acquire(wait=None)

    @property
    def descriptor(self) -> int:
        """The operation's lock, for a program that does part of it and may outlive this process."""
        return self._lock.descriptor

    def staging(self) -> Path:
        """Return the operation's own folder on the cache's file system, made at the first call."""
        folder = self._layout.staging(self.id)
        make_private(folder)
        return folder

    def building(self) -> Path:
        """Return the operation's own folder on the log's file system, made at the first call."""
        folder = self._layout.building(self.id)
        make_private(folder)
        return folder

    def tell(self, references: Sequence[Reference]) -> None:
        """Say to those who wait which references this operation is about."""
        self._lock.write("\n".join(reference.canonical for reference in references)[:_LONGEST_NAMES])

    def leave_to_recovery(self) -> None:
        """Keep the staging folder and its journal: something could not be undone now."""
        self._unfinished = True

    def undone(self) -> None:
        """Everything is undone after all."""
        self._unfinished = False

    def __enter__(self) -> Operation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._unfinished:
            for folder in (self._layout.staging(self.id), self._layout.building(self.id)):
                shutil.rmtree(folder, ignore_errors=True)
        self._lock.release(unlink=not self._unfinished)


def others(layout: Layout, own: Operation) -> Iterator[tuple[str, list[str]]]:
    """Yield the operations that other processes run now, with the references they tell, in familiar form."""
    for operation in layout.interrupted_operations():
        lock = layout.operation_lock(operation)
        if operation == own.id or is_free(lock):
            continue
        names = []
        for line in _beginning(lock).splitlines():
            try:
                names.append(Reference.parse(line).familiar)
            except InvalidReferenceError:
                break  # cut off, or not ours: it is shown to people, so nothing else is
        yield operation, names


def _beginning(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return ""  # it has just ended
    with os.fdopen(descriptor, "rb") as file:
        return file.read(_LONGEST_NAMES).decode(errors="replace")
