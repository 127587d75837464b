"""What a cache takes of the disk: each image, each kind of file, and the log; and what of it would come free.

All sizes are the disk's (``lstat``), none the index's. Every file and folder in ``cache`` is in one category,
so that they add up to what ``du`` says. The disk is read before the index: what is added meanwhile is then
not seen, while in the other order its files would look like orphans.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from msgspec import Struct

from msb_cache.artifacts.files import BLOCK
from msb_cache.artifacts.flat import FlatRefs
from msb_cache.artifacts.kinds import FLAT, KINDS, Kind, Need, needing
from msb_cache.artifacts.layout import Layout, lease_path
from msb_cache.artifacts.measured import MeasuredFiles
from msb_cache.errors import BoundNotKeptError, MicrosandboxError
from msb_cache.projections import images
from msb_cache.projections.state import EMPTY, IndexState
from msb_cache.queries import policy_file
from msb_cache.queries.resolve import seen_name
from msb_cache.retention.plan import Bounds, never_goes, plan_prune
from msb_cache.retention.policy import PrunePolicy
from msb_cache.shapes import Result

if TYPE_CHECKING:
    import sqlite3
    from pathlib import Path

    from msb_cache.engines.decision import Preview
    from msb_cache.eventstore.store import EventStore
    from msb_cache.session import Session

T = TypeVar("T")

MONTH_NS = 30 * 86400 * 10**9
"""How long a month is here: of so long a time the events are counted from which a log's growth is told."""

YOUNG_NS = 86400 * 10**9
"""A log that is younger than this does not say yet how it grows."""


class ImageUsage(Result, Struct, frozen=True, gc=False):
    """What an image takes of the disk. Sizes in bytes of allocated blocks.

    Attributes:
        reference: as people see it; None: the row is of a manifest that no reference points at.
        manifest_digest: what the reference points at.
        allocated_bytes: all files that it needs: layers, merged tree, VMDK and metadata; without a flat root.
        unique_bytes: those of them that no other image, and no other manifest in the index, needs.
        shared_bytes: the others; both together are ``allocated_bytes``.
        flat_allocated_bytes: its flat root.
        reclaimable_bytes: what would come free if this alone were removed now, its flat root included; 0
            while it is held, runs or is pinned. A file with several hard links comes free with none of them.
        holders: who holds it, by name.
        running: how many sandboxes run from it.
        pinned: whether it is pinned, by its reference or its digest.
    """

    reference: str | None
    manifest_digest: str
    allocated_bytes: int
    unique_bytes: int
    shared_bytes: int
    flat_allocated_bytes: int
    reclaimable_bytes: int
    holders: tuple[str, ...]
    running: int
    pinned: bool = False


class DiskCategory(Result, Struct, frozen=True):
    """Files of one kind. Sizes in bytes.

    Attributes:
        name: see ``DiskUsage``.
        files: how many; those with several hard links are counted once.
        logical_bytes: how long they are.
        allocated_bytes: what their blocks take of the disk.
        reclaimable_bytes: what of that a prune would free, of orphans one with ``--orphans``.
    """

    name: str
    files: int = 0
    logical_bytes: int = 0
    allocated_bytes: int = 0
    reclaimable_bytes: int = 0

    @property
    def amounts(self) -> tuple[int, int, int, int]:
        """Its numbers, in the order in which they stand here."""
        return self.files, self.logical_bytes, self.allocated_bytes, self.reclaimable_bytes


class LogUsage(Result, Struct, frozen=True):
    """What the log costs. Sizes in bytes, times in ns.

    Attributes:
        allocated_bytes: its database with what is folded from it, and SQLite's files beside that.
        events: how many it has.
        counted_events: how many were recorded within ``counted_ns``.
        counted_ns: the last 30 days, or of a younger log all of its life.
        bytes_per_month: by how much it grows in 30 days if it goes on like that, with as many bytes for each
            event as until now; None: it is too young to say.
    """

    allocated_bytes: int
    events: int
    counted_events: int
    counted_ns: int
    bytes_per_month: int | None


