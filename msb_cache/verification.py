"""Check a whole home: the log's chain, the projections against the log, the disk against the index."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from msb_cache.artifacts import files, metadata
from msb_cache.artifacts.erofs.reader import read_image
from msb_cache.artifacts.locks import is_free
from msb_cache.errors import CorruptArtifactError, LogError, MsbDatabaseError
from msb_cache.eventstore import chain
from msb_cache.ledger import Ledger
from msb_cache.projections import live
from msb_cache.projections.rows import LayerRow, ManifestRow
from msb_cache.projections.state import IndexState, load
from msb_cache.projections.tables import columns, stored_rows

_EMPTY = IndexState({}, {}, frozenset(), {})

BROKEN = ("missing", "size", "damaged")
"""The problems with files that the index needs."""


@dataclass(frozen=True)
class DiskProblem:
    """One thing about the disk that the index does not expect.

    ``problem`` is ``missing``, ``size`` (the index knows another), ``damaged`` (it cannot be read as what
    it is), ``extra`` (the index does not name it: ``prune --orphans`` collects it), ``foreign`` (no file of a
    cache), ``unfinished`` (files that msb was stopped while deleting) or ``unclear`` (the log does not name
    it, and whether msb does cannot be told). Sizes in bytes.
    """

    problem: str
    kind: str
    path: Path
    expected_bytes: int | None = None
    found_bytes: int | None = None


@dataclass
class Verification:
    """What was checked and what was found wrong. ``sound`` is the verdict."""

    home: Path
    chain: chain.Verified | chain.Break
    differences: list[live.Difference] = field(default_factory=list)
    disk: list[DiskProblem] = field(default_factory=list)
    files: int = 0
    unreadable: str | None = None
    owned_by_msb: bool = False

    @property
    def sound(self) -> bool:
        """Whether the log verifies, the projections are its fold, and nothing is missing or damaged.

        Extra files waste space but break no promise, so they do not count.
        """
        broken = [problem for problem in self.disk if problem.problem in BROKEN]
        unsound = isinstance(self.chain, chain.Break) or self.differences or broken or self.unreadable
        return not unsound


def verify(ledger: Ledger) -> Verification:
    """Check everything; reads only."""
    home = ledger.layout.home
    with ledger.snapshot() as connection:
        if connection is None:
            empty = chain.Verified(0, chain.GENESIS, None)
            extra = list(_extra(ledger, set(), _EMPTY))
            return Verification(home, empty, disk=extra, owned_by_msb=ledger.owned_by_msb)
        found = Verification(home, chain.verify(connection), owned_by_msb=ledger.owned_by_msb)
        try:
            found.differences = live.compare(connection, live.fold_until(ledger.store(connection)))
        except LogError as error:
            found.unreadable = str(error)
        expected = _expected(ledger, connection)
        state = load(connection)
    found.files = len(expected)
    for path, (kind, size) in expected.items():
        measured = files.measure(path)
        if measured is None:
            found.disk.append(DiskProblem("missing", kind, path, size))
        elif size is not None and measured != size:
            found.disk.append(DiskProblem("size", kind, path, size, measured))
        elif not _reads(kind, path):
            found.disk.append(DiskProblem("damaged", kind, path, size, measured))
    found.disk.extend(_extra(ledger, set(expected), state))
    return found


def _reads(kind: str, path: Path) -> bool:
    """Whether a file can be read as what it is: digests of metadata, structure of EROFS images."""
    try:
        if kind == "metadata":
            metadata.read(path)
        elif kind in ("layer", "fsmeta"):
            read_image(path)
    except (CorruptArtifactError, OSError):
        return False
    return True


def _named_by_msb(ledger: Ledger, state: IndexState) -> set[Path] | None:
    """Return the files that msb's index needs as well; None when that cannot be told."""
    from msb_cache import msb_database, msb_deletion

    try:
        theirs = msb_database.read(ledger.layout.msb_database)
    except MsbDatabaseError:
        return None
    return msb_deletion.named_files(ledger.layout, state, theirs)


def _expected(ledger: Ledger, connection: sqlite3.Connection) -> dict[Path, tuple[str, int | None]]:
    layout = ledger.layout
    expected: dict[Path, tuple[str, int | None]] = {}
    for reference in load(connection).references:
        expected[layout.metadata(reference)] = ("metadata", None)
    names = columns(ManifestRow)
    for row in stored_rows(connection, ManifestRow):
        manifest = dict(zip(names, row, strict=True))
        expected[layout.fsmeta(manifest["digest"])] = ("fsmeta", manifest["fsmeta_bytes"])
        expected[layout.vmdk(manifest["digest"])] = ("vmdk", manifest["vmdk_bytes"])
    for diff_id, erofs_bytes, _ in stored_rows(connection, LayerRow):
        expected[layout.layer(diff_id)] = ("layer", erofs_bytes)
    return expected


def _extra(ledger: Ledger, expected: set[Path], state: IndexState) -> Iterator[DiskProblem]:
    named = _named_by_msb(ledger, state) if ledger.owned_by_msb else set()
    problem = "unclear" if named is None else "extra"
    for kind, _, path in ledger.layout.files():
        if path not in expected and path not in (named or ()):
            yield DiskProblem(problem, kind, path, None, files.measure(path))
    for path in ledger.layout.foreign_files():
        yield DiskProblem("foreign", "file", path, None, files.measure(path))
    for path in ledger.layout.interrupted_deletions():
        if is_free(path / "active.lock"):
            yield DiskProblem("unfinished", "folder", path)
