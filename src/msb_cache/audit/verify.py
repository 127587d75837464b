"""Check a whole home: the log's chain, and all else against the log or against what this release makes.

What is derived is no evidence: the schema, the projections and their copies are compared with what they must
be, and so is the disk. ``rebuild`` makes anew what can be made.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msb_cache.artifacts import files
from msb_cache.artifacts.layout import Layout, lock_path
from msb_cache.artifacts.locks import is_free
from msb_cache.audit import schema
from msb_cache.audit.data import DataCheck, DataRequest, check
from msb_cache.audit.files import BROKEN, DiskProblem, IndexedFiles
from msb_cache.audit.log_files import as_it_is
from msb_cache.audit.noted import CheckpointProblem, NoteCheck, Notes, Wanted
from msb_cache.audit.schema import SchemaProblem
from msb_cache.engines.engine import Engine
from msb_cache.engines.leftovers import Leftover
from msb_cache.errors import CorruptLogError, LogError
from msb_cache.eventstore import chain, subtrees
from msb_cache.eventstore.events import LogCreated
from msb_cache.eventstore.ids import uuid7
from msb_cache.eventstore.store import FORMAT
from msb_cache.eventstore.subtrees import Recomputed, SubtreeProblem
from msb_cache.failpoints import reached
from msb_cache.home import index_cache, pairing
from msb_cache.home.heads import Mismatch
from msb_cache.home.ledger import Ledger
from msb_cache.projections import live
from msb_cache.projections.digests import Artifact, digests
from msb_cache.projections.fold import Fold
from msb_cache.projections.past import Past, rows_of
from msb_cache.projections.rows import DigestRow
from msb_cache.projections.state import EMPTY, IndexState
from msb_cache.projections.tables import Tables
from msb_cache.session import Session
from msb_cache.shapes import Result

if TYPE_CHECKING:
    from msb_cache.activity import Count
    from msb_cache.eventstore.store import Fact

_LOOKS = 6
_PAUSE = 0.05  # seconds before the second further look; longer before each later one


@dataclass(frozen=True)
class CopyProblem(Result):
    """A copy of the index at position ``seq`` that is not what the log says, or cannot be read."""

    problem: index_cache.Problem
    seq: int
    path: Path

    def _shape(self) -> dict[str, Any]:
        return {"problem": self.problem, "position": self.seq, "path": self.path}


@dataclass
class Verification(Result):
    """What was checked and what was found wrong. ``sound`` is the verdict.

    ``against`` is the note that the log was compared with, if any, and ``contradiction`` says why the log
    does not extend it, None if it does. ``unreadable``: why the index could not be compared; None: it was.
    """

    home: Path
    chain: chain.Verified | chain.Break
    schema: list[SchemaProblem] = field(default_factory=list)
    differences: list[live.Difference] = field(default_factory=list)
    copies: int = 0
    """How many copies of the index were compared with the log."""
    bad_copies: list[CopyProblem] = field(default_factory=list)
    disk: list[DiskProblem] = field(default_factory=list)
    files: int = 0
    unreadable: str | None = None
    owned_by_msb: bool = False
    against: NoteCheck | None = None
    checkpoints: int = 0
    """How many signed checkpoints that the home keeps were compared with the log."""
    bad_checkpoints: list[CheckpointProblem] = field(default_factory=list)
    put_back: list[CheckpointProblem] = field(default_factory=list)
    """Those of what the log was before it was put back, which a person has confirmed."""
    subtrees: int = 0
    """How many hashes that the home keeps of the log's tree were compared with the log."""
    bad_subtrees: list[SubtreeProblem] = field(default_factory=list)
    rewound: Mismatch | None = None
    """How the log does not go on from the note of it that is kept outside the home; None: it does, or
    there is none."""
    no_head_note: str | None = None
    """Why there is no such note; None: there is one."""
    head_wanted: bool = False
    """Whether there is to be one."""
    data: DataCheck | None = None
    """What was looked at of the files' bytes; None: nothing was."""

    @property
    def contradiction(self) -> str | None:
        """Why the log does not extend the note that it was compared with; None: it does, or there is none."""
        return None if self.against is None else self.against.contradiction

    @property
    def is_other(self) -> bool:
        """Whether the log is not the one that was noted: here, outside the home or by others."""
        differing = [each for each in self.bad_checkpoints if each.problem != "damaged"]
        return bool(self.rewound or self.contradiction or differing)

    @property
    def sound(self) -> bool:
        """Whether the log verifies and extends the notes of it, and all that is made of it is as it must be.

        Extra files waste space but break no promise, so they do not count.
        """
        broken = [problem for problem in self.disk if problem.problem in BROKEN]
        derived = self.schema or self.differences or self.bad_copies or self.bad_subtrees or broken
        noted = self.is_other or self.bad_checkpoints or (self.against is not None and self.against.problem)
        return not (isinstance(self.chain, chain.Break) or noted or derived or self.unreadable)

    def _shape(self) -> dict[str, Any]:
        rewound = self.rewound
        return {
            "sound": self.sound,
            "chain": self.chain,
            "against": self.against,
            "checkpoints": self.checkpoints,
            "bad_checkpoints": self.bad_checkpoints,
            "put_back": self.put_back,
            "head_note": {
                "kept": self.no_head_note is None,
                "problem": None if rewound is None else rewound.kind,
                "events": None if rewound is None else rewound.note.size,
                "why_none": self.no_head_note,
            },
            "schema": self.schema,
            "unreadable": self.unreadable,
            "differences": self.differences,
            "copies": self.copies,
            "bad_copies": self.bad_copies,
            "subtrees": self.subtrees,
            "bad_subtrees": self.bad_subtrees,
            "files": self.files,
            "data": self.data,
            "disk": self.disk,
        }


