"""What was noted of a log, against the log: the note that somebody kept, and checkpoints that were signed.

Roots are those of the rows that were checked, never of hashes that are kept. Who signed is asked only of
those whose keys are given: that a log is another than it was, its rows tell without a key.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from msb_cache.eventstore.chain import Break, Verified
from msb_cache.projections import restored
from msb_cache.proof import chain_note, kept, note, note_file
from msb_cache.proof.chain_note import ChainNote
from msb_cache.proof.kept import DamagedCheckpoint, KeptCheckpoint
from msb_cache.proof.note import Note
from msb_cache.proof.tree_head import TreeHead, head_of
from msb_cache.shapes import Result
from msb_cache.wording import as_text, plural

if TYPE_CHECKING:
    from msb_cache.eventstore.subtrees import Recomputed
    from msb_cache.projections.rows import RestoredRow
    from msb_cache.proof.policy import Judgement, Policy
    from msb_cache.proof.vkey import VerifierKey

NoteKind = Literal["checkpoint", "chain-note"]
"""A checkpoint of C2SP, or the note of older releases."""

_OLDER = b"msb-cache checkpoint "
_UNNAMED = re.compile(r"msb-cache/([0-9a-f]{32})")
"""The origin that a checkpoint has when nobody signs it: it has the log's id."""


@dataclass(frozen=True)
class NoteCheck(Result):
    """A note that a log was compared with.

    ``origin`` is the log's name that it says; None: it says none. ``contradiction`` says why the log does not
    begin with what was noted; None: it does. ``judgement`` is what the keys or the policy say of those who
    signed it; None: neither was given. ``has_signatures``: somebody says that it is signed. ``notes``: how
    many there were, of a file with more than one: all are compared with the log, and the rest tells of the
    first that it contradicts, or else of the largest that is signed as it must be.
    """

    kind: NoteKind
    origin: str | None
    size: int
    contradiction: str | None
    judgement: Judgement | None = None
    has_signatures: bool = False
    notes: int = 1

    @property
    def problem(self) -> str | None:
        """Why the note does not prove the log: that is another, or the note is not signed as it must be."""
        return self.contradiction or (None if self.judgement is None else self.judgement.problem)

    def _shape(self) -> dict[str, Any]:
        log = None if self.judgement is None else self.judgement.log
        return {
            "kind": self.kind,
            "origin": self.origin,
            "size": self.size,
            "notes": self.notes,
            "extended": self.contradiction is None,
            "problem": self.problem,
            "signed_by": None if log is None else log.name,
            "cosigned_by": [] if self.judgement is None else [*self.judgement.cosigned],
        }


CheckpointFault = Literal["rewritten", "cut-off", "damaged", "put-back"]


@dataclass(frozen=True)
class CheckpointProblem(Result):
    """A signed checkpoint that the home keeps, and that the log is not the one of, or that is damaged.

    ``rewritten``: the log has another root at that size. ``cut-off``: it has not so many events. ``damaged``:
    it is no checkpoint any more. ``put-back``: it is of what the log was before it was put back to a backup,
    which a person has confirmed. ``detail`` is one sentence.
    """

    origin: str
    size: int
    problem: CheckpointFault
    detail: str


@dataclass(frozen=True)
class Wanted:
    """What a log is to be compared with: notes, or without one the newest that its home keeps."""

    notes: ChainNote | Sequence[Note]
    policy: Policy | None


def wanted(
    against: str | bytes | None, keys: Sequence[str | VerifierKey], policy: bytes | None
) -> Wanted | None:
    """Return what is asked for; None: nothing.

    Raises:
        LogError: ``against`` is no note.
        InvalidConfigError: a key or the policy is none, or no key of a log is given.
    """
    asked = None
    if keys or policy is not None:
        from msb_cache.proof.policy import trusted

        asked = trusted(keys, policy)
    if against is None:
        return None if asked is None else Wanted((), asked)
    data = against.encode("utf-8", "surrogatepass") if isinstance(against, str) else against
    return Wanted(_parsed(data), asked)