class PolicyUsage(Result, Struct, frozen=True):
    """What the home's policy file would do now. Sizes in bytes.

    Attributes:
        file: its path.
        images: how many images would go.
        reclaimable_bytes: what would come free.
        missing_bytes: how much too little that is for a bound of the policy; 0: all are kept.
        missing_for: the name of the rule whose bound that is; None: all are kept.
        refused: why nothing would go: more would than the policy lets go at once; None: that is not so.
    """

    file: str
    images: int
    reclaimable_bytes: int
    missing_bytes: int = 0
    missing_for: str | None = None
    refused: str | None = None


class DiskUsage(Result, Struct, frozen=True):
    """What a home takes of the disk. Sizes in bytes.

    Attributes:
        images: each image, and each manifest that no reference points at; those that take most come first.
        cache: everything in ``cache``: ``layer``, ``fsmeta``, ``vmdk``, ``flat`` (roots and what names them)
            and ``metadata``; ``downloads`` that can be resumed; what is ``staged`` otherwise; ``orphans``,
            artifacts of any kind that no index names; ``locks``; the ``folders`` themselves; ``other``.
        cache_total: all of it together.
        outside: beside the cache: the ``log``; ``index_copies``, by which the past is read; what was
            ``set_aside`` for a restored log; the ``reserve``; ``msb_database`` where msb keeps the home.
        log: what the log costs; None: there is none.
        prune_bytes: what a prune would free of the disk now.
        orphans_bytes: what one with ``--orphans`` would free besides.
        notes: sentences about what could not be read or told.
        policy: what the policy file would do; None: there is none, or it cannot be told, which is noted.
        disk_bytes: how large the file system of the cache is.
        disk_free_bytes: what it has left for this user.
    """

    images: tuple[ImageUsage, ...]
    cache: tuple[DiskCategory, ...]
    cache_total: DiskCategory
    outside: tuple[DiskCategory, ...]
    log: LogUsage | None
    prune_bytes: int
    orphans_bytes: int
    notes: tuple[str, ...] = ()
    policy: PolicyUsage | None = None
    disk_bytes: int = 0
    disk_free_bytes: int = 0


def category_of(kind: str) -> str:
    """Return the category of a kind of artifact."""
    return "flat" if kind in FLAT else kind


DOWNLOADS = "downloads"
STAGED = "staged"
ORPHANS = "orphans"
LOCKS = "locks"
FOLDERS = "folders"
OTHER = "other"
CACHE = (
    *dict.fromkeys(category_of(kind) for kind in sorted(KINDS, key="metadata".__eq__)),
    *(DOWNLOADS, STAGED, ORPHANS, LOCKS, FOLDERS, OTHER),
)
"""The categories within ``cache``, in the order in which they are shown. Of the names of one file, that one
counts whose category comes first."""

LOG = "log"
INDEX_COPIES = "index_copies"
SET_ASIDE = "set_aside"
RESERVE = "reserve"
MSB_DATABASE = "msb_database"
OUTSIDE = (LOG, INDEX_COPIES, SET_ASIDE, RESERVE, MSB_DATABASE)


class _File(Struct, frozen=True, gc=False):
    """A file's length and blocks, and what tells it from others (device and inode) if it has several names.

    There can be very many; the collector leaves these alone.
    """

    length: int
    blocks: int
    inode: tuple[int, int] | None = None

    @property
    def free(self) -> int:
        """How many blocks come free with this name."""
        return self.blocks if self.inode is None else 0


_NO_FILE = _File(0, 0)

_Going: TypeAlias = Mapping[str, Collection[str]]
"""Artifacts, by kind: their subjects; those of metadata that the index does not name are the files' names."""