def verify(
    ledger: Ledger,
    engine: Engine,
    asked: Wanted | None = None,
    observe: Callable[[], object] = lambda: None,
    data: DataRequest | None = None,
) -> Verification:
    """Check everything; without ``data`` reads only. What others change meanwhile is looked at again.

    Args:
        ledger: the home.
        engine: the one that the home has.
        asked: a note that was taken of this log before, which it must extend, and who must have signed it.
        observe: records what msb did, so that the index can be read again.
        data: which files' bytes to look at as well; None: no file's.
    """
    found = Verification(Path(ledger.layout.home), chain.Verified(0, chain.GENESIS, None))
    found.owned_by_msb = engine.name == "msb"
    index = _Index()
    noted = ledger.head_file.read()  # before the log, which may go on meanwhile
    found.no_head_note, found.head_wanted = ledger.head_file.why_none, ledger.head_file.path is not None
    with ExitStack() as stack:
        connection = _opened(ledger, stack)
        if noted is not None:
            with suppress(sqlite3.Error):  # which the check of the log meets, too
                found.rewound = ledger.head_file.mismatch(connection, noted)
        if connection is not None:
            found.schema = _schema_problems(ledger, connection)
        notes = Notes(connection, asked, keeps=not _is_broken(found.schema, "signed_checkpoint"))
        tree = Recomputed(notes.sizes())
        if connection is not None:
            with ledger.doing("checking the log", "events", _head(connection)) as count:
                found.chain = _check(connection, found.schema, count, tree)
            if not _is_broken(found.schema, "subtree"):
                _compare_tree(connection, found, tree)
        for problem in notes.of_home(found.chain, tree):
            found.checkpoints += 1
            if problem is not None:
                (found.put_back if problem.problem == "put-back" else found.bad_checkpoints).append(problem)
        found.against = notes.check(found.chain, tree)
        if connection is not None:
            with ledger.doing("comparing the index with the log", "events", _head(connection)) as count:
                rows = _compare(connection, ledger, found, stack, count.each)
                if rows is None:
                    return found
                index = _Index.of(ledger, engine, rows, _head(connection))
    reached("verify.read")
    found.files = 0 if index.files is None else len(index.files.sizes)
    found.disk = _look_until_settled(ledger, engine, index, observe)
    if data is not None and index.files is not None:
        broken = {problem.path for problem in found.disk if problem.problem in BROKEN}
        found.data, altered = check(
            *(ledger, index.files, index.digests, data),
            by_msb=found.owned_by_msb,
            broken=broken,
            observe=observe,
            unsound=_not_to_be_written(found),
        )
        found.disk += altered
    return found


def _not_to_be_written(found: Verification) -> str | None:
    """Return why nothing is to be added to a log: one that is not what it was is evidence."""
    if isinstance(found.chain, chain.Break):
        return "the log is not sound"
    if found.is_other:
        return "the log does not go on from what was noted of it"
    return None


