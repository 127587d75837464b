"""Prepared files on their way into the cache: staged, told of in the journal, renamed, recorded.

The process that makes files of images does it in this order, while it holds the lock of each. Where their
content comes from is not decided here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Lock

from msgspec.structs import replace

from msb_cache.artifacts import durable, files, vmdk
from msb_cache.artifacts.digests import digest_of, digest_of_content
from msb_cache.artifacts.durable import Changes
from msb_cache.artifacts.fsmeta import write_fsmeta
from msb_cache.artifacts.layer import LayerImage, read_layer
from msb_cache.artifacts.layout import Layout
from msb_cache.engines.digesting import digested
from msb_cache.engines.own.journal import Published, undo, write_journal
from msb_cache.engines.reused import Reused
from msb_cache.errors import CorruptArtifactError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.failpoints import reached
from msb_cache.home import checks
from msb_cache.home.ledger import Ledger, Transaction
from msb_cache.home.operation import Operation, others
from msb_cache.projections import digests
from msb_cache.projections import images as projected
from msb_cache.projections.digests import Artifact
from msb_cache.projections.rows import DigestRow
from msb_cache.waiting import Note


@dataclass
class Staged:
    """A prepared file that is about to be renamed into the cache."""

    kind: ev.ArtifactKind
    subject: str
    path: Path
    digest: str


class Syncs:
    """Makes files durable beside other work: what is written next need not wait for what was.

    All of them are on the disk when :meth:`wait` has returned, which raises what went wrong with one.
    """

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._running: list[Future[None]] = []

    def begin(self, path: Path) -> None:
        """Begin with a file."""
        self._running.append(self._pool.submit(files.sync, path))

    def begin_folders(self, layout: Layout) -> None:
        """Begin with the folder of the staging folders, which has a new one now.

        If another operation runs, then with those above as well: it may have made them a moment ago.
        """
        self._running.append(self._pool.submit(durable.sync_folder, layout.staging_root))
        if len(layout.interrupted_operations()) > 1:
            self._running.append(self._pool.submit(durable.sync_above, layout.db, layout.cache))

    def wait(self) -> None:
        """Wait for all; raises OSError."""
        for each in self._running:
            each.result()


_KEPT_BYTES = 256 << 20


class Layers:
    """The layers of one operation, by diff ID.

    Trees stay in memory until they take _KEPT_BYTES together; the others are read from their images again,
    for an archive may hold any number of images.
    """

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        """Bytes of each layer's image."""
        self.footprints: dict[str, int] = {}
        """What each layer's tree takes of the memory, in bytes."""
        self.merged: dict[str, int] = {}
        """Bytes of the fsmeta that lies there, of manifests of which it says what their layers give."""
        self.converted: set[str] = set()
        self._paths: dict[str, Path] = {}
        self._kept: dict[str, LayerImage] = {}
        self._left = _KEPT_BYTES
        self._lock = Lock()

    def put(self, diff_id: str, image: LayerImage, path: Path) -> None:
        """Remember a layer and the image of it that lies at ``path``."""
        with self._lock:
            self.sizes[diff_id] = image.size_bytes
            self.footprints[diff_id] = image.footprint
            self._paths[diff_id] = path
            if image.footprint <= self._left:
                self._left -= image.footprint
                self._kept[diff_id] = image

    def read(self, diff_id: str) -> LayerImage:
        """Return a layer's image with its tree."""
        return self._kept.get(diff_id) or read_layer(self._paths[diff_id])


def saying_who(layout: Layout, operation: Operation, note: Note | None) -> Callable[[Path], None]:
    """Return what tells ``note`` for whom an operation waits that wants the lock at a path."""

    def say(path: Path) -> None:
        if note is not None:
            note(_awaited(layout, operation, path))

    return say


def _awaited(layout: Layout, operation: Operation, path: Path) -> str:
    """Return for which operations is waited. Only the kernel knows who has a lock: these may have it."""
    running = [
        f"operation {other}" + (f" ({', '.join(names)})" if names else "")
        for other, names in islice(others(layout, operation), 3)
    ]
    by = " or ".join(running) or "another program"
    return f"waiting for {by} to be done with {path.name.removesuffix('.lock')}"


def reusable(path: Path) -> LayerImage | None:
    """Return the layer image that already lies there; None if there is none or it is damaged."""
    if not files.exists(path):
        return None
    try:
        return read_layer(path)
    except CorruptArtifactError:
        return None  # converted anew, and replaced by a rename


def stage_tree(
    ledger: Ledger,
    digest: str,
    diff_ids: Sequence[str],
    layers: Layers,
    staging: Path,
    syncs: Syncs,
    reused: Reused,
) -> list[Staged]:
    """Prepare a manifest's fsmeta and VMDK, unless those that are there fit its layers."""
    layout = ledger.layout
    staged = []
    fsmeta, descriptor = layout.fsmeta(digest), layout.vmdk(digest)
    # Block addresses in fsmeta are those of the layer files it was made from.
    fsmeta_size = None if layers.converted.intersection(diff_ids) else layers.merged.get(digest)
    if fsmeta_size is None or not reused.is_as_known("fsmeta", digest, fsmeta):
        target = staging / f"fsmeta-{fsmeta.name}"
        fsmeta_size = write_fsmeta(target, map(layers.read, diff_ids))
        syncs.begin(target)
        staged.append(Staged("fsmeta", digest, target, digest_of("fsmeta", target)))
    extents = [(fsmeta, fsmeta_size)]
    extents += [(layout.layer(diff_id), layers.sizes[diff_id]) for diff_id in diff_ids]
    content = vmdk.render(extents)
    # What lies there may be anything, of any length.
    there = files.measure(descriptor) == len(content) and descriptor.read_bytes() == content
    if not there or not reused.is_as_known("vmdk", digest, descriptor):
        target = staging / descriptor.name
        files.write(target, content)
        staged.append(Staged("vmdk", digest, target, digest_of_content(content)))
    return staged


