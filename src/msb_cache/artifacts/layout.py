"""Where everything lies under a home: microsandbox's cache layout, and our own files beside it.

Every path is made here, from values checked here: a digest that is not one never becomes a path.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from msb_cache.artifacts.kinds import KINDS, ArtifactKind
from msb_cache.errors import InvalidImageError, LogError

if TYPE_CHECKING:
    from pathlib import Path

# Compiled when first used: a list of images needs none of them.
_DIGEST = r"sha256:([0-9a-f]{64})"
_OPERATION = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_OF_MSB = frozenset({".msb-leases"})
_LOCK_OF_MSB = r"[0-9a-f]{64}\.lock"
"""Beside its metadata files msb locks a manifest by name, without the file's ending."""


class Layout:
    """The paths of one home. Making one touches no file.

    Attributes:
        home: the home's absolute path.
        database: the log and what is folded from it.
        msb_database: the database of msb, in a home that it keeps.

    Those three are text, and all others are paths. The three are what every command looks at, and one that
    only reads looks at no others: it does not import pathlib, which would be a fifteenth of its time.
    """

    def __init__(self, home: str | os.PathLike[str]) -> None:
        self.home = os.path.abspath(os.path.expanduser(home))
        self.database = os.path.join(self.home, "db", "msb-cache.db")
        self.msb_database = os.path.join(self.home, "db", "msb.db")

    @cached_property
    def cache(self) -> Path:
        """Where everything lies that images are made of."""
        from pathlib import Path

        return Path(self.home, "cache")

    @cached_property
    def db(self) -> Path:
        """Where the databases lie, and what belongs to them."""
        from pathlib import Path

        return Path(self.home, "db")

    @property
    def migrate_lock(self) -> Path:
        """The lock of the process that makes or migrates the database."""
        return self.db / "migrate.lock"

    @property
    def prune_lock(self) -> Path:
        """The lock of the one deletion that runs."""
        return self.db / "prune.lock"

    @property
    def watch_lock(self) -> Path:
        """The lock that each ``watch`` of a home that msb keeps shares while it runs."""
        return self.db / "watch.lock"

    @property
    def reserve(self) -> Path:
        """The file that keeps room for a deletion."""
        return self.db / "reserve"

    @property
    def replacing(self) -> str:
        """The marker of a database that is being replaced by another, as text: every command looks for it."""
        return os.path.join(self.home, "db", "replacing")

    @property
    def set_aside(self) -> Path:
        """Where databases lie that others were put in the place of."""
        return self.db / "set-aside"

    @property
    def operations(self) -> Path:
        """Where the locks of running operations lie."""
        return self.db / "operations"

    @property
    def snapshots(self) -> Path:
        """Where copies of the index at earlier positions lie."""
        return self.db / "snapshots"

    @property
    def staging_root(self) -> Path:
        """Where operations prepare their files."""
        return self.cache / "tmp"

    @property
    def downloads(self) -> Path:
        """Where parts of layers wait for being resumed."""
        return self.staging_root / "downloads"

    @cached_property
    def folders(self) -> dict[ArtifactKind, Path]:
        """Where the artifacts of each kind lie."""
        return {kind.name: self.cache / kind.folder for kind in KINDS.values()}

    @property
    def own_folders(self) -> list[Path]:
        """Where the artifacts of every image lie; in the others only msb puts something."""
        return [folder for kind, folder in self.folders.items() if not KINDS[kind].optional]

    @property
    def flat_locks(self) -> Path:
        """Where the locks of those lie who make flat roots."""
        return self.cache / "flat" / "locks"

    def flat_lock(self, derivation_digest: str) -> Path:
        """Return the lock of the derivation that makes a flat root."""
        return self.flat_locks / f"sha256_{_hex(derivation_digest)}.lock"

    def layer(self, diff_id: str) -> Path:
        """Return where the EROFS image of the layer with this diff ID lies."""
        return self.artifact("layer", diff_id)

    def fsmeta(self, manifest_digest: str) -> Path:
        """Return where the metadata-only EROFS image of this manifest's merged tree lies."""
        return self.artifact("fsmeta", manifest_digest)

    def vmdk(self, manifest_digest: str) -> Path:
        """Return where this manifest's VMDK descriptor lies."""
        return self.artifact("vmdk", manifest_digest)

    def metadata(self, reference: str) -> Path:
        """Return where the metadata of this canonical reference lies."""
        return self.folders["metadata"] / _metadata_name(reference)

    def artifact(self, kind: str, subject: str) -> Path:
        """Return where an artifact lies; a metadata subject is a reference, or a bare file name."""
        name = self.artifact_name(kind, subject)
        return self.folders[KINDS[kind].name] / name

    def artifact_name(self, kind: str, subject: str) -> str:
        """Return the name of an artifact's file; the subject is as for ``artifact``."""
        found = KINDS.get(kind)
        if found is None:
            raise InvalidImageError(f"{kind[:100]!r} is no kind of artifact")
        if found.needed_by != "image":
            return f"sha256_{_hex(subject)}{found.suffix}"
        return subject if is_metadata_name(subject) else _metadata_name(subject)

    def lone_locks(self) -> Iterator[Path]:
        """Yield lock files in the artifact folders whose artifact does not exist."""
        for kind, folder in self.folders.items():
            names = _names(folder)
            present = set(names)
            for name in names:
                artifact = name.removesuffix(".lock")
                if (
                    artifact != name
                    and re.fullmatch(KINDS[kind].pattern, artifact)
                    and artifact not in present
                ):
                    yield folder / name

    def operation_lock(self, operation: str) -> Path:
        """Return the lock file of an operation that adds or deletes."""
        if not re.fullmatch(_OPERATION, operation):
            raise InvalidImageError(f"{operation!r} is not an operation id")
        return self.operations / f"{operation}.lock"

    def staging(self, operation: str) -> Path:
        """Return the folder in which an operation prepares its files, on the cache's own file system."""
        self.operation_lock(operation)
        return self.staging_root / operation

    def building(self, operation: str) -> Path:
        """Return the folder in which an operation makes a database, on the log's own file system."""
        self.operation_lock(operation)
        return self.operations / operation

    def staged_operations(self) -> list[str]:
        """Return the operations that have a staging folder."""
        return [name for name in _names(self.staging_root) if re.fullmatch(_OPERATION, name)]

    def interrupted_operations(self) -> list[str]:
        """Return the operations that left a lock file or a staging folder: running now, or cut short."""
        names = set(self.staged_operations())
        names.update(name.removesuffix(".lock") for name in _names(self.operations))
        return sorted(name for name in names if re.fullmatch(_OPERATION, name))

    def files(self) -> Iterator[tuple[ArtifactKind, str, Path]]:
        """Yield every file on disk that has an artifact's name: kind, digest or file name, and path."""
        for kind, folder in self.folders.items():
            for name in _names(folder):
                if match := re.fullmatch(KINDS[kind].pattern, name):
                    yield kind, name if kind == "metadata" else f"sha256:{match[1]}", folder / name

    def sizes(self, kind: ArtifactKind) -> dict[str, int]:
        """Return what there is of a kind that has a digest: the digest, and the file's size in bytes.

        For thousands of files; of one, ``files.measure`` tells the size.
        """
        found = {}
        named = re.compile(KINDS[kind].pattern).fullmatch
        try:
            with os.scandir(self.folders[kind]) as entries:
                for entry in entries:
                    if (match := named(entry.name)) and entry.is_file(follow_symlinks=False):
                        found[f"sha256:{match[1]}"] = entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            pass
        return found

    def foreign_files(self) -> Iterator[Path]:
        """Yield what lies in the artifact folders and is neither an artifact nor a lock."""
        for kind, folder in self.folders.items():
            for name in _names(folder):
                known = name.removesuffix(".lock")
                if not (
                    re.fullmatch(KINDS[kind].pattern, known)
                    or name in _OF_MSB
                    or re.fullmatch(_LOCK_OF_MSB, name)
                ):
                    yield folder / name

    def interrupted_deletions(self) -> Iterator[Path]:
        """Yield the folders in which msb keeps what it has begun to delete; its next deletion ends them."""
        for name in _names(self.cache / ".image-deletions"):
            if name.startswith("delete-"):
                yield self.cache / ".image-deletions" / name


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def check_plain(layout: Layout, *, cache: bool) -> None:
    """Refuse a home in which a folder or the database is a symbolic link, or no folder.

    Through a link, files that are no part of the home would be written and deleted. The home itself may be
    one: a user who names it means what it leads to; and ``cache``, which its owner may have on a
    larger disk. Only users who may write in these folders can put a link there later, so this is asked
    once, when a writing operation begins.

    Args:
        layout: the home.
        cache: whether files in the cache are ours to write; in a home that msb keeps only ``db`` is.

    Raises:
        LogError: names the first one.
    """
    folders = [layout.db, layout.operations, layout.snapshots, layout.set_aside]
    if cache:
        folders += [layout.staging_root, layout.downloads, *layout.folders.values()]
        folders += [layout.flat_locks.parent, layout.flat_locks]
    for path in folders:
        mode = _mode(path)
        if mode is not None and not stat.S_ISDIR(mode):
            raise LogError(_not_plain(path, mode, "folder"))
    check_plain_file(layout.database)


