"""Notes: a text with signatures below it, as C2SP's signed-note. What the text says is for others.

What comes from outside is read here: bounded, UTF-8 without control characters, each signature line in the
one form that there is.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from msgspec import Struct

from msb_cache.errors import InvalidConfigError, InvalidProofError
from msb_cache.proof.vkey import (
    COSIGNATURE,
    SIGNATURE_BYTES,
    TIME_BYTES,
    VerifierKey,
    checked_name,
    decode64,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_NOTE = 64 * 1024
"""Bytes of a note; one with 16 of the largest signatures that there are has more than a few hundred."""

MOST_SIGNATURES = 100

_DASH = "\u2014 "
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


class Signature(Struct, frozen=True):
    """One line below a note: who signed, and what.

    Attributes:
        name: the name of the key.
        key_id: four bytes that tell keys of one name apart.
        signature: what the kind of key says: 64 bytes of Ed25519, with a witness's time before them.
    """

    name: str
    key_id: bytes
    signature: bytes

    @property
    def line(self) -> str:
        """The line, its line feed included."""
        return f"{_DASH}{self.name} {base64.b64encode(self.key_id + self.signature).decode()}\n"

    @property
    def witnessed_at(self) -> int | None:
        """When a witness saw the note, in s since the epoch; None: the signature is of another form."""
        if len(self.signature) != TIME_BYTES + SIGNATURE_BYTES:
            return None
        return int.from_bytes(self.signature[:TIME_BYTES], "big")

    def is_of(self, key: VerifierKey) -> bool:
        """Return whether it says that it is of this key."""
        return (self.name, self.key_id) == (key.name, key.key_id)


class Note(Struct, frozen=True):
    """A text, its last line feed included, and the signatures below it."""

    text: str
    signatures: tuple[Signature, ...] = ()

    def __str__(self) -> str:
        if not self.signatures:
            return self.text
        return f"{self.text}\n{''.join(each.line for each in self.signatures)}"

    def signed_by(self, keys: Iterable[VerifierKey]) -> list[VerifierKey]:
        """Return those of the keys that have signed; signatures of other keys count for nothing.

        Raises:
            InvalidProofError: a signature that names one of the keys is not of it.
        """
        found = []
        for key in keys:
            lines = [each for each in self.signatures if each.is_of(key)]
            if not all(is_valid(self.text, each, key) for each in lines):
                raise InvalidProofError(f"the signature of {key.name} is not of that key over this text")
            if lines:
                found.append(key)
        return found

    def with_signatures(self, added: Iterable[Signature]) -> Note:
        """Return it with more signatures; one of the same key takes the place of that before."""
        lines = {(each.name, each.key_id): each for each in (*self.signatures, *added)}
        return Note(self.text, tuple(lines.values()))


def cosigned(text: str, time: int) -> bytes:
    """Return what a witness signs of a note's text at a time, in s since the epoch."""
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def is_valid(text: str, signature: Signature, key: VerifierKey) -> bool:
    """Return whether a signature that names a key is of it, over a note's text.

    A witness signs the time, too, which stands before its signature (C2SP's tlog-cosignature).
    """
    message, signed = text.encode(), signature.signature
    if key.kind == COSIGNATURE:
        time = signature.witnessed_at
        if time is None or not 0 < time < 2**63:
            return False
        message, signed = cosigned(text, time), signed[TIME_BYTES:]
    return len(signed) == SIGNATURE_BYTES and key.has_signed(message, signed)


def parse(data: bytes, what: str = "the note") -> Note:
    """Return the note that bytes are; without signatures if it has none.

    Args:
        data: the whole of it.
        what: how an error calls it.

    Raises:
        InvalidProofError: it is none; says why.
    """
    text, signatures = split(decoded(data, what), what)
    return Note(text, signatures)


def decoded(data: bytes, what: str, limit: int = MAX_NOTE) -> str:
    """Return the text of what comes from outside: bounded, UTF-8, of lines and no other control characters.

    Raises:
        InvalidProofError: it is not.
    """
    if len(data) > limit:
        raise InvalidProofError(f"{what} has more than {limit:,} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise InvalidProofError(f"{what} is no UTF-8 text") from None
    if _CONTROL.search(text):
        odd = "line ends of Windows" if "\r\n" in text else "control characters"
        raise InvalidProofError(f"{what} has {odd}, and there are none in it")
    if not text.endswith("\n"):
        raise InvalidProofError(
            f"{what} is cut off: it does not end with a line feed" if text else f"{what} is empty"
        )
    return text


def split(text: str, what: str) -> tuple[str, tuple[Signature, ...]]:
    """Return the text of a note and its signatures, which stand below its last empty line."""
    body, empty, below = text.rpartition("\n\n")
    if not empty:
        return text, ()
    return f"{body}\n", signatures_in(below, what)


def signatures_in(text: str, what: str) -> tuple[Signature, ...]:
    """Return the signatures of lines that each end with a line feed, at least one.

    Raises:
        InvalidProofError: a line is none, or there are too many.
    """
    lines = text.split("\n")[:-1]
    if len(lines) > MOST_SIGNATURES:
        raise InvalidProofError(f"{what} has more than {MOST_SIGNATURES} signatures")
    if not lines:
        raise InvalidProofError(f"{what} has an empty line and no signature below it")
    return tuple(_signature(line, what) for line in lines)


def _signature(line: str, what: str) -> Signature:
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    data = decode64(encoded)
    try:
        if not line.startswith(_DASH) or not space or data is None or len(data) < 5:
            raise InvalidConfigError("")
        checked_name(name)
    except InvalidConfigError:
        raise InvalidProofError(f"{what} has a line below it that is no signature") from None
    return Signature(name, data[:4], data[4:])


def names(signatures: Iterable[Signature]) -> Iterator[str]:
    """Yield the names of those who say that they signed."""
    yield from dict.fromkeys(each.name for each in signatures)
