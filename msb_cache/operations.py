"""An operation that changes the cache's files: its id, its lock, and its staging folder.

The lock is held from before anything is decided until everything is done. Whoever gets it without
waiting knows that the operation's owner is gone (see ``recovery``).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType

from msb_cache.artifacts.layout import Layout, make_private
from msb_cache.artifacts.locks import Lock
from msb_cache.eventstore.ids import uuid7


class Operation:
    """A running operation; a context manager that ends it."""

    def __init__(self, layout: Layout) -> None:
        self.id = uuid7()
        self._unfinished = False
        self._layout = layout
        layout.check_inside()
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
            shutil.rmtree(self._layout.staging(self.id), ignore_errors=True)
        self._lock.release(unlink=not self._unfinished)
