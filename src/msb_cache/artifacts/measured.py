"""What the files of a cache take of the disk: of few each is looked at, of many their folder is listed once.

Blocks count, not lengths. What deleting a file frees is nothing where the file has another name. File systems
that share blocks between files (reflinks), or keep them in snapshots, do not say so: there less comes free.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from msb_cache.artifacts.files import BLOCK
from msb_cache.artifacts.flat import FlatRefs
from msb_cache.artifacts.kinds import KINDS
from msb_cache.artifacts.layout import Layout, is_metadata_name

if TYPE_CHECKING:
    from pathlib import Path

_MANY = 200
"""Files of one kind that are looked at one by one; for more, listing the folder costs less."""
_LOCK = ".lock"
"""How lock files' names end: they are empty, so they take no block."""


class _Size(NamedTuple):
    """Of a file in bytes: its length, what it takes of the disk, and what comes free by deleting it."""

    length: int | None
    taken: int
    freed: int


_NOTHING = _Size(None, 0, 0)


class MeasuredFiles:
    """The files of one home's cache, as they were when they were first asked for.

    Args:
        layout: the home.
        going_anyway_bytes: what comes free by files that go whatever is chosen.
    """

    def __init__(self, layout: Layout, going_anyway_bytes: int = 0) -> None:
        self._layout = layout
        self.going_anyway_bytes = going_anyway_bytes
        self._known: dict[str, dict[str, _Size]] = {kind: {} for kind in KINDS}
        self._asked: Counter[str] = Counter()
        self._listed: set[str] = set()

    def length(self, kind: str, subject: str) -> int | None:
        """Return how long an artifact is, or what it takes where it has holes; None: it is not there."""
        found = self._find(kind, subject)
        return found.taken if found.length is not None and KINDS[kind].sparse else found.length

    def size(self, kind: str, subject: str) -> int:
        """Return what an artifact takes of the disk; 0 if it is not there."""
        return self._find(kind, subject).taken

    def freed(self, kind: str, subject: str) -> int:
        """Return what deleting an artifact frees; 0 if it is not there, or has another name."""
        return self._find(kind, subject).freed

    def flat_root(self, manifest_digest: str) -> str | None:
        """Return the digest of a manifest's flat root, None if there is none."""
        return self._flat_roots.get(manifest_digest)

    @cached_property
    def total_bytes(self) -> int:
        """What the whole cache takes, its folders included; a file with several names counts once."""
        kinds = {os.fspath(folder): kind for kind, folder in self._layout.folders.items()}
        try:
            blocks = os.stat(self._layout.cache).st_blocks
        except FileNotFoundError:
            return 0
        seen: set[tuple[int, int]] = set()
        folders = [os.fspath(self._layout.cache)]
        while folders:
            folder = folders.pop()
            kind = kinds.get(folder)
            known = None if kind is None else self._known[kind]
            for name, found in _entries(folder):
                if stat.S_ISDIR(found.st_mode):
                    folders.append(os.path.join(folder, name))
                elif known is not None and stat.S_ISREG(found.st_mode):
                    known[name] = _size(found)
                if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                    if (found.st_dev, found.st_ino) in seen:
                        continue
                    seen.add((found.st_dev, found.st_ino))
                blocks += found.st_blocks
            if kind is not None:
                self._listed.add(kind)
        return blocks * BLOCK

    @property
    def free_bytes(self) -> int:
        """What the file system of the cache has left for this user."""
        return self._file_system.f_bavail * self._file_system.f_frsize

    @property
    def capacity_bytes(self) -> int:
        """How large that file system is."""
        return self._file_system.f_blocks * self._file_system.f_frsize

    @cached_property
    def _file_system(self) -> os.statvfs_result:
        folder = os.fspath(self._layout.cache)
        while not os.path.exists(folder):  # of a home that is not made yet, where it would be
            folder = os.path.dirname(folder)
        return os.statvfs(folder)

    def flat_names(self, root_digest: str) -> int:
        """Return how many manifests a flat root is of, those included that the index does not have."""
        return len(self._flat_refs.naming(root_digest))

    @cached_property
    def _flat_refs(self) -> FlatRefs:
        return FlatRefs(self._layout)

    @cached_property
    def _flat_roots(self) -> dict[str, str]:
        return {digest: ref.artifact_digest for digest, ref in self._flat_refs.by_manifest.items()}

    def _find(self, kind: str, subject: str) -> _Size:
        if kind != "metadata":
            name = f"sha256_{subject[7:]}{KINDS[kind].suffix}"
        elif is_metadata_name(subject):
            name = subject
        else:
            name = f"{sha256(subject.encode()).hexdigest()}{KINDS[kind].suffix}"
        found = self._known[kind].get(name)
        if found is None and kind not in self._listed:
            self._asked[kind] += 1
            if self._asked[kind] > _MANY:
                self._list(kind)
                found = self._known[kind].get(name)
            else:
                found = self._known[kind][name] = self._look(kind, subject)
        return found or _NOTHING

    def _look(self, kind: str, subject: str) -> _Size:
        try:
            found = os.lstat(self._layout.artifact(kind, subject))
        except (FileNotFoundError, NotADirectoryError):
            return _NOTHING
        return _size(found) if stat.S_ISREG(found.st_mode) else _NOTHING

    def _list(self, kind: str) -> None:
        known, suffix = self._known[kind], KINDS[kind].suffix
        self._listed.add(kind)
        for name, found in _entries(self._layout.folders[KINDS[kind].name]):
            if name.endswith(suffix) and name not in known and stat.S_ISREG(found.st_mode):
                known[name] = _size(found)


def _size(found: os.stat_result) -> _Size:
    taken = found.st_blocks * BLOCK
    return _Size(found.st_size, taken, taken if found.st_nlink == 1 else 0)


def _entries(folder: str | Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield what is in a folder, but lock files and what vanishes meanwhile; links are not followed."""
    try:
        # By its descriptor, each name is looked up in the folder alone, and not by its whole path.
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        for name in os.listdir(descriptor):
            if name.endswith(_LOCK):
                continue
            try:
                found = os.lstat(name, dir_fd=descriptor)
            except FileNotFoundError:
                continue
            yield name, found
    finally:
        os.close(descriptor)
