"""Signed checkpoints of a fleet's logs, held against the events that were shipped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msb_cache.errors import InvalidConfigError, InvalidProofError
from msb_cache.eventstore.merkle import Frontier, leaf_hash
from msb_cache.fleet.place import SCHEMA
from msb_cache.fleet.writing import Writing
from msb_cache.proof.note import parse
from msb_cache.proof.tree_head import head_of
from msb_cache.proof.vkey import VerifierKey

WAITING = (
    f"FROM {SCHEMA}.checkpoint c JOIN {SCHEMA}.fold_state s ON s.log_id = c.log_id "
    f"JOIN {SCHEMA}.head w ON w.log_id = c.log_id LEFT JOIN {SCHEMA}.enrolment e ON e.role = w.role "
    f"LEFT JOIN {SCHEMA}.anchor a ON a.log_id = c.log_id "
    "WHERE s.checkpoint_problem IS NULL AND c.size > coalesce(s.checkpoint_size, 0) "
    "AND c.size >= coalesce(a.seq, 0) "
    "AND (e.log_key IS NULL OR substr(e.log_key, 1, length(c.origin) + 1) = c.origin || '+')"
)
"""Checkpoints ``c`` that were not looked at yet and can be: of the log's own key, where one is known.

Of events that are in an archive only what was folded from them is there, so of no earlier size the root.
"""

_PAGE = 50_000


class Checkpoint(NamedTuple):
    """A signed checkpoint as it came: of how many events, and the note."""

    size: int
    note: str


class Verdict(NamedTuple):
    """What became of checkpoints: up to which size they agree, and what is wrong with the next one."""

    size: int | None
    problem: str | None


def waiting(writing: Writing, log_id: str, end: int) -> list[Checkpoint]:
    """Return a log's checkpoints up to a size that were not looked at yet, the smallest first."""
    found = writing.rows(
        f"SELECT c.size, c.note {WAITING} AND c.log_id = ? AND c.size <= ? ORDER BY c.size, c.origin",
        (log_id, end),
    )
    return [Checkpoint(*row) for row in found]


class Tree:
    """The Merkle tree over a log's events while they are folded.

    Attributes:
        roots: by their sizes, those of the trees that were asked for.
    """

    def __init__(self, writing: Writing, log_id: str, frontier: Frontier | None, seq: int) -> None:
        self._writing = writing
        self._log_id = log_id
        self._seq = seq
        self._frontier = frontier
        self.roots: dict[int, bytes] = {}

    @classmethod
    def of(cls, writing: Writing, log_id: str, seq: int, kept: bytes | None) -> Tree:
        """Return that of a log up to event ``seq``, from what was kept of it; None: nothing was."""
        if seq == 0:
            return cls(writing, log_id, Frontier(), 0)
        return cls(writing, log_id, None if kept is None else Frontier.kept(seq, bytes(kept)), seq)

    @property
    def kept(self) -> bytes | None:
        """What is to be kept of it."""
        return None if self._frontier is None else self._frontier.peaks

    def extend(self, hashes: Sequence[bytes], sizes: Iterable[int]) -> None:
        """Add events by their hashes, and take the roots of these sizes."""
        wanted = set(sizes)
        behind = {size for size in wanted if size < self._seq}
        if behind or (wanted and self._frontier is None):
            self._look_back(behind)
        if self._frontier is None:
            return
        _extend(self._frontier, hashes, wanted - behind, self.roots)

    def _look_back(self, sizes: set[int]) -> None:
        """Make the tree anew from the events, or from what an archive has left of the first."""
        from msb_cache.fleet.folded import decoded

        frontier = Frontier()
        anchored = self._writing.rows(
            f"SELECT seq, rows FROM {SCHEMA}.anchor WHERE log_id = ?",
            (self._log_id,),
        )
        if anchored:
            seq, data = anchored[0]
            tree = decoded(bytes(data)).tree
            if tree is None:
                return
            frontier = Frontier.kept(seq, tree)
        while frontier.size < self._seq:
            page = self._writing.rows(
                f"SELECT hash FROM {SCHEMA}.events WHERE log_id = ? AND seq > ? AND seq <= ? ORDER BY seq",
                (self._log_id, frontier.size, min(self._seq, frontier.size + _PAGE)),
            )
            if not page:
                return
            _extend(frontier, [stored for (stored,) in page], sizes, self.roots)
        self._frontier = frontier


def _extend(frontier: Frontier, hashes: Sequence[bytes], sizes: set[int], roots: dict[int, bytes]) -> None:
    if frontier.size in sizes:
        roots[frontier.size] = frontier.root()
    for stored in hashes:
        frontier.append(leaf_hash(stored))
        if frontier.size in sizes:
            roots[frontier.size] = frontier.root()


def check(notes: Sequence[Checkpoint], tree: Tree, log_key: str | None) -> Verdict:
    """Hold checkpoints against the roots of their sizes, and their signatures against the log's key.

    Args:
        notes: the smallest first.
        tree: has their roots.
        log_key: whose signature they must have; None: no key is known, so none is looked at.

    Raises:
        UnsupportedError: what checks signatures is not installed.
    """
    size = None
    for note in notes:
        found = problem(note, tree.roots.get(note.size), log_key)
        if found is not None:
            return Verdict(size, found)
        size = note.size
    return Verdict(size, None)


def problem(found: Checkpoint, root: bytes | None, log_key: str | None) -> str | None:
    """Return what is wrong with a checkpoint, as a sentence; None: nothing is.

    Args:
        found: the checkpoint.
        root: that of the log's first events, so many as it says; None: the log has not so many.
        log_key: as for ``check``.

    Raises:
        UnsupportedError: what checks signatures is not installed.
    """
    what = f"the signed checkpoint of {found.size:,} events"
    try:
        note = parse(found.note.encode(), what)
        head = head_of(note, what)
        key = None if log_key is None else VerifierKey.parse(log_key)
        if root is None or (head.size, head.root) != (found.size, root):
            return f"{what} is of others than those that were shipped"
        if key is not None and not note.signed_by([key]):
            return f"{what} is not signed by {key.name}"
    except (InvalidProofError, InvalidConfigError) as error:
        return str(error)
    return None