def journal(ledger: Ledger, staged: Sequence[Staged], staging: Path) -> list[Published]:
    """Say durably what is about to be published, and keep what it replaces."""
    published = []
    changes = Changes()
    for item in staged:
        final = ledger.layout.artifact(item.kind, item.subject)
        backup = None
        if item.kind == "metadata" and files.exists(final):
            backup = f"{item.path.name}.old"
            changes.link(final, staging / backup)
        published.append(Published(kind=item.kind, subject=item.subject, backup=backup, digest=item.digest))
    write_journal(staging, published, changes)
    reached("add.journaled")
    return published


def publish(ledger: Ledger, staged: Sequence[Staged]) -> None:
    """Rename what is prepared to its places; what lay there goes."""
    changes = Changes()
    for item in staged:
        changes.replace(item.path, ledger.layout.artifact(item.kind, item.subject))
        reached("add.renamed")
    changes.sync()


def put_in_place(
    ledger: Ledger,
    operation: Operation,
    staged: Sequence[Staged],
    staging: Path,
    record: Callable[[Transaction, Mapping[Artifact, DigestRow]], None],
) -> list[Published]:
    """Publish what is prepared, and record it in one transaction; or take all of it back.

    Args:
        ledger: the home.
        operation: the running operation; the caller holds the lock of each file.
        staged: the files.
        staging: the folder in which they lie, with all that they consist of on the disk.
        record: appends the events, within the transaction; it gets the digests that the log had of them.
    """
    ledger.open_to_write()  # not before: what is refused leaves no database behind
    published = journal(ledger, staged, staging)
    transaction = None
    try:
        publish(ledger, staged)
        reached("add.published")
        with ledger.write(operation.id) as transaction:
            record(transaction, record_digests(transaction, staged))
            reached("add.committing")
    except BaseException:
        if transaction is not None and transaction.unclear:
            operation.leave_to_recovery()
        else:
            take_back(ledger, operation, published, staging)
        raise
    reached("add.committed")
    return published


def record_digests(transaction: Transaction, staged: Sequence[Staged]) -> dict[Artifact, DigestRow]:
    """Record what the bytes of the files are that were made; return what the log had of them before."""
    made, before = [], dict[Artifact, DigestRow]()
    for item in staged:
        known = digests.digest(transaction.connection, (item.kind, item.subject))
        if known is not None:
            before[item.kind, item.subject] = known
        # A metadata file is written at every pull, with the same bytes as a rule.
        if item.kind != "metadata" or known is None or (known.digest, known.how) != (item.digest, "made"):
            made.append(digested(item.kind, item.subject, item.digest, "made"))
    transaction.append(made)
    checks.remember(
        transaction.connection, {(item.kind, item.subject): None for item in staged}, time.time_ns()
    )
    return before


def take_back(ledger: Ledger, operation: Operation, published: Sequence[Published], staging: Path) -> None:
    """Undo what the index does not name; what cannot be undone now, the next writing command undoes."""
    operation.leave_to_recovery()
    changes = Changes()
    for artifact in published:
        undo(ledger, artifact, staging, changes)
    changes.sync()
    operation.undone()


@dataclass(frozen=True)
class Sizes:
    """What a manifest's files measure, in bytes."""

    fsmeta: int | None
    vmdk: int | None
    layers: Mapping[str, int]


def sizes_of(ledger: Ledger, digest: str, layers: Mapping[str, int]) -> Sizes:
    """Return what a manifest's files measure now; ``layers`` has the sizes of those of its layers."""
    layout = ledger.layout
    return Sizes(files.measure(layout.fsmeta(digest)), files.measure(layout.vmdk(digest)), layers)


def last_added(ledger: Ledger, transaction: Transaction, digest: str) -> ev.ManifestAdded | None:
    """Return what the log last said about a manifest that is in the index."""
    if not projected.has_manifest(transaction.connection, digest):
        return None
    store = ledger.store(transaction.connection)
    for event in store.read(subjects=[digest], types=[ev.ManifestAdded.type], reverse=True, limit=1):
        if isinstance(event.data, ev.ManifestAdded):
            return event.data
    return None


def measured_anew(
    ledger: Ledger, transaction: Transaction, layers: Layers, repairs: Mapping[str, list[str]]
) -> list[NewEvent]:
    """Say anew what the repaired manifests' files measure, where that changed."""
    events = []
    for digest, diff_ids in repairs.items():
        before = last_added(ledger, transaction, digest)
        if before is None or not layers.sizes.keys() >= set(diff_ids):
            continue
        sizes = sizes_of(ledger, digest, layers.sizes)
        after = replace(
            before,
            layers=tuple(replace(layer, erofs_size=sizes.layers[layer.diff_id]) for layer in before.layers),
            fsmeta_size=sizes.fsmeta,
            vmdk_size=sizes.vmdk,
        )
        if after != before:
            events.append(NewEvent(after, digest))
    return events
