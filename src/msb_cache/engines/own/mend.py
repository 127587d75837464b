"""Make files of images anew in a cache of ours: of what else is here, or by a pull of the same manifest.

A merged tree and its disk descriptor are made of the layers, in the bytes that they had if we wrote them. A
metadata file is that of the same image under another reference. Layers, and metadata that no other file has,
are fetched by the manifest's digest, and what references point at stays as it is. It goes the way of every
addition: under the locks of all files that are written or read, by the journal, in one transaction.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from msb_cache.artifacts import durable, files, metadata
from msb_cache.artifacts.compare import fsmeta_difference
from msb_cache.artifacts.digests import digest_of_content
from msb_cache.artifacts.layout import lock_path
from msb_cache.artifacts.locks import LockSet
from msb_cache.engines.engine import Mended, Mending, MendRequest
from msb_cache.engines.mending import archive_of, manifests_of, repaired, sources
from msb_cache.engines.own.staging import (
    Layers,
    Staged,
    Syncs,
    measured_anew,
    put_in_place,
    reusable,
    saying_who,
    stage_tree,
    take_back,
)
from msb_cache.engines.reused import Reused
from msb_cache.errors import BusyError, CorruptArtifactError, MicrosandboxError
from msb_cache.eventstore import events as ev
from msb_cache.eventstore.store import NewEvent
from msb_cache.failpoints import reached
from msb_cache.home.documents import metadata_difference
from msb_cache.home.ledger import Ledger, Transaction
from msb_cache.home.operation import Operation
from msb_cache.oci.reference import Reference
from msb_cache.projections import digests, images
from msb_cache.projections.digests import Artifact
from msb_cache.projections.rows import DigestRow
from msb_cache.wording import as_sentence, short

_AT_ONCE = 50
"""Manifests whose files are made anew together: each has two, and the locks of its layers are held."""


def mend(ledger: Ledger, request: MendRequest) -> Mending:
    """Make anew what can be made; parameters, result and errors as for ``Engine.mend``."""
    mending = _Mend(ledger, request)
    mending.make()
    if request.pull:
        mending.pull()
    return Mending(mending.mended, mending.why_not)


class _Batch:
    """The layers of which some manifests' files are made, and what was read of files to compare them."""

    def __init__(self, ledger: Ledger, request: MendRequest) -> None:
        self.layers = Layers()
        self.reused = Reused(ledger, 0, request.note)
        self.of_layers = Reused(ledger, 0, request.note, "nothing is made of it")


