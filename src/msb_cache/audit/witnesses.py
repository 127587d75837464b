"""Signed checkpoints submitted to witnesses, by ``add-checkpoint`` of C2SP's tlog-witness.

A witness is believed nothing: what it answers is bounded, in size and in time, and counts only if one of its
keys has signed it. Not for which witnesses are needed, nor for keeping what they sign.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from msb_cache.errors import InvalidConfigError, InvalidProofError, WitnessError
from msb_cache.extras import require
from msb_cache.oci.digest import shown
from msb_cache.oci.registry.address import web_address
from msb_cache.oci.registry.errors import is_html, retry_after, status_phrase
from msb_cache.oci.registry.http import Answer
from msb_cache.oci.registry.line import Line, NoAnswerError, redirection
from msb_cache.proof.note import MAX_NOTE, Note, Signature, decoded, names, signatures_in
from msb_cache.proof.submission import PATH, SIZE_TYPE, Submission
from msb_cache.proof.tree_head import TreeHead, head_of
from msb_cache.proof.vkey import COSIGNATURE, VerifierKey
from msb_cache.shapes import Result, Time
from msb_cache.waiting import TURN_SECONDS, end_if_asked, ended_by
from msb_cache.wording import plural

if TYPE_CHECKING:
    from msb_cache.waiting import Note as Say

PathFrom = Callable[[int], Sequence[bytes]]
"""Returns what proves that a checkpoint goes on from a smaller size of its log, of at least 1."""

TRIES = 3
"""So often a checkpoint is submitted: again when the witness has cosigned another than was thought."""

TIMEOUTS = 4
"""All that is said with a witness takes at most so many timeouts, however steadily it trickles."""

MOST_AT_ONCE = 8
"""With so many witnesses is spoken at the same time."""

_MOST_URL_CHARACTERS = 1024
_MOST_SHOWN = 3
_CONFLICT = 409
_PASSING = frozenset({408, 425, 429})
_NO_ENCODING = (None, "", "identity")
_SIZE = re.compile(rb"(0|[1-9][0-9]{0,17})\n")
_MOST_SIZE_BYTES = 19
_LAST_TIME = 253402300799
"""The end of the year 9999, in s since the epoch: nothing after it is a time that a person is shown."""


class Submitted(Result, Struct, frozen=True):
    """A checkpoint that a witness cosigned.

    Attributes:
        witness: its URL.
        signatures: its cosignatures, one of each of its keys that signed.
        keys: the names of those keys.
        old_size: the number of events that it had cosigned before; 0: none.
        witnessed_at_ns: when it says that it did, in ns since the epoch, UTC.
    """

    witness: str
    signatures: tuple[Signature, ...]
    keys: tuple[str, ...]
    old_size: int
    witnessed_at_ns: int

    def _shape(self) -> dict[str, Any]:
        return {
            "witness": self.witness,
            "keys": [*self.keys],
            "old_size": self.old_size,
            "witnessed_at": Time(self.witnessed_at_ns),
            "signatures": [each.line.rstrip("\n") for each in self.signatures],
        }


class NotCosigned(Result, Struct, frozen=True):
    """A checkpoint that a witness did not cosign.

    Attributes:
        witness: its URL.
        problem: why, as a sentence.
        status: its HTTP status; None: it did not answer.
        size: how many events of the log it says that it has cosigned, if these are more than were submitted.
    """

    witness: str
    problem: str
    status: int | None = None
    size: int | None = None

    def error(self) -> WitnessError:
        """Return the error that says so."""
        return WitnessError(self.problem, status=self.status, size=self.size)


@dataclass(frozen=True)
class WitnessClient:
    """One witness, and how it is reached.

    Attributes:
        url: the prefix below which checkpoints are submitted, ``http`` or ``https``; any machine's.
        keys: the verifier keys that it is known by; more than one while it changes to another.
        ca_certs: a PEM file of authorities that are trusted beside the system's.
        insecure: accept any certificate; what it signs is checked with its keys all the same.
        timeout: bounds connecting, sending, and the wait for an answer, each in seconds; everything together
            takes at most four times as long.
        name: what messages call it.

    Raises:
        InvalidConfigError: the URL or a key cannot be used.
        UnsupportedError: the extra ``proof`` is not installed.
    """

    url: str
    keys: Sequence[VerifierKey]
    ca_certs: Path | None = None
    insecure: bool = False
    timeout: float = 10.0
    name: str = field(init=False)

    def __post_init__(self) -> None:
        require("proof", "what checks cosignatures", "cryptography")
        object.__setattr__(self, "name", f"the witness {_checked(self.url)}")
        if self.timeout <= 0:
            raise InvalidConfigError(f"a timeout is more than 0 seconds, not {self.timeout:g}")
        if not self.keys:
            raise InvalidConfigError(f"{self.name} is known by no key; give the one that its keeper tells")
        for key in self.keys:
            if key.kind != COSIGNATURE:
                raise InvalidConfigError(f"the key {key.name} is a log's; give that of {self.name}")


def submit(
    witness: WitnessClient,
    note: Note,
    size: int,
    path_from: PathFrom,
    known: int = 0,
    *,
    log_key: VerifierKey | None = None,
    say: Say,
) -> Submitted:
    """Submit a checkpoint, and return the cosignatures when the witness has kept it.

    What ends this thread's waits (see ``waiting.ended_by``) ends this, too.

    Args:
        witness: who is asked.
        note: the checkpoint, signed by the log.
        size: its number of events.
        path_from: see ``PathFrom``.
        known: the size that the witness is thought to have cosigned last; 0: none. It may be wrong.
        log_key: the log's, for a message to a witness that does not know it.
        say: told once when the witness has to be waited for.

    Raises:
        WitnessError: there is no cosignature of its keys; says why.
        InvalidConfigError: the environment names no proper proxy, or ``ca_certs`` cannot be read.
    """
    until = time.monotonic() + TIMEOUTS * witness.timeout

    def is_late() -> bool:
        return time.monotonic() > until

    try:
        with ended_by(is_late):
            return _submitted(witness, note, size, path_from, known, log_key, say)
    except KeyboardInterrupt:
        end_if_asked()
        if not is_late():
            raise
    raise WitnessError(f"{witness.name} does not answer to the end in {TIMEOUTS * witness.timeout:g} seconds")


def _submitted(
    witness: WitnessClient,
    note: Note,
    size: int,
    path_from: PathFrom,
    known: int,
    log_key: VerifierKey | None,
    say: Say,
) -> Submitted:
    old = min(known, size)
    url = f"{witness.url.rstrip('/')}/{PATH}"
    line = Line(
        url,
        witness.name,
        timeout=witness.timeout,
        ca_certs=witness.ca_certs,
        insecure=witness.insecure,
        note=say,
    )
    with line:
        for _ in range(TRIES):
            path = tuple(path_from(old)) if 0 < old < size else ()
            exchange = _Exchange(witness, line, Submission(old, path, note), head_of(note), log_key)
            found = exchange.outcome()
            if isinstance(found, Submitted):
                return found
            old = found
    raise WitnessError(
        f"{witness.name} has cosigned another checkpoint each time that it was asked; try again later",
        status=409,
    )


def submit_all(
    witnesses: Sequence[WitnessClient],
    note: Note,
    size: int,
    path_from: PathFrom,
    known: Callable[[WitnessClient], int],
    *,
    log_key: VerifierKey | None = None,
    say: Say,
) -> list[Submitted | NotCosigned]:
    """Submit a checkpoint to several witnesses, and return what each did, in their order.

    Args:
        witnesses: who is asked, several at the same time.
        known: returns the size that one is thought to have cosigned last.
        note, size, path_from, log_key: as of ``submit``. Paths are asked for in this thread, so
            that they may come from a connection to a database.
        say: told when one has to be waited for; in another thread.

    Raises:
        InvalidConfigError: as of ``submit``.
    """
    stop = threading.Event()
    asked: SimpleQueue[_Asked | None] = SimpleQueue()

    def path_in_time(old: int) -> Sequence[bytes]:
        one = _Asked(old)
        asked.put(one)
        while not one.answered.wait(TURN_SECONDS):
            end_if_asked()
        return one.path

    def submitted(witness: WitnessClient, last: int) -> Submitted | NotCosigned:
        with ended_by(stop.is_set):
            try:
                return submit(witness, note, size, path_in_time, last, log_key=log_key, say=say)
            except WitnessError as error:
                return NotCosigned(witness.url, str(error), error.status, error.size)

    sizes = [known(each) for each in witnesses]
    with ThreadPoolExecutor(MOST_AT_ONCE, thread_name_prefix="msb-cache-witness") as pool:
        try:
            futures = [pool.submit(submitted, *each) for each in zip(witnesses, sizes, strict=True)]
            for each in futures:
                each.add_done_callback(lambda _: asked.put(None))
            _answer(asked, path_from, futures)
            return [each.result() for each in futures]
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


class _Asked:
    """A path that another thread waits for."""

    def __init__(self, old: int) -> None:
        self.old = old
        self.answered = threading.Event()
        self.path: Sequence[bytes] = ()


def _answer(
    asked: SimpleQueue[_Asked | None],
    path_from: PathFrom,
    futures: Iterable[Future[Submitted | NotCosigned]],
) -> None:
    """Answer what other threads ask for until all have come to their end."""
    waited = [*futures]
    while not all(each.done() for each in waited):
        end_if_asked()
        try:
            one = asked.get(timeout=TURN_SECONDS)
        except Empty:
            continue
        if one is not None:
            one.path = path_from(one.old)
            one.answered.set()


class _Exchange:
    """One request to a witness, and what its answer means."""

    def __init__(
        self,
        witness: WitnessClient,
        line: Line,
        submission: Submission,
        head: TreeHead,
        log_key: VerifierKey | None,
    ) -> None:
        self._witness, self._name = witness, witness.name
        self._line, self._submission = line, submission
        self._head, self._log_key = head, log_key

    def outcome(self) -> Submitted | int:
        """Return what the witness cosigned, or the size that it is at instead of the one that was thought.

        Raises:
            WitnessError: it is neither.
        """
        body = str(self._submission).encode()
        try:
            answer = self._line.post({"Content-Type": "text/plain; charset=utf-8"}, body)
        except NoAnswerError as failure:
            raise WitnessError(f"{failure}") from None
        try:
            return self._judged(answer)
        except NoAnswerError as failure:
            raise WitnessError(f"{failure}", status=answer.status) from None
        finally:
            answer.close()

    def _judged(self, answer: Answer) -> Submitted | int:
        if answer.status == _CONFLICT:
            return self._size(answer)
        says = f"{self._name} answers {status_phrase(answer.status)}"
        if is_html(answer.content_type):
            raise _error(
                answer,
                f"{says} with an HTML page: no witness is there, or a proxy stands before it; check the URL",
            )
        if answer.status == 200:
            return self._cosigned(answer)
        if 300 <= answer.status < 400:
            raise _error(answer, f"{says}{redirection(answer)}; give the URL where it is")
        if answer.status in _PASSING or answer.status >= 500:
            wait = retry_after(answer.header("retry-after"))
            when = f"in {plural(round(wait), 'second')}" if wait else "later"
            raise _error(answer, f"{says}; try again {when}")
        meaning, advice = self._refusal(answer.status)
        raise _error(answer, f"{meaning or says}{self._line.beginning(answer)}; {advice}")

    def _refusal(self, status: int) -> tuple[str, str]:
        """Return what a status means and what to do; of any other than a witness's no meaning."""
        name, head, old = self._name, self._head, self._submission.old
        key = "the verifier key of the log" if self._log_key is None else f"the key {self._log_key}"
        if status == 400:
            return f"{name} finds the request malformed", "check that it is a witness of C2SP's tlog-witness"
        if status == 403:
            return (
                f"{name} does not accept the signature: it knows another key of {head.origin}",
                f"give its keeper {key}",
            )
        if status == 404:
            return f"{name} does not know the log {head.origin}", f"give its keeper {key}, or check the URL"
        if status == 413:
            return f"{name} finds the checkpoint too large", "submit it with fewer signatures"
        if status == 422 and old:
            return (
                f"{name} finds that {head.origin} does not go on from the {plural(old, 'event')} that it "
                "cosigned: it was rewritten",
                "compare it with a backup",
            )
        if status == 422:
            return f"{name} finds the checkpoint of {head.origin} unsound", "check the log with `verify`"
        return "", "check the URL"

    def _size(self, answer: Answer) -> int:
        """Return the size from which the witness wants to be led on."""
        name, head, old = self._name, self._head, self._submission.old
        body = self._line.read(answer, _MOST_SIZE_BYTES)
        found = _SIZE.fullmatch(body or b"")
        if _media_type(answer) != SIZE_TYPE or found is None:
            raise _error(
                answer, f"{name} answers 409 Conflict without a size that it has cosigned; check the URL"
            )
        size = int(found[1])
        if size > head.size:
            raise WitnessError(
                f"{name} has cosigned {plural(size, 'event')} of {head.origin}, and this checkpoint has "
                f"{head.size}: the log's end was cut off, or it was put back; compare it with a backup",
                status=answer.status,
                size=size,
            )
        if size == old:
            raise _error(
                answer,
                f"{name} contradicts itself: it has cosigned {plural(old, 'event')}, and that is refused",
            )
        return size

    def _cosigned(self, answer: Answer) -> Submitted:
        """Return the cosignatures of an answer that are of the witness's keys."""
        name, text, keys = self._name, self._submission.note.text, self._witness.keys
        if answer.header("content-encoding") not in _NO_ENCODING:
            raise _error(answer, f"{name} answers in an encoding that was not asked for")
        body = self._line.read(answer, MAX_NOTE)
        if body is None:
            raise _error(answer, f"{name} answers with more than {MAX_NOTE:,} bytes; check the URL")
        try:
            below = decoded(body, f"the answer of {name}")
            note = Note(text, signatures_in(below, f"the checkpoint as {name} cosigned it"))
        except InvalidProofError as problem:
            raise _error(answer, f"{problem}; check the URL") from None
        try:
            signed = note.signed_by(keys)
        except InvalidProofError:
            raise _error(
                answer, f"{name} answers with a signature that is not of its key over this checkpoint"
            ) from None
        if not signed:
            theirs = ", ".join(shown(each)[1:-1] for each in islice(names(note.signatures), _MOST_SHOWN))
            ours = ", ".join(key.name for key in keys)
            raise _error(
                answer,
                f"{name} answers with signatures of {theirs} only, and its key is {ours}; "
                "if it has another one now, name that, too",
            )
        found = tuple(
            each
            for each in Note(text).with_signatures(note.signatures).signatures
            if any(each.is_of(key) for key in signed)
        )
        witnessed_at = max(each.witnessed_at or 0 for each in found)
        if witnessed_at > _LAST_TIME:
            raise _error(answer, f"{name} says that it cosigned at a time that no calendar has")
        return Submitted(
            self._witness.url,
            found,
            tuple(key.name for key in signed),
            self._submission.old,
            witnessed_at * 10**9,
        )


def _error(answer: Answer, sentence: str) -> WitnessError:
    return WitnessError(sentence, status=answer.status)


def _media_type(answer: Answer) -> str:
    return answer.content_type.partition(";")[0].strip().lower()


def _checked(url: str) -> str:
    """Return a witness's URL as messages have it; raises InvalidConfigError for one that is not used."""
    parts = web_address(url, _MOST_URL_CHARACTERS)
    if parts is None:
        raise InvalidConfigError(
            "the witness's URL is no web address in ASCII; write it as https://witness.example/w1"
        )
    if "@" in parts.netloc:
        raise InvalidConfigError(
            "the witness's URL has a login in it, and a witness wants none; leave it out"
        )
    if "?" in url or "#" in url:
        raise InvalidConfigError(
            f"the URL of the witness at {parts.netloc} goes on with ? or #; end it with its path"
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
