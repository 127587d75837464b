"""The text of a checkpoint, as C2SP's tlog-checkpoint.

It says which log, how many events, and the root of their Merkle tree.
"""

from __future__ import annotations

import base64
import re

from msgspec import Struct

from msb_cache.errors import InvalidProofError
from msb_cache.eventstore.merkle import HASH_BYTES
from msb_cache.proof.note import Note
from msb_cache.proof.vkey import decode64

_SIZE = re.compile(r"0|[1-9][0-9]{0,17}")


class TreeHead(Struct, frozen=True):
    """A log up to a position.

    Attributes:
        origin: the name of the log.
        size: the number of events, which is the position of the last one.
        root: the root of the Merkle tree over their hashes, 32 bytes.
        extensions: further lines, which nothing here looks at.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The text of the note, its last line feed included."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


def head_of(note: Note, what: str = "the note") -> TreeHead:
    """Return what a note's text says of a log.

    Raises:
        InvalidProofError: it is no checkpoint; says in which line.
    """
    lines = note.text.split("\n")[:-1]
    if len(lines) < 3 or not all(lines):
        raise InvalidProofError(f"{what} is no checkpoint: it has not three lines, of origin, size and root")
    origin, size, root, *extensions = lines
    if not _SIZE.fullmatch(size):
        raise InvalidProofError(f"{what} is no checkpoint: its second line is no number of events")
    hashed = decode64(root)
    if hashed is None or len(hashed) != HASH_BYTES:
        raise InvalidProofError(
            f"{what} is no checkpoint: its third line is no root of {HASH_BYTES} bytes in base64"
        )
    return TreeHead(origin, int(size), hashed, tuple(extensions))