class Measured(NamedTuple):
    """A home's disk usage with what it is made of.

    Attributes:
        usage: what it takes.
        state: the index by which the files were told apart.
        by_name: what each image takes, by its name in the index, and each manifest without one by its digest.
        files: the files that the index names.
    """

    usage: DiskUsage
    state: IndexState
    by_name: Mapping[str, ImageUsage]
    files: Files


class Files:
    """The files that an index names, each of which is asked for once."""

    def __init__(self, artifacts: _Artifacts) -> None:
        self._artifacts = artifacts
        self._taken: set[tuple[int, int]] = set()

    def take(self, kind: str, subject: str) -> int:
        """Return what a file takes of the disk, in bytes; 0 if another name of it was asked for before."""
        file = self._artifacts.named[kind].get(subject, _NO_FILE)
        if file.inode is not None:
            if file.inode in self._taken:
                return 0
            self._taken.add(file.inode)
        return file.blocks * BLOCK

    def flat_of(self, manifest_digest: str) -> str | None:
        """Return the digest of a manifest's flat root; None: it has none."""
        refs = self._artifacts.refs
        ref = None if refs is None else refs.by_manifest.get(manifest_digest)
        return None if ref is None else ref.artifact_digest


def disk_usage(session: Session) -> DiskUsage:
    """Return what a home takes of the disk now; writes nothing but what msb did, as every reading does."""
    return measured(session, lambda _: None)[0].usage


def measured(session: Session, ask: Callable[[sqlite3.Connection | None], T]) -> tuple[Measured, T]:
    """Return what a home takes of the disk now, with what it is made of; writes nothing, as ``disk_usage``.

    Args:
        session: the home.
        ask: what else is asked of the index, and of the log, at the same position; of none there is None.
    """
    session.observe()
    layout = session.layout
    disk = _Disk(layout)
    beside = _outside(layout, disk.notes)
    state, log = EMPTY, None
    running: Counter[str] = Counter()
    with session.ledger.read() as connection:
        if connection is not None:
            state = session.engine().index_to_judge(connection, facts=False, labels=False)
            running.update(use.manifest_digest for use in images.uses(connection))
            allocated = beside[OUTSIDE.index(LOG)].allocated_bytes
            log = _log(session.ledger.store(connection), session.ledger.clock(), allocated)
        answer = ask(connection)
    refs = FlatRefs(layout) if any(disk.files[kind] for kind in FLAT) else None
    artifacts = _Artifacts(session, state, disk, refs)
    plain, added = artifacts.going()
    by_prune, by_orphans = artifacts.free(plain), artifacts.free(added)
    cache = disk.sums.categories(by_prune + by_orphans)
    policy = _policy(session, disk.notes)
    by_name = _images(state, artifacts, running)
    space = MeasuredFiles(layout)
    usage = DiskUsage(
        images=tuple(sorted(by_name.values(), key=_largest_first)),
        cache=cache,
        cache_total=_total(cache),
        outside=beside,
        log=log,
        prune_bytes=by_prune.total() * BLOCK,
        orphans_bytes=by_orphans.total() * BLOCK,
        notes=tuple(disk.notes),
        policy=policy,
        disk_bytes=space.capacity_bytes,
        disk_free_bytes=space.free_bytes,
    )
    return Measured(usage, state, by_name, Files(artifacts)), answer


def _largest_first(found: ImageUsage) -> tuple[int, str]:
    return -found.allocated_bytes, found.reference or found.manifest_digest


def _policy(session: Session, notes: list[str]) -> PolicyUsage | None:
    path = policy_file.find(session.layout)
    if path is None:
        return None
    from msb_cache.commands.prune import Prune

    try:
        asked = Prune(session, policy_file.read(path))
        shown = asked.preview()
    except (MicrosandboxError, OSError) as error:
        notes.append(f"what the policy would do is left out: {error}")
        return None
    refused = None
    try:
        asked.check(shown)
    except BoundNotKeptError as error:
        refused = str(error)
    return PolicyUsage(path, len(shown.going), shown.freed_bytes, asked.shortfall, asked.short_of, refused)


