"""The files that an index names: whether each is there, and says what the index and the layers say.

Metadata, fsmeta and VMDK are made of what the log and the layers have, so they are compared with that, by
what they mean: msb writes the same in other bytes. The data in layers is not read.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from msb_cache.artifacts import files, metadata, vmdk
from msb_cache.artifacts.compare import fsmeta_difference
from msb_cache.artifacts.erofs.reader import read_image
from msb_cache.artifacts.flat import FlatRefs, read_ref
from msb_cache.artifacts.kinds import belonging_to
from msb_cache.artifacts.layer import LayerImage, read_layer
from msb_cache.artifacts.layout import Layout
from msb_cache.engines.leftovers import Leftover
from msb_cache.engines.named_files import NamedFiles
from msb_cache.errors import CorruptArtifactError
from msb_cache.home.documents import metadata_difference, msb_metadata_difference
from msb_cache.home.ledger import Ledger
from msb_cache.projections.rows import LayerRow, ManifestLayerRow, ManifestRow
from msb_cache.projections.state import IndexState, load
from msb_cache.projections.tables import stored_rows
from msb_cache.shapes import Result, fields
from msb_cache.wording import as_text

BROKEN = ("missing", "size", "damaged", "other", "moved", "altered")
"""The problems with files that the index needs."""

_TREE_BYTES = 256 << 20
"""What the trees of layers may take of the memory that are kept for the next image."""


@dataclass(frozen=True)
class DiskProblem(Result):
    """One thing about the disk that the index does not expect.

    ``problem`` is ``missing``, ``size`` (the index knows another), ``damaged`` (it cannot be read as what
    it is), ``other`` (it is sound and not what the index and the layers say, but perhaps another image's),
    ``moved`` (a VMDK that was made for another home), ``altered`` (its bytes are not those of its digest),
    ``extra`` (the index does not name it:
    ``prune --orphans`` collects it), ``foreign`` (no file of a cache), ``unfinished`` (files that msb was
    stopped while deleting), ``unclear`` (the log does not name it, and whether msb does cannot be told) or
    ``leftover`` (an earlier deletion had to leave it, as ``leftover`` says, and the next one tries again).
    Sizes in bytes; ``expected_bytes`` and ``found_bytes`` are None where they have no part in what is wrong.
    ``detail`` says what is wrong with the content. ``references``, canonical, need the file:
    what makes one of them anew mends it. ``subject`` is as for its deletion; None: it is no artifact.
    """

    problem: str
    kind: str
    path: Path
    expected_bytes: int | None = None
    found_bytes: int | None = None
    leftover: Leftover | None = None
    detail: str | None = None
    references: tuple[str, ...] = ()
    subject: str | None = None

    def _shape(self) -> dict[str, Any]:
        return fields(self, without=("subject",))


def checking(ledger: Ledger) -> Callable[[Collection[Path]], str | None]:
    """Return a function that says what is wrong with files of images, which we wrote; None: nothing.

    The index is read once, when the first is looked at.
    """
    read: list[IndexedFiles] = []

    def problem(paths: Collection[Path]) -> str | None:
        if not read:
            with ledger.read() as connection:
                if connection is None:
                    return None
                read.append(IndexedFiles(ledger.layout, connection, load(connection), by_msb=False))
        for found in read[0].broken(paths):
            what = {"missing": "is missing", "size": "has another size"}.get(found.problem)
            return f"{found.path.name} {what or f'is {found.problem}: {found.detail}'}; load the image again"
        return None

    return problem


def expected_files(layout: Layout, connection: sqlite3.Connection) -> dict[Path, tuple[str, int | None]]:
    """Return every file that an index names, with its kind and its size in bytes where that is known."""
    return IndexedFiles(layout, connection, load(connection), by_msb=False).sizes


class IndexedFiles:
    """The files that an index names, and what it says of them, as of one position.

    Args:
        layout: the home.
        connection: an index; it is read now, and not kept.
        state: the same index.
        by_msb: whether msb keeps the home.
    """

    def __init__(
        self, layout: Layout, connection: sqlite3.Connection, state: IndexState, *, by_msb: bool
    ) -> None:
        self._layout = layout
        self._state = state
        self._manifests: dict[str, ManifestRow] = {}
        for values in stored_rows(connection, ManifestRow):
            manifest = ManifestRow(*values)
            self._manifests[manifest.digest] = replace(manifest, config="")
        self._layers: dict[str, list[ManifestLayerRow]] = defaultdict(list)
        for values in stored_rows(connection, ManifestLayerRow):
            layer = ManifestLayerRow(*values)
            self._layers[layer.manifest_digest].append(layer)
        for layers in self._layers.values():
            layers.sort(key=attrgetter("position"))
        sizes: dict[tuple[str, str], int | None] = {
            ("layer", diff_id): erofs_bytes for diff_id, erofs_bytes, _ in stored_rows(connection, LayerRow)
        }
        for digest, row in self._manifests.items():
            sizes["fsmeta", digest], sizes["vmdk", digest] = row.fsmeta_bytes, row.vmdk_bytes
        self.sizes: dict[Path, tuple[str, int | None]] = {}
        """Every file that the index names, with its kind and its size in bytes where that is known."""
        self._subjects: dict[Path, str] = {}
        for kind, subject in NamedFiles.of(layout, state):
            path = layout.artifact(kind, subject)
            self.sizes[path] = (kind, sizes.get((kind, subject)))
            self._subjects[path] = subject
        self._by_msb = by_msb
        self._expect_flat_roots()

    def _expect_flat_roots(self) -> None:
        """Expect what the flat refs of images say, and nothing else of an image that has only a flat root."""
        layout, refs = self._layout, FlatRefs(self._layout)
        self._flat_refs: dict[str, str] = {}
        """The manifest by each blob's digest."""

        def expect(kind: str, subject: str, size: int | None) -> None:
            path = layout.artifact(kind, subject)
            self.sizes[path] = (kind, size)
            self._subjects[path] = subject

        for digest in sorted(self._manifests.keys() & (refs.by_manifest.keys() | refs.unreadable)):
            expect("flat_ref", digest, None)
            ref = refs.by_manifest.get(digest)
            if ref is not None:
                expect("flat", ref.artifact_digest, ref.virtual_size_bytes)
                self._flat_refs[ref.artifact_digest] = digest
            row = self._manifests[digest]
            if row.fsmeta_bytes is None and row.vmdk_bytes is None:
                merged = [layout.fsmeta(digest), layout.vmdk(digest)]
                if not any(map(files.exists, merged)):
                    for path in merged:
                        del self.sizes[path]

    def broken(
        self,
        only: Collection[Path] | None = None,
        counted: Callable[[Iterable[Path]], Iterable[Path]] = iter,
    ) -> Iterator[DiskProblem]:
        """Yield what is wrong with the files, or with those of them in ``only``, as they are now.

        ``counted`` returns the paths that it gets, and counts them.
        """
        wanted = None if only is None else set(only)
        trees = _Trees(self._layout)
        for path in counted(self._in_order()):
            if wanted is not None and path not in wanted:
                continue
            kind, size = self.sizes[path]
            subject = self._subjects[path]
            measured = files.measure(path)
            detail = None
            if measured is None:
                problem = "missing"
            elif size is not None and measured != size:
                problem = "size"
            elif (wrong := self._wrong(kind, subject, trees)) is not None:
                problem, detail = wrong
            else:
                continue
            needing = self.needing(kind, subject)
            yield DiskProblem(
                *(problem, kind, path, size, measured),
                detail=detail,
                references=needing,
                subject=subject,
            )

    def _in_order(self) -> Iterator[Path]:
        """Yield every file, those of images that share layers together: their trees are not kept for long."""
        artifact = self._layout.artifact
        for reference in self._state.canonical():
            yield artifact("metadata", reference)
        seen: set[str] = set()
        manifests = self._state.manifests
        for digest in sorted(manifests, key=lambda digest: tuple(manifests[digest])):
            for diff_id in manifests[digest]:
                if diff_id not in seen:
                    seen.add(diff_id)
                    yield artifact("layer", diff_id)
            for kind in belonging_to("manifest"):
                if (path := artifact(kind, digest)) in self.sizes:
                    yield path
        for digest in self._flat_refs:
            yield artifact("flat", digest)
        for diff_id in self._state.layers:
            if diff_id not in seen:
                yield artifact("layer", diff_id)

    def artifacts(self) -> Iterator[tuple[Path, tuple[str, str]]]:
        """Yield every file that the index names, with its kind and subject."""
        for path, (kind, _) in self.sizes.items():
            yield path, (kind, self._subjects[path])

    def needing(self, kind: str, subject: str) -> tuple[str, ...]:
        """Return the images, by canonical reference, that need a file."""
        if kind == "metadata":
            return (subject,)
        if kind == "flat":
            subject = self._flat_refs[subject]
        manifests = [subject] if kind != "layer" else self._having.get(subject, [])
        names = [name for digest in manifests for name in self._pointing.get(digest, ())]
        if len(manifests) > 1:
            names.sort(key=self._order.__getitem__)
        return tuple(map(self._state.naming.reference, names))

    @cached_property
    def _pointing(self) -> dict[str, list[str]]:
        """The references, as they are shown, that point at each manifest."""
        found = defaultdict[str, list[str]](list)
        for name, digest in self._state.references.items():
            found[digest].append(name)
        return found

    @cached_property
    def _order(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self._state.references)}

    @cached_property
    def _having(self) -> dict[str, list[str]]:
        """The manifests that have each layer."""
        found = defaultdict[str, list[str]](list)
        for digest, diff_ids in self._state.manifests.items():
            for diff_id in dict.fromkeys(diff_ids):
                found[diff_id].append(digest)
        return found

    def _wrong(self, kind: str, subject: str, trees: _Trees) -> tuple[str, str] | None:
        """Return the problem with a file that is there, and what it is."""
        try:
            if kind == "metadata":
                other = self._metadata_difference(subject)
            elif kind == "vmdk":
                found = self._vmdk_difference(subject)
                if found is not None and found.moved:
                    return "moved", found.what
                other = found and found.what
            elif kind == "fsmeta":
                other = self._fsmeta_difference(subject, trees)
            elif kind == "flat_ref":
                read_ref(self._layout.artifact(kind, subject))
                other = None
            elif kind == "flat":
                other = None
            else:
                other = None
                trees.read(subject)
        except (CorruptArtifactError, OSError) as error:
            return "damaged", as_text(str(error))
        return None if other is None else ("other", other)

    def _fsmeta_difference(self, digest: str, trees: _Trees) -> str | None:
        path = self._layout.fsmeta(digest)
        try:
            layers = [trees.read(diff_id) for diff_id in self._state.manifests[digest]]
        except (CorruptArtifactError, OSError):
            read_image(path)
            return None  # the layer is what is wrong, as far as can be told
        return fsmeta_difference(path, layers)

    def _vmdk_difference(self, digest: str) -> vmdk.Difference | None:
        layout = self._layout
        parts = [layout.fsmeta(digest), *map(layout.layer, self._state.manifests[digest])]
        expected = []
        for part in parts:
            size = self.sizes[part][1] or files.measure(part)
            if size is None:
                vmdk.read(layout.vmdk(digest))
                return None  # what is missing is another problem, and its size is not known
            expected.append((part, size))
        return vmdk.difference(layout.vmdk(digest), expected)

    def _metadata_difference(self, reference: str) -> str | None:
        found = metadata.decode(self._layout.metadata(reference))
        digest = found.manifest_digest
        if digest not in self._state.digests(reference):
            expected = " or ".join(sorted(self._state.digests(reference)))
            return f"it is of {digest[:100]}, not of {expected}"
        row = self._manifests.get(digest)
        if row is None:
            return None  # the image points at a manifest that is not in the index
        layers = self._layers[digest]
        if self._by_msb or row.msb_row:
            return msb_metadata_difference(found, row.config_digest, layers, row.stored_digest)
        return metadata_difference(found, row.config_digest, layers)


class _Trees:
    """The trees of layers, each read once for several images while they take _TREE_BYTES together."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._kept: dict[str, LayerImage] = {}
        self._left = _TREE_BYTES

    def read(self, diff_id: str) -> LayerImage:
        """Return a layer image's tree; raises CorruptArtifactError and OSError."""
        found = self._kept.pop(diff_id, None)
        if found is None:
            found = read_layer(self._layout.layer(diff_id))
            self._left -= found.footprint
            while self._left < 0 and self._kept:
                oldest = next(iter(self._kept))
                self._left += self._kept.pop(oldest).footprint
        self._kept[diff_id] = found  # the last of them now
        return found
