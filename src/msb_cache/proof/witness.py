"""A witness: it cosigns checkpoints of the logs that it knows, each only if it goes on from the one before.

What C2SP's tlog-witness says of requests is decided here; HTTP is ``web/witness``. Asking another witness is
``audit/witnesses``.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Literal

from msgspec import Struct

from msb_cache.errors import InvalidConfigError, InvalidProofError
from msb_cache.eventstore.merkle import EMPTY_ROOT, is_consistent
from msb_cache.proof.note import Note, Signature, is_valid
from msb_cache.proof.signer import Signer, cosign
from msb_cache.proof.submission import SIZE_TYPE, Submission, parse
from msb_cache.proof.tree_head import TreeHead, head_of
from msb_cache.proof.vkey import COSIGNATURE, ED25519, VerifierKey
from msb_cache.proof.witness_state import RefusedCheckpoint, Witnessed, WitnessedLog, WitnessState

TEXT_TYPE = "text/plain; charset=utf-8"

MOST_OF_LOGS = 1 << 20
"""Bytes of a file of logs."""

_OTHERS_OF_POLICY = ("witness", "group", "quorum")

Refusal = Literal["fork", "unproved"]
"""Whether what a log signed proves that it has two histories, or only nothing proves that it has one."""


class Answer(Struct, frozen=True):
    """What a request is answered.

    Attributes:
        status: of HTTP.
        body: cosignatures, a size, or one sentence; each line ends with a line feed.
        content_type: of the body.
        head: what was submitted, if it is a checkpoint of a log that is known.
        refusal: why a checkpoint that its log signed is not cosigned; None: it is, or the request is wrong.
    """

    status: HTTPStatus
    body: bytes
    content_type: str = TEXT_TYPE
    head: TreeHead | None = None
    refusal: Refusal | None = None


class Witness:
    """A witness, for any number of threads.

    Args:
        path: the file of its state, made if it is not there.
        signer: who cosigns: has a key of kind 4.
        logs: the keys of logs whose checkpoints are cosigned, of kind 1; of a name there can be several.
        clock: ns since the epoch, UTC. Where it goes back, cosignatures have the time of the one before.

    Raises:
        InvalidConfigError: a key is of the wrong kind, there is none of a log, or no state can be there.
        InvalidProofError: the state is damaged.
        BusyError: another process has it locked.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        signer: Signer,
        logs: Iterable[VerifierKey],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._signer = signer
        self._clock = clock
        self._logs = _by_origin(logs, signer.key)
        self._state = WitnessState(path)

    @property
    def key(self) -> VerifierKey:
        """The public key that its cosignatures are checked with."""
        return self._signer.key

    def add_checkpoint(self, body: bytes) -> Answer:
        """Judge the body of a request ``add-checkpoint``; what is cosigned is remembered before this returns.

        Raises:
            MicrosandboxError, sqlite3.Error: it cannot be signed or remembered now; nothing was cosigned.
        """
        try:
            asked = parse(body)
            head = head_of(asked.note, "the checkpoint")
        except InvalidProofError as error:
            return _refused(HTTPStatus.BAD_REQUEST, str(error))
        keys = self._logs.get(head.origin)
        if keys is None:
            return _refused(HTTPStatus.NOT_FOUND, "this witness knows no log of that name")
        try:
            signed = asked.note.signed_by(keys)
        except InvalidProofError as error:
            return _refused(HTTPStatus.FORBIDDEN, str(error), head)
        if not signed:
            return _refused(HTTPStatus.FORBIDDEN, "no key of this log that is known here has signed it", head)
        if asked.old > head.size:
            return _refused(
                HTTPStatus.BAD_REQUEST, "the size of the checkpoint before is larger than that of this", head
            )
        lines = (each for each in asked.note.signatures if any(each.is_of(key) for key in signed))
        note = Note(asked.note.text).with_signatures(lines)
        with self._state.changing():
            return self._judged(asked, head, note)

    def _judged(self, asked: Submission, head: TreeHead, note: Note) -> Answer:
        """Answer about a checkpoint that its log signed, while nobody else changes the state."""
        now_ns = self._clock()
        known = self._state.latest(head.origin)
        size, root = (0, EMPTY_ROOT) if known is None else (known.head.size, known.head.root)
        refusal, why = _why_not(asked, head, size, root)
        if refusal is not None:
            against = str(known.note) if known is not None and head.size == size else None
            self._state.keep_refused(
                RefusedCheckpoint(
                    head.origin, head.size, head.root, str(note), refusal == "fork", against, now_ns
                )
            )
        if asked.old != size:
            answer = Answer(HTTPStatus.CONFLICT, f"{size}\n".encode(), SIZE_TYPE, head, refusal)
        elif why is not None:
            answer = _refused(HTTPStatus.UNPROCESSABLE_ENTITY, why, head, refusal)
        else:
            at = max(now_ns // 10**9, 1 if known is None else known.cosigned_at)
            mine = self._cosigned(note.text, at)
            self._state.advance(Witnessed(head, note.with_signatures([mine]), at))
            answer = Answer(HTTPStatus.OK, mine.line.encode(), head=head)
        return answer

    def _cosigned(self, text: str, at: int) -> Signature:
        key = self._signer.key
        found = cosign(text, at, self._signer)
        if not is_valid(text, found, key):
            raise InvalidProofError(f"what signs for {key.name} has another key, so nothing is cosigned")
        return found

    def checkpoint(self, origin_hash: str) -> str | None:
        """Return the latest checkpoint of a log with the signatures of log and witness; None: there is none.

        Args:
            origin_hash: the SHA-256 of the log's name, in lower-case hexadecimal.

        Raises:
            MicrosandboxError, sqlite3.Error: the state cannot be read.
        """
        with self._state.changing():
            for origin in self._state.origins():
                if hashlib.sha256(origin.encode()).hexdigest() == origin_hash:
                    known = self._state.latest(origin)
                    return None if known is None else str(known.note)
        return None

    def remembered(self) -> list[WitnessedLog]:
        """Return what it cosigned last and what it refused, of each log.

        Raises:
            MicrosandboxError, sqlite3.Error: the state cannot be read.
        """
        return self._state.logs()

    def close(self) -> None:
        """Close the state."""
        self._state.close()


def _why_not(asked: Submission, head: TreeHead, size: int, root: bytes) -> tuple[Refusal | None, str | None]:
    """Return why a checkpoint does not go on from the one that is known, for evidence and in a sentence.

    Two roots of one size are a fork whatever size the request says that it goes on from.
    """
    if head.size == 0 and head.root != EMPTY_ROOT:
        return "fork", "the root of no events is the hash of nothing, and this is another"
    if head.size == size and head.root != root:
        return "fork", f"the log has two roots of {size} events: it was written anew, or there are two of it"
    if asked.old != size or is_consistent(size, head.size, root, head.root, asked.path):
        return None, None
    if size in (0, head.size):
        return None, "a proof came with it, and between these sizes there is none"
    return "unproved", f"nothing proves that it goes on from the checkpoint of {size} events"


def _refused(
    status: HTTPStatus, sentence: str, head: TreeHead | None = None, refusal: Refusal | None = None
) -> Answer:
    return Answer(status, f"{sentence}\n".encode(), head=head, refusal=refusal)


def _by_origin(logs: Iterable[VerifierKey], own: VerifierKey) -> dict[str, list[VerifierKey]]:
    if own.kind != COSIGNATURE:
        raise InvalidConfigError(
            f"{own.name} is the key of a log, and a witness signs with another; `key new --witness` makes one"
        )
    found: dict[str, list[VerifierKey]] = {}
    for key in dict.fromkeys(logs):
        if key.kind != ED25519:
            raise InvalidConfigError(f"the key {key.name!r} is of a witness, and it is to be of a log")
        if key.public == own.public:
            raise InvalidConfigError(
                f"the log {key.name!r} has the witness's own key; who witnesses itself proves nothing"
            )
        found.setdefault(key.name, []).append(key)
    if not found:
        raise InvalidConfigError("a witness cosigns for logs that it knows; give the key of one with --log")
    return found


def logs_in(data: bytes, what: str) -> list[VerifierKey]:
    """Return the keys of logs in a file: one a line, or those of a policy file (C2SP's tlog-policy).

    Args:
        data: the whole of it. Empty lines, and such as begin with ``#``, say nothing.
        what: how an error calls it.

    Raises:
        InvalidConfigError: a line says something else.
    """
    if len(data) > MOST_OF_LOGS:
        raise InvalidConfigError(f"{what} has more than {MOST_OF_LOGS:,} bytes")
    found = []
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            words = line.decode().strip(" \t").split()
            if not words or words[0].startswith("#") or (words[0] in _OTHERS_OF_POLICY and len(words) > 1):
                continue
            if words[0] == "log" and len(words) in (2, 3):
                words = words[1:2]
            if len(words) != 1:
                raise InvalidConfigError("it is neither a key nor a line of a policy")
            found.append(VerifierKey.parse(words[0]))
        except (InvalidConfigError, UnicodeDecodeError) as error:
            why = "it is no UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
            raise InvalidConfigError(f"{what}, line {number}: {why}") from None
    return found