class _Sums:
    """Files summed up by category; one that has several names among them counts once, in the first category.

    Args:
        order: the categories.
    """

    def __init__(self, order: Sequence[str]) -> None:
        self._order = order
        self._sums = {category: [0, 0, 0] for category in order}
        self._several: dict[tuple[int, int], tuple[int, _File]] = {}

    def add(self, category: str, file: _File) -> None:
        """Count one file."""
        if file.inode is None:
            self.add_many(category, 1, file.length, file.blocks)
        else:
            at = self._order.index(category)
            before, _ = self._several.get(file.inode, (at, file))
            self._several[file.inode] = min(at, before), file

    def add_many(self, category: str, files: int, length: int, blocks: int) -> None:
        """Count files that have one name each."""
        found = self._sums[category]
        found[0] += files
        found[1] += length
        found[2] += blocks

    def categories(self, free: Mapping[str, int]) -> tuple[DiskCategory, ...]:
        """Return all categories, in their order; ``free`` has how many blocks of each would come free."""
        for at, file in self._several.values():
            self.add_many(self._order[at], 1, file.length, file.blocks)
        self._several.clear()
        return tuple(
            DiskCategory(category, files, length, blocks * BLOCK, free.get(category, 0) * BLOCK)
            for category, (files, length, blocks) in self._sums.items()
        )


class _Disk:
    """Everything in ``cache`` as it was found.

    Attributes:
        files: of each kind of artifact, what lies in its folder, by name; without folders and lock files.
        sums: all else; artifacts are added to it once it is known which are orphans.
        notes: what could not be read.
    """

    def __init__(self, layout: Layout) -> None:
        self.files: dict[str, dict[str, _File]] = {kind: {} for kind in KINDS}
        self.sums = _Sums(CACHE)
        self.notes: list[str] = []
        cache = str(layout.cache)
        known = {str(folder): self.files[kind] for kind, folder in layout.folders.items()}
        rules = {str(lease_path(folder / "any").parent): LOCKS for folder in layout.folders.values()}
        rules |= {str(layout.flat_locks): LOCKS, str(layout.staging_root): STAGED}
        rules |= {str(layout.downloads): DOWNLOADS}
        try:
            # It may be a link to another disk, which nothing below it may be.
            self.sums.add(FOLDERS, _file(os.stat(cache)))
        except (FileNotFoundError, NotADirectoryError):
            return
        waiting = [(cache, OTHER)]
        while waiting:
            path, category = waiting.pop()
            folders = _scan(path, category, self.sums, self.notes, known.get(path), follow=path == cache)
            for name, folder in folders.items():
                self.sums.add(FOLDERS, folder)
                below = os.path.join(path, name)
                waiting.append((below, rules.get(below, category)))


def _scan(
    path: str,
    category: str,
    sums: _Sums,
    notes: list[str],
    artifacts: dict[str, _File] | None = None,
    *,
    follow: bool = False,
) -> dict[str, _File]:
    """Count the files in a folder and return the folders in it, by name; what vanishes meanwhile is left out.

    Args:
        path: the folder; what cannot be read of it is noted.
        category: what its files are.
        sums: where they are counted.
        notes: gets sentences.
        artifacts: of a folder of artifacts gets what is in it, by name; then only lock files are counted.
        follow: it may be a link to a folder. Links in it are files.
    """
    folders: dict[str, _File] = {}
    summed = category if artifacts is None else LOCKS
    files = lengths = all_blocks = 0
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    is_folder, measure = stat.S_ISDIR, os.lstat
    try:
        # By its descriptor, each name is looked up in the folder alone: by its path that took a third longer.
        descriptor = os.open(path, flags)
        try:
            for name in os.listdir(descriptor):
                try:
                    status = measure(name, dir_fd=descriptor)
                except FileNotFoundError:
                    continue
                if is_folder(status.st_mode):
                    folders[name] = _file(status)
                elif artifacts is not None and not name.endswith(".lock"):
                    several = status.st_nlink != 1
                    inode = (status.st_dev, status.st_ino) if several else None
                    artifacts[name] = _File(status.st_size, status.st_blocks, inode)
                elif status.st_nlink == 1:
                    files += 1
                    lengths += status.st_size
                    all_blocks += status.st_blocks
                else:
                    sums.add(summed, _file(status))
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        notes.append(f"{path} cannot be read, so what is in it is left out: {error.strerror or error}")
    sums.add_many(summed, files, lengths, all_blocks)
    return folders


