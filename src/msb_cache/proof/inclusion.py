"""Proofs that an event is in a log that was signed, as C2SP's tlog-proof: one file, checked without the log.

A leaf of the tree is an event's chain hash, so the proof carries what that is over: the stored columns, and
the hash of the event before.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec.structs import astuple

from msb_cache.errors import CorruptLogError, InvalidProofError, UnknownEventError
from msb_cache.eventstore.chain import link
from msb_cache.eventstore.export import MAX_LINE, ExportedEvent, line_of
from msb_cache.eventstore.merkle import MOST_HASHES, leaf_hash, root_of_inclusion
from msb_cache.eventstore.row import COLUMNS, GENESIS, Value
from msb_cache.eventstore.store import StoredEvent, decode_row
from msb_cache.eventstore.telling import Moment
from msb_cache.eventstore.upcasting import CATALOGUE
from msb_cache.proof.note import MAX_NOTE, Note, decoded, split
from msb_cache.proof.policy import LAST_YEAR, Cosigned, Policy, trusted
from msb_cache.proof.submission import path_in
from msb_cache.proof.tree_head import TreeHead, head_of
from msb_cache.proof.vkey import VerifierKey, decode64
from msb_cache.shapes import Result, Time, fields, jsonable

TITLE = "c2sp.org/tlog-proof@v1"
"""The first line."""

SUFFIX = ".tlog-proof"
"""How the names of files of proofs end."""

MAX_PROOF = (MAX_LINE + 1024) // 3 * 4 + MAX_NOTE + 4096
"""Bytes of a proof: the event in base64, the path, and the note; about 21 MiB."""

_WHAT = "the proof"
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,17})")
_HASH = re.compile(r"[0-9a-f]{64}")


class InclusionProof(msgspec.Struct, frozen=True):
    """A proof as it is written, whatever it proves.

    Attributes:
        index: the leaf, from 0.
        path: what leads from it to the root, from its sibling up.
        note: the signed checkpoint.
        extra: what the leaf is made of; None: it is not in it.
    """

    index: int
    path: tuple[bytes, ...]
    note: Note
    extra: bytes | None = None

    def __str__(self) -> str:
        extra = [] if self.extra is None else [f"extra {base64.b64encode(self.extra).decode()}"]
        hashes = [base64.b64encode(each).decode() for each in self.path]
        lines = [TITLE, *extra, f"index {self.index}", *hashes]
        return "\n".join((*lines, "", str(self.note)))


class _Extra(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    previous: str
    event: ExportedEvent


_decode = msgspec.json.Decoder(_Extra).decode


class ProvedEvent(msgspec.Struct, frozen=True):
    """An event that is in a tree, and the head of that. Who signed it is another question.

    Attributes:
        head: the log, its size and root.
        row: the event's stored columns.
        hash: its chain hash, 32 bytes.
    """

    head: TreeHead
    row: tuple[Value, ...]
    hash: bytes

    @property
    def seq(self) -> int:
        """Its position in the log."""
        seq = self.row[0]
        assert isinstance(seq, int)  # noqa: S101
        return seq

    @property
    def event(self) -> StoredEvent | None:
        """The event; None: it is none that this release can read, such as one of a newer one."""
        try:
            found = decode_row((*self.row, self.hash), CATALOGUE.decode)
            jsonable(found)
            details = found.data.told().details
        except (CorruptLogError, UnknownEventError, OverflowError, ValueError, OSError):
            return None  # the last three: of a number that only a log has that was made to mislead
        moments = (each.ns for each in details if isinstance(each, Moment))
        return found if all(0 <= ns < LAST_YEAR * 10**9 for ns in moments) else None


class CheckedEvent(Result, msgspec.Struct, frozen=True, kw_only=True):
    """An event of which a proof was checked: it is in the log, and the log was signed with it.

    Attributes:
        origin: the name of the log.
        size: how many events it had when it was signed.
        root: the root of its tree, 32 bytes.
        seq: the event's position.
        event: the event; None: its type is unknown here, so that only its columns can be told.
        columns: the event as it is stored, by the names of ``export``; ``data`` and ``actor`` are JSON text.
        log: the key that signed the checkpoint.
        cosigned: the witnesses that are known and cosigned it.
    """

    origin: str
    size: int
    root: bytes
    seq: int
    event: StoredEvent | None
    columns: dict[str, Any]
    log: VerifierKey
    cosigned: tuple[Cosigned, ...] = ()

    def _shape(self) -> dict[str, Any]:
        columns = {**self.columns}
        for name in ("occurred_at", "recorded_at"):
            columns[name] = Time(columns[name])
        return {**fields(self), "log": str(self.log), "columns": columns}


def make(
    row: tuple[Value, ...], stored: bytes, previous: bytes, path: Sequence[bytes], note: Note
) -> InclusionProof:
    """Return the proof of a stored row.

    Args:
        row: its hashed columns.
        stored: its hash.
        previous: the hash of the event before it, or what stands for that.
        path: from the event to the root of the note's tree.
        note: the signed checkpoint.

    Raises:
        CorruptLogError: a column has a type that no row has.
    """
    seq = row[0]
    assert isinstance(seq, int)  # noqa: S101
    return InclusionProof(seq - 1, tuple(path), note, _extra_of(row, stored, previous))


def parse(data: bytes) -> InclusionProof:
    """Return the proof that bytes are.

    Raises:
        InvalidProofError: they are none; says why.
    """
    text = decoded(data, _WHAT, MAX_PROOF)
    above, empty, below = text.partition("\n\n")
    title, *lines = above.split("\n", MOST_HASHES + 4)
    if title != TITLE:
        raise InvalidProofError(f"{_WHAT} is none: its first line is not {TITLE!r}")
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = decode64(lines.pop(0).removeprefix("extra "))
        if extra is None:
            raise InvalidProofError(f"{_WHAT} has a second line that is no base64")
    index = _INDEX.fullmatch(lines[0]) if lines else None
    if not empty or index is None:
        raise InvalidProofError(f"{_WHAT} does not say which event it is of: it has no line with an index")
    if len(below) > MAX_NOTE:
        raise InvalidProofError(f"the checkpoint in {_WHAT} has more than {MAX_NOTE:,} bytes")
    return InclusionProof(
        int(index[1]), path_in(lines[1:], _WHAT), Note(*split(below, f"the checkpoint in {_WHAT}")), extra
    )


def proved(proof: InclusionProof) -> ProvedEvent:
    """Return the event that a proof is of, and the tree that it is in. No signature is looked at.

    Raises:
        InvalidProofError: it does not prove that; says why.
    """
    head = head_of(proof.note, f"the checkpoint in {_WHAT}")
    row, stored, previous = _event_in(proof.extra)
    seq = row[0]
    assert isinstance(seq, int)  # noqa: S101
    if link(previous, row) != stored:
        raise InvalidProofError("the hash of the event in the proof is not the one of its contents")
    if seq == 1 and previous != GENESIS:
        raise InvalidProofError("the event in the proof is event 1, and another stands before it")
    if seq - 1 != proof.index:
        raise InvalidProofError(
            f"the proof is of another event: its index is {proof.index}, and that of event {seq} is {seq - 1}"
        )
    if seq > head.size:
        raise InvalidProofError(f"event {seq} is not in the checkpoint, which is of {head.size} events")
    if root_of_inclusion(leaf_hash(stored), proof.index, head.size, proof.path) != head.root:
        raise InvalidProofError(
            f"event {seq} is not proved to be in the log: the proof does not lead to the checkpoint's root"
        )
    return ProvedEvent(head, row, stored)


def check(data: bytes, policy: Policy) -> CheckedEvent:
    """Return the event that a proof proves to be in a log that is signed as a policy asks.

    Args:
        data: the proof, the whole of it.
        policy: which logs and witnesses are believed.

    Raises:
        InvalidProofError: it does not prove that; says why.
    """
    proof = parse(data)
    found = proved(proof)
    judged = policy.judge(proof.note)
    if judged.problem is not None or judged.log is None:
        raise InvalidProofError(judged.problem or "the checkpoint is not signed")
    head = found.head
    columns = {**dict(zip(COLUMNS, found.row, strict=True)), "hash": found.hash.hex()}
    return CheckedEvent(
        origin=head.origin,
        size=head.size,
        root=head.root,
        seq=found.seq,
        event=found.event,
        columns=columns,
        log=judged.log,
        cosigned=judged.cosigned,
    )


def check_proof(
    data: bytes, *, keys: Iterable[str | VerifierKey] = (), policy: bytes | None = None
) -> CheckedEvent:
    """Return the event that a proof of ``ImageCache.prove`` proves to be in a log, without that log.

    Args:
        data: the file, the whole of it.
        keys: verifier keys (``name+hash+key``): of logs that are believed, and of witnesses that must all
            have cosigned.
        policy: a policy file (C2SP's tlog-policy), the whole of it; with ``keys`` both must hold.

    Raises:
        InvalidProofError: it proves nothing; says why.
        InvalidConfigError: a key or the policy is none, or no key of a log is given.
        UnsupportedError: the extra ``proof`` is not installed.
    """
    return check(data, trusted(keys, policy))


def _extra_of(row: tuple[Value, ...], stored: bytes, previous: bytes) -> bytes:
    return b'{"previous":"%s","event":%s}' % (previous.hex().encode(), line_of(row, stored).rstrip(b"\n"))


def _event_in(extra: bytes | None) -> tuple[tuple[Value, ...], bytes, bytes]:
    """Return the row that a proof carries, its hash, and that before it."""
    if extra is None:
        raise InvalidProofError("the proof has no event in it: it lacks its second line")
    try:
        found = _decode(extra)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidProofError(f"the proof has no event in it: {str(error)[:200]}") from None
    if not _HASH.fullmatch(found.previous) or not _HASH.fullmatch(found.event.hash):
        raise InvalidProofError("the event in the proof has a hash that is not 64 hexadecimal digits")
    row, stored = astuple(found.event)[:-1], bytes.fromhex(found.event.hash)
    previous = bytes.fromhex(found.previous)
    if _extra_of(row, stored, previous) != extra:
        # So that of one event there is one proof, and no two readers take different ones from it.
        raise InvalidProofError("the event in the proof was written anew by other means than `prove`")
    return row, stored, previous