def rebuild(session: Session) -> list[SchemaProblem | live.Difference | SubtreeProblem]:
    """Make the schema what it must be, fold the whole log again, and discard every copy of the index.

    Returns:
        What was wrong with the schema, how the projections differed, and which hashes of the log's tree.
    """
    ledger = session.ledger
    ledger.check_writable()
    session.close()
    mended = schema.mend(ledger.layout, ledger.note)
    session.begin_writing()
    # The long part is done without keeping others from writing.
    with ledger.read() as connection:
        if connection is None:
            return []
        store = ledger.store(connection)
        head = store.head()
        fold = Fold(Tables())
        with ledger.doing("folding the log", "events", head.seq if head else 0) as count:
            fold.apply(count.each(store.facts()))
        tree = _tree_of(connection)
        wrong = [] if tree is None else [*tree.problems(connection)]
    reached("rebuild.folded")
    with ledger.doing("comparing the index with the log"), ledger.write(uuid7(), owner="any") as transaction:
        store = ledger.store(transaction.connection)
        differences = live.rebuild(transaction.connection, store, fold, head.seq if head else 0)
        if tree is not None and (wrong or tree.lacks(transaction.connection)):
            tree.keep(transaction.connection)
            subtrees.keep(transaction.connection, _head(transaction.connection))
        reached("rebuild.compared")
        # Before the index is right: who is killed here leaves one that the next rebuild finds wrong.
        index_cache.forget(ledger.layout.snapshots)
        reached("rebuild.forgot")
    if differences:
        # Once more: another process may have copied the wrong index meanwhile.
        index_cache.forget(ledger.layout.snapshots)
    return [*mended, *differences, *wrong]


def _tree_of(connection: sqlite3.Connection) -> Recomputed | None:
    """Return the tree over the log as it is stored; None: an event of it has no hash."""
    tree = Recomputed()
    for (stored,) in connection.execute("SELECT hash FROM events ORDER BY seq"):
        if not isinstance(stored, bytes):
            return None
        tree.add(stored)
    return tree


def _opened(ledger: Ledger, stack: ExitStack) -> sqlite3.Connection | None:
    try:
        return stack.enter_context(ledger.read())
    except CorruptLogError as error:
        # Other readers refuse a log whose end is gone, or a schema that is not what it says it is. Here those
        # are findings, and the rest is checked.
        pairing.check(ledger.layout.database)  # else it would be opened here, and the mixture looked at
        try:
            connection = stack.enter_context(as_it_is(Path(ledger.layout.database)))
        except CorruptLogError:
            raise error from None
        if not schema.problems(connection) and _cut_off(connection) is None:
            raise
        return connection


def _schema_problems(ledger: Ledger, connection: sqlite3.Connection) -> list[SchemaProblem]:
    return [
        problem
        for problem in schema.problems(connection)
        if not (ledger.is_apart and problem.name == "journal_mode")  # which is not that of the file
    ]


def _is_broken(found: list[SchemaProblem], *tables: str) -> bool:
    return any(problem.kind == "table" and problem.name in tables for problem in found)


def _check(
    connection: sqlite3.Connection, problems: list[SchemaProblem], count: Count, tree: Recomputed
) -> chain.Verified | chain.Break:
    found = chain.verify(connection, lambda rows: tree.following(count.each(rows)))
    if isinstance(found, chain.Break) or _is_broken(problems, "projection_state"):
        return found
    return _cut_off(connection) or found


def _compare_tree(connection: sqlite3.Connection, found: Verification, tree: Recomputed) -> None:
    whole = isinstance(found.chain, chain.Verified)
    (found.subtrees,) = connection.execute("SELECT count(*) FROM subtree").fetchone()
    found.bad_subtrees = [*tree.problems(connection, whole=whole)]


def _compare(
    connection: sqlite3.Connection,
    ledger: Ledger,
    found: Verification,
    stack: ExitStack,
    counted: Callable[[Iterable[Fact]], Iterable[Fact]],
) -> sqlite3.Connection | None:
    """Fold the log, and compare with it the copies of the index on the way and the live one at the end.

    Returns:
        The index that the log makes; the live one if the log cannot be folded, and None if neither is there.
    """
    store, position = ledger.store(connection), 0
    fold = Fold(Tables())
    broken = _is_broken(found.schema, *schema.FOLDED)
    try:
        for first in store.read(until=1):
            if isinstance(first.data, LogCreated) and first.data.format != FORMAT:
                raise CorruptLogError(
                    f"the log has format {first.data.format}, and this msb-cache knows {FORMAT}"
                )
        for cached in index_cache.known(connection, ledger.layout.snapshots):
            fold.apply(counted(store.facts(after=position, until=cached.seq)))
            position = cached.seq
            found.copies += 1
            problem = index_cache.problem_with(cached, rows_of(fold.tables))
            if problem is not None:
                found.bad_copies.append(CopyProblem(problem, cached.seq, cached.path))
        fold.apply(counted(store.facts(after=position)))
    except LogError as error:
        found.unreadable = str(error)
        return None if broken else connection
    if broken:
        found.unreadable = "it lacks a table, or has one of another form"
    else:
        found.differences = live.compare(connection, fold)
    past = stack.enter_context(closing(Past(position, rows_of(fold.tables))))
    past.asked_about(ledger.clock())
    return past.connection