def _file(status: os.stat_result) -> _File:
    several = status.st_nlink != 1 and not stat.S_ISDIR(status.st_mode)
    inode = (status.st_dev, status.st_ino) if several else None
    return _File(status.st_size, status.st_blocks, inode)


class _Artifacts:
    """The artifacts on the disk, those that the index names and the others; counts all of them.

    Attributes:
        named: of each kind, the files of what the index has, by its subject.
        unnamed: of each kind those that it does not name, by digest, or of metadata by name.
        orphans: the kind and subject of those of them that no other index names either.
        refs: the flat refs; None: there are no flat roots.
    """

    def __init__(self, session: Session, state: IndexState, disk: _Disk, refs: FlatRefs | None) -> None:
        self._session = session
        self._disk = disk
        self._state = state
        self.refs = refs
        self.named: dict[str, dict[str, _File]] = {}
        self.unnamed: dict[str, dict[str, _File]] = {}
        for kind, files in disk.files.items():
            self._sort(KINDS[kind], files)
        self.orphans = self._orphans() if any(self.unnamed.values()) else set()
        for kind, found in self.named.items():
            self._count(category_of(kind), found.values())
        for kind, found in self.unnamed.items():
            for subject, file in found.items():
                is_orphan = (kind, subject) in self.orphans
                disk.sums.add(ORPHANS if is_orphan else category_of(kind), file)

    def _sort(self, kind: Kind, files: dict[str, _File]) -> None:
        """Tell what lies in the folder of a kind."""
        pop = files.pop
        # Names are made here, once for each artifact, and not checked: what is no digest names no file.
        if kind.needed_by == "image":
            named = {
                each: file
                for each in self._state.canonical()
                if (file := pop(f"{sha256(each.encode()).hexdigest()}.json", None)) is not None
            }
        else:
            suffix = kind.suffix
            named = {
                each: file
                for each in self._subjects(kind.needed_by)
                if (file := pop(f"sha256_{each[7:]}{suffix}", None)) is not None
            }
        self.named[kind.name] = named
        unnamed = self.unnamed[kind.name] = {}
        is_artifact = re.compile(kind.pattern).fullmatch
        for name, file in files.items():
            if match := is_artifact(name):
                unnamed[name if kind.needed_by == "image" else f"sha256:{match[1]}"] = file
            else:
                self._disk.sums.add(OTHER, file)

    def _subjects(self, record: Need) -> Collection[str]:
        if record == "layer":
            return self._state.named_layers()
        if record == "manifest":
            return self._state.manifests
        refs = {} if self.refs is None else self.refs.by_manifest
        return {ref.artifact_digest for digest, ref in refs.items() if digest in self._state.manifests}

    def _orphans(self) -> set[tuple[str, str]]:
        # Not asked where our index names all, as a rule: that takes about as long as all else.
        found = self._session.engine().orphans(self._state)
        if not found.judged:
            self._disk.notes.append("what msb needs cannot be told, so some of the orphans may be needed")
        return {(kind, subject) for kind, subject, _ in found.files if subject in self.unnamed[kind]}

    def _count(self, category: str, found: Iterable[_File]) -> None:
        sums, files, lengths, all_blocks = self._disk.sums, 0, 0, 0
        for file in found:
            if file.inode is None:
                files += 1
                lengths += file.length
                all_blocks += file.blocks
            else:
                sums.add(category, file)
        sums.add_many(category, files, lengths, all_blocks)

    def sizes(self, kind: str, subject: str) -> tuple[int, int]:
        """Return how many blocks an artifact of the index has on the disk, and how many come free with it."""
        file = self.named[kind].get(subject, _NO_FILE)
        return file.blocks, file.free

    def going(self) -> tuple[_Going, _Going]:
        """Return what a prune would delete now, and what one with ``--orphans`` would besides."""
        if not self.orphans:
            # That is what a preview has, which measures each file anew: twice as long as all else.
            return self._planned(), {}
        from msb_cache.commands.prune import Prune  # and all that deletes

        try:
            # Earlier deletions may have left some of the orphans: a prune takes up those not locked.
            plain = self._shown(Prune(self._session, PrunePolicy()).preview())
            added = self._shown(Prune(self._session, PrunePolicy(), orphans=True).preview())
        except (MicrosandboxError, OSError) as error:
            self._disk.notes.append(f"what would come free of the orphans is not counted: {error}")
            return self._planned(), {}
        return plain, {kind: found - plain[kind] for kind, found in added.items()}

    def _planned(self) -> _Going:
        plan = plan_prune(self._state)
        found: dict[str, Collection[str]] = dict.fromkeys(needing("manifest"), plan.manifests)
        found |= {"metadata": plan.metadata, "layer": plan.layers}
        if self.refs is not None:
            from msb_cache.engines import flat_roots  # few homes have any
            from msb_cache.eventstore.events import PlannedArtifact

            refs = [
                PlannedArtifact(kind="flat_ref", subject=digest)
                for digest in plan.manifests
                if digest in self.named["flat_ref"]
            ]
            completed = flat_roots.completed(self._session.layout, refs)
            found |= {kind: [each.subject for each in completed if each.kind == kind] for kind in FLAT}
        return found

    def _shown(self, preview: Preview) -> dict[str, set[str]]:
        """Return the files of a preview: it also names what has none."""
        found: dict[str, set[str]] = {kind: set() for kind in KINDS}
        for each in preview.artifacts:
            subject = each.subject
            if each.bytes is None:
                continue
            if each.kind == "metadata" and subject not in self.named[each.kind]:
                subject = self._session.layout.artifact(each.kind, subject).name
            found[each.kind].add(subject)
        return found

    def free(self, going: _Going) -> Counter[str]:
        """Return how many blocks come free with artifacts, by category."""
        found: Counter[str] = Counter()
        for kind, subjects in going.items():
            named = self.named[kind]
            blocks = 0
            for subject in subjects:
                file = named.get(subject)
                if file is None:
                    file = self.unnamed[kind].get(subject, _NO_FILE)
                    is_orphan = (kind, subject) in self.orphans
                    found[ORPHANS if is_orphan else category_of(kind)] += file.free
                elif file.inode is None:
                    blocks += file.blocks
            found[category_of(kind)] += blocks
        return found


