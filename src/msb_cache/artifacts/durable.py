"""Where names in a home are made, put in place and taken away, so that a power loss leaves it whole.

After a power loss a name that changed may be as it was before, whatever changed later, unless its folder was
synced since; and content that was not synced may be missing, also in a file whose name is there. So the order
is the same everywhere:

1. A folder stands durably in its parent before anything relies on what lies in it (``make_folder``).
2. What is about to be done is durable before it is done: a deletion's decision in the log, an addition's
   journal, the note in the lock of migrations.
3. A file's content is durable before it gets the name under which it is believed (``files.sync``), and that
   name before the log says that the file is there (``Changes.sync``).
4. A name that went has gone durably before the log says so, and before the journal goes that remembers it.

Names that may be there or not after a power loss are changed by what is called ``unsynced`` here: locks,
folders of operations once all is done or taken back, copies of the index, parts of downloads.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from msb_cache.artifacts import files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_ATTEMPTS = 100


class Changes:
    """Changes of names that ``sync`` makes durable, together: each folder is synced once."""

    def __init__(self) -> None:
        self._folders: set[str] = set()

    def replace(self, staged: Path, place: Path) -> None:
        """Rename a file to its place; what lay there goes."""
        self._folders.add(os.path.dirname(place))
        os.replace(staged, place)

    def link(self, source: str | Path, place: str | Path) -> None:
        """Give a file one more name; raises FileExistsError where something has it."""
        self._folders.add(os.path.dirname(place))
        os.link(source, place)

    def write(self, path: Path, content: bytes) -> None:
        """Write a new file, its content durably."""
        self._folders.add(os.path.dirname(path))
        files.write(path, content)

    def delete(self, path: str | Path) -> int | None:
        """Delete a file (a link: the link itself) and return its size in bytes, None when it was absent.

        An absent one may have been deleted by a process that was killed before it synced the folder, so
        that counts as a change, too.
        """
        size = files.measure(path)
        if os.path.isdir(folder := os.path.dirname(path)):
            self._folders.add(folder)
        try:
            os.unlink(path)
        except FileNotFoundError:
            return None
        return 0 if size is None else size

    def sync(self) -> None:
        """Make durable what was changed so far; raises OSError, which names the folder."""
        while self._folders:
            folder = self._folders.pop()
            try:
                sync_folder(folder)
            except BaseException:
                self._folders.add(folder)
                raise


def sync_folder(folder: str | Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        files.sync_descriptor(descriptor, folder)
    finally:
        os.close(descriptor)


def sync_above(db: Path, *inside: Path) -> None:
    """Make durable what a home's folders are called, those above it, and what lies in the folders ``inside``.

    For when it is not known whether the process that made them lived long enough to do so. ``db`` is the
    home's folder of databases.
    """
    for folder in (*inside, *db.parents):
        if folder.is_dir():
            _sync_parent(folder)


def make_folder(*folders: Path) -> None:
    """Make directories and those above them that are missing, durably, for their owner only.

    Where a group shares the one above, they are the group's as well, whatever the umask. What is there
    already keeps its owner, group and mode, and is durable: the process that made it has synced the one
    above, or was killed before that. Then ``sync_above`` is called by the process that makes the database, or
    recovers the operation, or adds images while the operation runs.
    """
    waiting: set[Path] = set()
    for path in _made(folders):
        if (above := path.parent.parent) in waiting:
            _sync_parent(above)
            waiting.remove(above)
        waiting.add(path.parent)  # brothers are made durable together
    for parent in waiting:
        _sync_parent(parent)


def make_folder_unsynced(folder: Path) -> None:
    """Make a directory as ``make_folder`` does, whose name may be lost."""
    for _ in _made([folder]):
        pass


def replace_unsynced(staged: Path, place: Path) -> None:
    """Rename a file to a place where it may also be missing, or be the one that was there before."""
    os.replace(staged, place)


def delete_unsynced(path: str | Path) -> None:
    """Delete a file, if there is one, that may come back."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def delete_folder_unsynced(folder: Path) -> None:
    """Delete a folder with all that lies in it, if there is one; all of it may come back."""
    import shutil  # most commands that append an event need it not

    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


def delete_empty_folders_unsynced(folders: Iterable[Path]) -> None:
    """Delete those of the folders that are there and empty."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _made(folders: Iterable[Path]) -> Iterator[Path]:
    """Make what is missing, from above, and yield each folder that was."""
    for folder in folders:
        for attempt in range(_ATTEMPTS):
            try:
                for path in _missing(folder):
                    _mkdir(path)
                    yield path
            except FileNotFoundError:
                # A refused command has just taken away the one above, which it had made.
                if attempt == _ATTEMPTS - 1:
                    raise
            else:
                break


def _missing(folder: Path) -> list[Path]:
    """Return the folders that have to be made for one to be there, the uppermost first."""
    missing: list[Path] = []
    while not folder.exists():
        missing.insert(0, folder)
        folder = folder.parent
    return missing


def _mkdir(path: Path) -> None:
    from msb_cache import ownership

    shared = files.is_shared(path.parent)
    with suppress(FileExistsError):
        ownership.make_folder(path, 0o770 if shared else 0o700)
        if shared and not files.is_shared(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fchmod(descriptor, 0o2770)
            finally:
                os.close(descriptor)


def _sync_parent(folder: Path) -> None:
    # Some may make folders in one that they cannot read, and to sync it, it is opened to be read. One that a
    # refused command has taken away again has nothing in it.
    with suppress(PermissionError, FileNotFoundError):
        sync_folder(folder)
