"""A checkpoint on its way to a witness: the request ``add-checkpoint`` of C2SP's tlog-witness.

Not for sending it (``audit.witnesses``), nor for judging it (``witness``).
"""

from __future__ import annotations

import base64
import re

from msgspec import Struct

from msb_cache.errors import InvalidProofError
from msb_cache.eventstore.merkle import HASH_BYTES, MOST_HASHES
from msb_cache.proof.note import MAX_NOTE, Note, decoded, split
from msb_cache.proof.vkey import decode64

PATH = "add-checkpoint"
"""Below a witness's URL."""

SIZE_TYPE = "text/x.tlog.size"
"""The content type of the answer 409, which is the size that the witness knows."""

MAX_REQUEST = MAX_NOTE + 4096
"""Bytes of a request: the note, and the hashes above it."""

_OLD = re.compile(r"old (0|[1-9][0-9]{0,17})")


class Submission(Struct, frozen=True):
    """A request.

    Attributes:
        old: the size of the checkpoint that the witness cosigned last; 0: none.
        path: what proves that the new one goes on from that.
        note: the signed checkpoint.
    """

    old: int
    path: tuple[bytes, ...]
    note: Note

    def __str__(self) -> str:
        hashes = "".join(f"{base64.b64encode(each).decode()}\n" for each in self.path)
        return f"old {self.old}\n{hashes}\n{self.note}"


def parse(data: bytes) -> Submission:
    """Return the request that bytes are.

    Raises:
        InvalidProofError: they are none; says why.
    """
    what = "the request"
    text = decoded(data, what, MAX_REQUEST)
    above, empty, below = text.partition("\n\n")
    first, *encoded = above.split("\n")
    old = _OLD.fullmatch(first)
    if not empty or old is None:
        raise InvalidProofError(f"{what} does not begin with the size of the checkpoint before")
    return Submission(int(old[1]), path_in(encoded, what), Note(*split(below, what)))


def path_in(lines: list[str], what: str) -> tuple[bytes, ...]:
    """Return the hashes of a proof, one a line.

    Raises:
        InvalidProofError: a line is none, or there are more than any proof has.
    """
    if len(lines) > MOST_HASHES:
        raise InvalidProofError(f"{what} has more than {MOST_HASHES} hashes")
    found = [decode64(line) for line in lines]
    path = tuple(each for each in found if each is not None and len(each) == HASH_BYTES)
    if len(path) != len(lines):
        raise InvalidProofError(f"{what} has a line that is no hash of {HASH_BYTES} bytes in base64")
    return path