def _outside(layout: Layout, notes: list[str]) -> tuple[DiskCategory, ...]:
    """Return what belongs to the cache and lies beside it; of the folders among it, themselves as well."""
    sums = _Sums(OUTSIDE)
    for category, database in ((LOG, layout.database), (MSB_DATABASE, layout.msb_database)):
        for suffix in ("", "-wal", "-shm"):
            _add_one(f"{database}{suffix}", category, sums)
    _add_one(layout.reserve, RESERVE, sums)
    for category, folder in ((INDEX_COPIES, layout.snapshots), (SET_ASIDE, layout.set_aside)):
        _add_one(folder, category, sums)
        waiting = [str(folder)]
        while waiting:
            path = waiting.pop()
            for name, below in _scan(path, category, sums, notes).items():
                sums.add(category, below)
                waiting.append(os.path.join(path, name))
    return sums.categories({})


def _add_one(path: str | Path, category: str, sums: _Sums) -> None:
    try:
        sums.add(category, _file(os.lstat(path)))
    except OSError:
        pass  # there is none, or it is not to be seen


def _images(state: IndexState, artifacts: _Artifacts, running: Mapping[str, int]) -> dict[str, ImageUsage]:
    """Return what each image takes, by its name, and each manifest that no reference points at."""
    names = Counter(state.references.values())
    has_spellings = bool(state.naming.references)
    bounds = Bounds(state)
    found = {}

    def add(name: str, shown: str | None, digest: str, own: int, shared: int, flat: int, free: int) -> None:
        holders = tuple(state.holders.get(digest, ()))
        if never_goes(state, name, digest) is not None or bounds(name, digest) is not None:
            free = 0
        found[name] = ImageUsage(
            shown,
            digest,
            (own + shared) * BLOCK,
            own * BLOCK,
            shared * BLOCK,
            flat * BLOCK,
            free * BLOCK,
            holders,
            running.get(digest, 0),
            state.pin_of(name, digest) is not None,
        )

    for name, digest in state.references.items():
        own, shared, flat, free = _of_manifest(digest, state, artifacts)
        reference = state.naming.reference(name)
        metadata, metadata_free = artifacts.sizes("metadata", reference)
        if names[digest] > 1:
            own, shared, free = 0, own + shared, 0  # another name of the manifest needs it all
        if has_spellings and len(state.names(reference)) > 1:
            shared, metadata_free = shared + metadata, 0  # another spelling has the same metadata
        else:
            own += metadata
        add(name, seen_name(state.naming, name), digest, own, shared, flat, free + metadata_free)
    for digest in state.manifests:
        if digest not in names:
            add(digest, None, digest, *_of_manifest(digest, state, artifacts))
    return found