def _cut_off(connection: sqlite3.Connection) -> chain.Break | None:
    """Return where the log's end is gone: the index has been further."""
    head = _head(connection)
    _, position = live.position(connection)
    if position <= head:
        return None
    problem = f"its end is gone: it ends at event {head}, and the index has had {position}"
    return chain.Break(head + 1, problem, "truncated")


@dataclass(frozen=True)
class _Index:
    """What the disk is compared with: the files that the index names, at the log's position ``head``."""

    head: int = 0
    files: IndexedFiles | None = None
    state: IndexState = EMPTY
    leftovers: dict[Path, Leftover] = field(default_factory=dict)
    digests: dict[Artifact, DigestRow] = field(default_factory=dict)

    @classmethod
    def of(cls, ledger: Ledger, engine: Engine, rows: sqlite3.Connection, head: int) -> _Index:
        state = engine.index(rows)
        return cls(
            head,
            IndexedFiles(ledger.layout, rows, state, by_msb=engine.name == "msb"),
            state,
            {each.path: each for each in engine.leftovers(rows)},
            digests(rows),
        )

    def broken(self, only: Collection[Path]) -> Iterator[DiskProblem]:
        """Yield what is wrong with those of the files in ``only`` that the index names."""
        return iter(()) if self.files is None else self.files.broken(only)

    def all_broken(self, ledger: Ledger) -> list[DiskProblem]:
        """Return what is wrong with the files that the index names."""
        if self.files is None:
            return []
        with ledger.doing("looking at files", "files", len(self.files.sizes)) as count:
            return [*self.files.broken(counted=count.each)]


def _head(connection: sqlite3.Connection) -> int:
    (head,) = connection.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()
    return int(head)


def _look_until_settled(
    ledger: Ledger, engine: Engine, index: _Index, observe: Callable[[], object]
) -> list[DiskProblem]:
    """Return what is wrong with the disk, and not only changes while it is looked at.

    A finding counts if no process has the file locked, and the index still says the same when the file has
    been looked at again. In a home in which that never comes, it counts if it was seen _LOOKS times.
    """
    layout, settled = ledger.layout, list[DiskProblem]()
    found = index.all_broken(ledger)
    with ledger.doing("looking for files that no image needs"):
        found += _extra(layout, engine, index)
    for number in range(_LOOKS):
        if not found:
            break
        if number:
            time.sleep(_PAUSE * number)
        observe()
        index = _read_again(ledger, engine, index)
        reached("verify.read")
        seen = {problem.path for problem in found}
        again = [*index.broken(seen)]
        if not all(problem.problem in BROKEN for problem in found):
            again += (problem for problem in _extra(layout, engine, index) if problem.path in seen)
        observe()
        unchanged = _read_again(ledger, engine, index) is index
        busy = list[DiskProblem]()
        for problem in again:
            is_settled = unchanged and is_free(lock_path(problem.path))
            (settled if is_settled else busy).append(problem)
        found = busy
    # What is still being worked with is no orphan; a file that the index needs was missing every time.
    return [*settled, *(problem for problem in found if problem.problem in BROKEN)]


def _read_again(ledger: Ledger, engine: Engine, index: _Index) -> _Index:
    """Return the index as it is now; ``index``, if nothing was appended since that was read."""
    try:
        with ledger.read() as connection:
            if connection is not None and (head := _head(connection)) != index.head:
                return _Index.of(ledger, engine, connection, head)
    except (LogError, sqlite3.Error):
        pass  # a finding by itself, and nothing is appended to such a log
    return index


def _extra(layout: Layout, engine: Engine, index: _Index) -> Iterator[DiskProblem]:
    orphans = engine.orphans(index.state)
    for kind, _, path in orphans.files:
        leftover = index.leftovers.get(path)
        problem = "leftover" if leftover is not None else "extra" if orphans.judged else "unclear"
        yield DiskProblem(problem, kind, path, None, files.measure_artifact(kind, path), leftover)
    for path in layout.foreign_files():
        yield DiskProblem("foreign", "file", path, None, files.measure(path))
    for path in layout.interrupted_deletions():
        if is_free(path / "active.lock"):
            yield DiskProblem("unfinished", "folder", path)