def check_plain_file(database: str) -> None:
    """Refuse a database that is reached through a link, or is no file; raises LogError."""
    for path in (database, f"{database}-wal"):
        mode = _mode(path)
        if mode is not None and not stat.S_ISREG(mode):
            raise LogError(_not_plain(path, mode, "file"))


def _mode(path: str | Path) -> int | None:
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _not_plain(path: str | Path, mode: int, wanted: str) -> str:
    if stat.S_ISLNK(mode):
        return (
            f"{path} is a symbolic link, and nothing is written through links inside a home; "
            f"put the {wanted} itself there, or name another --home"
        )
    return f"{path} is no {wanted}; move it away and try again"


def is_metadata_name(subject: str) -> bool:
    """Return whether a metadata file's subject is the bare name of the file: no reference is known."""
    return re.fullmatch(KINDS["metadata"].pattern, subject) is not None


def _metadata_name(reference: str) -> str:
    from hashlib import sha256  # a list of images needs none, and it loads OpenSSL

    return f"{sha256(reference.encode()).hexdigest()}.json"


def lock_path(path: Path) -> Path:
    """Return the lock file beside an artifact."""
    return path.with_name(path.name + ".lock")


def lease_path(path: Path) -> Path:
    """Return the lock file that msb holds while it uses an artifact, or deletes it."""
    from hashlib import sha256

    return path.parent / ".msb-leases" / f"{sha256(os.fsencode(path.name)).hexdigest()}.lock"


@contextmanager
def leaving_no_folders(layout: Layout) -> Iterator[None]:
    """Take away again the folders of a home that were not there before a refused command, if they are empty.

    While another operation is at work there they stay: it may be about to put something into one. It leases
    ``db`` for as long as it runs (see ``Operation``), so none begins meanwhile; nor does msb, which has a
    database there first.
    """
    from msb_cache.artifacts.durable import delete_empty_folders_unsynced
    from msb_cache.artifacts.locks import FolderLease

    folders = (
        layout.operations,
        layout.downloads,
        layout.staging_root,
        *layout.own_folders,
        layout.cache,
        layout.db,
        *layout.db.parents,
    )
    made = [folder for folder in folders if not folder.exists()]
    try:
        yield
    except BaseException:
        lease = FolderLease(layout.db)
        if lease.acquire(alone=True):
            if not layout.interrupted_operations() and not os.path.exists(layout.msb_database):
                delete_empty_folders_unsynced(made)
            lease.release()
        raise


def _hex(digest: str) -> str:
    match = re.fullmatch(_DIGEST, digest)
    if match is None:
        raise InvalidImageError(f"{digest[:100]!r} is not a sha256 digest")
    return match[1]