def _parsed(data: bytes) -> ChainNote | Sequence[Note]:
    if data.startswith(_OLDER):
        return chain_note.parse(data.decode("ascii", "replace"))
    if not note_file.is_several(data):
        found = note.parse(data)
        head_of(found)
        return [found]
    several = note_file.notes_in(data)
    for number, each in enumerate(several, 1):
        head_of(each, f"note {number} of the file")
    return several


class Notes:
    """The notes that a log is compared with, before and after the check of its rows.

    Args:
        connection: the log, in the read in which it is checked; None: there is none.
        asked: what it is to be compared with besides those that the home keeps; None: nothing.
        keeps: whether the home's database has the table of those.
    """

    def __init__(
        self, connection: sqlite3.Connection | None, asked: Wanted | None, *, keeps: bool = True
    ) -> None:
        self._connection = connection
        self._asked = asked
        self._keeps = keeps and connection is not None

    def sizes(self) -> Sequence[int]:
        """Return at which sizes of the log they need the root."""
        found = kept.sizes(self._connection) if self._keeps and self._connection is not None else []
        if self._asked is not None and not isinstance(self._asked.notes, ChainNote):
            found += [head_of(each).size for each in self._asked.notes]
        return found

    def check(self, log: Verified | Break, tree: Recomputed) -> NoteCheck | None:
        """Return what becomes of the note that was asked for; None: none was."""
        if self._asked is None:
            return None
        of, policy = self._asked.notes, self._asked.policy
        if isinstance(of, ChainNote):
            problem = self._hinted(chain_note.contradiction(self._connection, of, log), of.size)
            return NoteCheck("chain-note", None, of.size, problem, None if policy is None else _unsigned())
        of = of or self._newest(policy)
        if not of:
            return NoteCheck("checkpoint", None, 0, "this home keeps no signed checkpoint to be checked")
        for each in of:
            head = head_of(each)
            problem = self._contradiction(head, log, tree)
            if problem is not None:
                judgement = None if policy is None else policy.judge(each)
                if judgement is not None and judgement.log is None and len(of) > 1:
                    continue  # who can only append to the file raises no alarm without the key
                return _checked(each, self._hinted(problem, head.size), judgement, len(of))
        each, judgement = _believed(of, policy)
        return _checked(each, None, judgement, len(of))

    def of_home(self, log: Verified | Break, tree: Recomputed) -> Iterator[CheckpointProblem | None]:
        """Yield for each signed checkpoint that the home keeps what is wrong with it, None if nothing is.

        Those behind a break of the log tell nothing and are left out.
        """
        if not self._keeps or self._connection is None:
            return
        for each in kept.each(self._connection):
            if isinstance(each, DamagedCheckpoint):
                yield CheckpointProblem(each.origin, each.size, "damaged", each.problem)
                continue
            head = each.head
            root = tree.root(head.size)
            known = None if root == head.root else self._put_back(each)
            if root == head.root:
                yield None
            elif known is not None:
                yield CheckpointProblem(head.origin, head.size, "put-back", f"{_signed(head)} before {known}")
            elif root is not None:
                problem = f"{_signed(head)}, and they are not those of the log: it was rewritten after that"
                yield self._problem(head, "rewritten", problem)
            elif isinstance(log, Verified) or log.kind == "truncated":
                had = plural(tree.size, "event")
                problem = (
                    f"{_signed(head)}, and the log has only {had}: its end was cut off, or it was put back"
                )
                yield self._problem(head, "cut-off", problem)

    def _put_back(self, of: KeptCheckpoint) -> str | None:
        """Return how the log was put back since, to what lies before a checkpoint, if that was confirmed."""
        row = self._restored(of.head.size)
        if row is None or row.confirmed_at is None or row.restored_at < of.signed_at_ns:
            return None
        return f"the log was put back to a backup of {plural(row.backup_seq, 'event')} (event {row.seq})"

    def _problem(self, head: TreeHead, fault: CheckpointFault, detail: str) -> CheckpointProblem:
        return CheckpointProblem(head.origin, head.size, fault, self._hinted(detail, head.size) or detail)

    def _newest(self, policy: Policy | None) -> Sequence[Note]:
        """Return the largest kept one of a log whose key is given, else the largest of any; or none."""
        known = set[str]() if policy is None else {each.key.name for each in policy.logs}
        found, of_known = list[Note](), list[Note]()
        if self._keeps and self._connection is not None:
            for each in kept.each(self._connection):
                if isinstance(each, KeptCheckpoint):
                    found = [each.note]
                    of_known = found if each.head.origin in known else of_known
        return of_known or found

    def _contradiction(self, head: TreeHead, log: Verified | Break, tree: Recomputed) -> str | None:
        root = tree.root(head.size)
        if root == head.root:
            return None
        unproved = chain_note.not_reached(head.size, log)
        if unproved is not None:
            return unproved
        if not head.size:
            return "the note is of no events, and its root is not that of none"
        if not tree.size:
            return f"there is no log, and the note is of {plural(head.size, 'event')}"
        is_ours, log_id = False, log.log_id if isinstance(log, Verified) else None
        named = _UNNAMED.fullmatch(head.origin)
        if named is not None and log_id is not None:
            if named[1] != log_id:
                return chain_note.another_log(log_id, named[1])
            is_ours = True
        or_another = "" if is_ours or self._has_signed(head.origin) else ", or the note is of another log"
        if root is None:
            return (
                f"the log has only {plural(tree.size, 'event')}, and the note is of {head.size:,}: "
                f"its end was cut off{or_another}"
            )
        return (
            f"the first {plural(head.size, 'event')} are not those of the note: "
            f"the log was rewritten{or_another}"
        )

    def _has_signed(self, origin: str) -> bool:
        """Return whether the home keeps a checkpoint by that name, so that it is this log's."""
        with suppress(sqlite3.Error):
            found = (
                self._connection
                and self._connection.execute(
                    "SELECT 1 FROM signed_checkpoint WHERE origin = ? LIMIT 1", (origin,)
                ).fetchone()
            )
            return bool(found)
        return False

    def _hinted(self, problem: str | None, size: int) -> str | None:
        """Return the sentence, with what the log says itself of having lost what it had."""
        row = None if problem is None else self._restored(size)
        if row is None:
            return problem
        to = plural(row.backup_seq, "event")
        return f"{problem}; event {row.seq} says that it was put back to a backup of {to}"

    def _restored(self, size: int) -> RestoredRow | None:
        """Return the last restore to what lies before a size; None: the log says of none."""
        if self._connection is not None:
            with suppress(sqlite3.Error):  # its table may be what is wrong with the home
                return restored.behind(self._connection, size)
        return None


def _signed(head: TreeHead) -> str:
    return f"{plural(head.size, 'event')} were signed as {as_text(head.origin)}"


def _checked(of: Note, problem: str | None, judgement: Judgement | None, notes: int) -> NoteCheck:
    head = head_of(of)
    return NoteCheck("checkpoint", head.origin, head.size, problem, judgement, bool(of.signatures), notes)


def _believed(notes: Sequence[Note], policy: Policy | None) -> tuple[Note, Judgement | None]:
    """Return the largest note that is signed as it must be, else the largest, and what is said of it."""
    largest = sorted(notes, key=lambda each: head_of(each).size, reverse=True)
    if policy is None:
        return largest[0], None
    for each in largest:
        judgement = policy.judge(each)
        if judgement.problem is None:
            return each, judgement
    return largest[0], policy.judge(largest[0])


def _unsigned() -> Judgement:
    """Return what any policy says of the note of older releases, which has no place for a signature."""
    from msb_cache.proof.policy import Judgement

    return Judgement(None, problem="the note is of an older release, which signed none")