class _Mend:
    """The files that are still wrong, and what became of the others."""

    def __init__(self, ledger: Ledger, request: MendRequest) -> None:
        self._ledger = ledger
        self._request = request
        self._left = {wrong.artifact: wrong for wrong in request.wrong}
        self.mended: list[Mended] = []
        self.why_not: dict[Artifact, str] = {}
        for artifact in list(self._left):
            self._leave_folder(artifact)

    def _leave_folder(self, artifact: Artifact) -> None:
        # A link goes when a file is renamed to its place; what is in a folder may be some person's.
        path = self._ledger.layout.artifact(*artifact)
        try:
            is_folder = stat.S_ISDIR(os.lstat(path).st_mode)
        except OSError:
            return
        if is_folder:
            self.why_not[artifact] = f"{path} is a folder; move it away"
            del self._left[artifact]

    # -- of what is here -------------------------------------------------------------------------

    def make(self) -> None:
        """Make what can be made of what is here: some manifests' files at a time, together or not at all."""
        with self._ledger.read() as connection:
            if connection is None:
                return
            wanted = dict.fromkeys(
                digest
                for artifact in self._left
                if artifact[0] in ("fsmeta", "vmdk", "metadata")
                for digest in manifests_of(connection, artifact)
            )
        remaining = iter(wanted)
        while some := [*islice(remaining, _AT_ONCE)]:
            try:
                self._make(some)
            except (MicrosandboxError, OSError):
                for digest in some:  # one of them must not keep the others from being made
                    try:
                        self._make([digest])
                    except (MicrosandboxError, OSError) as error:
                        made = [each for each in self._of_manifest(digest) if each[0] != "layer"]
                        self.why_not |= dict.fromkeys(made, as_sentence(error))

    def _make(self, wanted: Sequence[str]) -> None:
        ledger, layout = self._ledger, self._ledger.layout
        durable.make_folder(*layout.own_folders)
        with Operation(layout) as operation:
            images_of = self._references(wanted)
            operation.tell([reference for found in images_of.values() for reference in found])
            diff_ids = self._layers(wanted)
            waiting = saying_who(layout, operation, self._request.note)
            with LockSet(map(lock_path, self._paths(diff_ids, images_of)), waiting):
                reached("mend.locked")
                # Of a manifest that went meanwhile nothing is made, nor for a reference that was moved.
                diff_ids = self._layers([*diff_ids])
                still = self._references(wanted)
                images_of = {
                    digest: [each for each in found if each in still[digest]]
                    for digest, found in images_of.items()
                }
                batch = _Batch(ledger, self._request)
                staging, staged = operation.staging(), list[Staged]()
                with ThreadPoolExecutor(thread_name_prefix="msb-cache-sync") as pool:
                    syncs = Syncs(pool)
                    syncs.begin_folders(layout)
                    for digest, found in diff_ids.items():
                        staged += self._stage_metadata(digest, images_of[digest], staging)
                        if self._prepare(digest, found, batch):
                            staged += stage_tree(
                                *(ledger, digest, found, batch.layers, staging, syncs, batch.reused)
                            )
                    syncs.wait()
                reached("mend.staged")
                self._put(operation, staged, staging, batch, diff_ids)

    def _put(
        self,
        operation: Operation,
        staged: Sequence[Staged],
        staging: Path,
        batch: _Batch,
        diff_ids: dict[str, list[str]],
    ) -> None:
        ledger, layers, mended = self._ledger, batch.layers, list[Mended]()

        def record(transaction: Transaction, known: Mapping[Artifact, DigestRow]) -> None:
            batch.reused.record(transaction)
            batch.of_layers.record(transaction)
            there = {digest: found for digest, found in diff_ids.items() if layers.sizes.keys() >= set(found)}
            transaction.append(measured_anew(ledger, transaction, layers, there))
            mended.extend(self._record(transaction, staged, known, "made"))

        if staged:
            published = put_in_place(ledger, operation, staged, staging, record)
            # What was made of a manifest that went meanwhile belongs to no image.
            take_back(ledger, operation, published, staging)
            self._done(mended)

    def _record(
        self,
        transaction: Transaction,
        staged: Iterable[Staged],
        known: Mapping[Artifact, DigestRow],
        how: str,
    ) -> list[Mended]:
        found = []
        for item in staged:
            wrong = self._left.get((item.kind, item.subject))
            if wrong is None or not manifests_of(transaction.connection, wrong.artifact):
                continue
            event = repaired(wrong, item.digest, how, known.get(wrong.artifact))
            transaction.append([event])
            assert isinstance(event.event, ev.ArtifactRepaired)  # noqa: S101
            found.append(Mended(item.kind, item.subject, event.event.how, event.event.differs))
        return found

    def _done(self, mended: Sequence[Mended]) -> None:
        for each in mended:
            self._left.pop((each.kind, each.subject), None)
            self.why_not.pop((each.kind, each.subject), None)
        self.mended += mended

    def _references(self, wanted: Sequence[str]) -> dict[str, list[Reference]]:
        with self._ledger.read() as connection:
            assert connection is not None  # noqa: S101
            return {
                digest: [Reference.parse(row.reference) for row in images.handles_of(connection, digest)]
                for digest in wanted
            }

    def _layers(self, wanted: Sequence[str]) -> dict[str, list[str]]:
        """Return the layers of those of the manifests that are in the index, bottom to top."""
        with self._ledger.read() as connection:
            assert connection is not None  # noqa: S101
            return {
                digest: [layer.diff_id for layer in images.layers(connection, digest)]
                for digest in wanted
                if images.has_manifest(connection, digest)
            }

    def _paths(self, diff_ids: dict[str, list[str]], images_of: dict[str, list[Reference]]) -> set[Path]:
        layout = self._ledger.layout
        paths = {path for digest in diff_ids for path in (layout.fsmeta(digest), layout.vmdk(digest))}
        paths |= {layout.layer(diff_id) for found in diff_ids.values() for diff_id in found}
        return paths | {layout.metadata(each.canonical) for found in images_of.values() for each in found}

    def _stage_metadata(self, digest: str, references: Sequence[Reference], staging: Path) -> list[Staged]:
        """Prepare metadata files that are wrong, where another reference of the manifest has a sound one."""
        layout = self._ledger.layout
        wrong = [each for each in references if ("metadata", each.canonical) in self._left]
        content = next(
            (found for each in references if (found := self._sound(digest, layout.metadata(each.canonical)))),
            None,
        )
        if content is None:
            return []
        staged = []
        for reference in wrong:
            target = staging / layout.metadata(reference.canonical).name
            files.write(target, content)
            staged.append(Staged("metadata", reference.canonical, target, digest_of_content(content)))
        return staged

    def _sound(self, digest: str, path: Path) -> bytes | None:
        """Return what a metadata file has, if that is what its manifest's must have."""
        with self._ledger.read() as connection:
            assert connection is not None  # noqa: S101
            config, layers = images.config(connection, digest), images.layers(connection, digest)
        try:
            document = metadata.decode(path)
            if document.manifest_digest != digest or config is None:
                return None
            different = metadata_difference(document, config.digest, layers)
        except (CorruptArtifactError, OSError):
            return None
        return None if different else metadata.render(document)

    def _prepare(self, digest: str, diff_ids: Sequence[str], batch: _Batch) -> bool:
        """Read what a manifest's files are made of; whether they can be, and one of them is wrong."""
        wrong = [each for each in (("fsmeta", digest), ("vmdk", digest)) if each in self._left]
        why = self._read(digest, diff_ids, batch) if wrong else None
        if why is not None:
            self.why_not |= dict.fromkeys(wrong, why)
        return bool(wrong) and why is None

    def _read(self, digest: str, diff_ids: Sequence[str], batch: _Batch) -> str | None:
        """Take down how long the files are that others are made of, or say why that cannot be."""
        layout, layers = self._ledger.layout, batch.layers
        with self._ledger.read() as connection:
            assert connection is not None  # noqa: S101
            known = {diff_id: images.layer_bytes(connection, diff_id) for diff_id in diff_ids}
            fsmeta_bytes = images.fsmeta_bytes(connection, digest)
        for diff_id in diff_ids:
            size = files.measure(layout.layer(diff_id))
            if size is None or known[diff_id] not in (None, size):
                return f"its layer {short(diff_id)} is {'missing' if size is None else 'damaged'}"
            layers.sizes.setdefault(diff_id, size)
        measured = files.measure(layout.fsmeta(digest))
        is_as_long = fsmeta_bytes is not None and measured == fsmeta_bytes
        if is_as_long and ("fsmeta", digest) not in self._left:
            layers.merged[digest] = fsmeta_bytes or 0
            return None
        for diff_id in diff_ids:
            image = reusable(layout.layer(diff_id))
            # A merged tree that is made of other bytes is wrong, though it can be mounted.
            if image is None or not batch.of_layers.is_as_known("layer", diff_id, layout.layer(diff_id)):
                return f"its layer {short(diff_id)} is damaged"
            layers.put(diff_id, image, layout.layer(diff_id))
        return self._judge(digest, diff_ids, layers, fsmeta_bytes if is_as_long else None)

    def _judge(
        self, digest: str, diff_ids: Sequence[str], layers: Layers, fsmeta_bytes: int | None
    ) -> str | None:
        """Take the merged tree that is there for what it must be if it is; say so, if that cannot be told.

        Args:
            digest: the manifest.
            diff_ids: its layers, which have been read.
            layers: where they are.
            fsmeta_bytes: how long the merged tree is; None: not as long as it must be.
        """
        try:
            trees = [layers.read(diff_id) for diff_id in diff_ids]
            difference = fsmeta_difference(self._ledger.layout.fsmeta(digest), trees)
        except (CorruptArtifactError, OSError):
            return None
        if difference is not None and not self._layers_prove(diff_ids):
            return "whether it or one of its layers is wrong cannot be told: these were not made here"
        if difference is None and fsmeta_bytes is not None:
            layers.merged[digest] = fsmeta_bytes
        return None

    def _layers_prove(self, diff_ids: Sequence[str]) -> bool:
        """Whether the layers, which have the bytes that the log says, are what they must be."""
        with self._ledger.read() as connection:
            assert connection is not None  # noqa: S101
            known = [digests.digest(connection, ("layer", diff_id)) for diff_id in diff_ids]
        return all(row is not None and row.how == "made" for row in known)

    # -- by pulls --------------------------------------------------------------------------------

    def pull(self) -> None:
        """Fetch what is still wrong, from where it came; one manifest brings back all of its files."""
        tried: set[str] = set()
        for artifact in list(self._left):
            with self._ledger.read() as connection:
                assert connection is not None  # noqa: S101
                wanted = manifests_of(connection, artifact)
            for digest in wanted:
                if artifact in self._left and digest not in tried:
                    tried.add(digest)
                    self._pull(digest)

    def _pull(self, digest: str) -> None:
        with self._ledger.read() as connection:
            assert connection is not None  # noqa: S101
            came = [*sources(connection, self._ledger.store(connection), digest)]
        archive = archive_of(source for _, source in came)
        why = "the log names no registry that it came from: load or pull its image again"
        if archive is not None:
            why = f"it was loaded from {archive}: load that archive again"
        for reference, source in came:
            if source is None or source.kind != "registry":
                continue
            try:
                self._fetch(digest, reference)
            except (MicrosandboxError, OSError) as error:
                why = as_sentence(error)
            else:
                return
        for artifact in self._of_manifest(digest):
            self.why_not[artifact] = why

    def _of_manifest(self, digest: str) -> list[Artifact]:
        """Return what is still wrong of a manifest's files."""
        with self._ledger.read() as connection:
            assert connection is not None  # noqa: S101
            return [artifact for artifact in self._left if digest in manifests_of(connection, artifact)]

    def _fetch(self, digest: str, reference: Reference) -> None:
        from msb_cache.engines.own.pull import fetch_again  # and all that speaks HTTP

        ledger, mended = self._ledger, list[Mended]()
        references = tuple(self._references([digest])[digest])

        def tell(
            transaction: Transaction,
            layers: Layers,
            staged: Sequence[Staged],
            known: Mapping[Artifact, DigestRow],
        ) -> list[NewEvent]:
            now = {row.reference for row in images.handles_of(transaction.connection, digest)}
            if now != {each.canonical for each in references}:
                raise BusyError(f"{reference.familiar} changed while it was mended; try again")
            found = [layer.diff_id for layer in images.layers(transaction.connection, digest)]
            transaction.append(measured_anew(ledger, transaction, layers, {digest: found}))
            mended.extend(self._record(transaction, staged, known, "pulled"))
            return []

        fetch_again(ledger, self._request.pulling(reference, digest), references, tell)
        self._done(mended)
        for artifact in self._of_manifest(digest):  # it is as it must be by now, whoever made it so
            del self._left[artifact]
            self.why_not.pop(artifact, None)