def _of_manifest(digest: str, state: IndexState, artifacts: _Artifacts) -> tuple[int, int, int, int]:
    """Return a manifest's blocks: those that no other one needs, the others, its flat root's; and what goes.

    What goes are the blocks that come free if no reference and no holder needs it any more.
    """
    own = shared = flat = free = 0
    named, sharing_counts = artifacts.named, state.sharing_counts
    mine = [named["fsmeta"].get(digest, _NO_FILE), named["vmdk"].get(digest, _NO_FILE)]
    for diff_id in {*state.manifests.get(digest, ())}:
        file = named["layer"].get(diff_id, _NO_FILE)
        if diff_id in sharing_counts:
            shared += file.blocks
        else:
            mine.append(file)
    for file in mine:
        own += file.blocks
        if file.inode is None:
            free += file.blocks
    if artifacts.refs is not None:
        free += artifacts.sizes("flat_ref", digest)[1]
        ref = artifacts.refs.by_manifest.get(digest)
        if ref is not None:
            flat, comes_free = artifacts.sizes("flat", ref.artifact_digest)
            free += comes_free if artifacts.refs.naming(ref.artifact_digest) == {digest} else 0
    return own, shared, flat, free


def _total(categories: Iterable[DiskCategory]) -> DiskCategory:
    columns = zip(*(each.amounts for each in categories), strict=True)
    return DiskCategory("total", *map(sum, columns))


def _log(store: EventStore, now_ns: int, allocated: int) -> LogUsage | None:
    """Return what the log costs; None: it has no event yet.

    Args:
        store: the log.
        now_ns: the time now, in ns since the epoch.
        allocated: bytes of the disk that it takes.
    """
    head, first = store.head(), store.at(1)
    if head is None or first is None:
        return None
    counted_ns = max(0, min(MONTH_NS, now_ns - first.recorded_at_ns))
    counted = head.seq - (0 if counted_ns < MONTH_NS else store.position_at(now_ns - MONTH_NS))
    per_month = None
    if counted_ns >= YOUNG_NS:
        per_month = allocated * counted * MONTH_NS // (head.seq * counted_ns)
    return LogUsage(allocated, head.seq, counted, counted_ns, per_month)
