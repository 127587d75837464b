"""What OpenSSH and its agents write: fields with their lengths before them, and public keys in files.

Of the kinds of keys that they know only Ed25519, with which everything here is signed.
"""

from __future__ import annotations

import struct

from msb_cache.errors import InvalidConfigError
from msb_cache.proof.vkey import KEY_BYTES, decode64

ED25519 = b"ssh-ed25519"

PREFIXES = ("ssh-", "ecdsa-", "sk-")
"""How a public key begins in a file, whatever its kind."""


class CutOffError(Exception):
    """A field is longer than what there is."""


class Fields:
    """Reads fields, one after the other.

    Raises, in each method:
        CutOffError: there is no such field.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def is_over(self) -> bool:
        """Whether all was read."""
        return self._at == len(self._data)

    def number(self) -> int:
        """Return a number of four bytes."""
        found: int = struct.unpack(">I", self._take(4))[0]
        return found

    def string(self) -> bytes:
        """Return bytes with their length before them."""
        return self._take(self.number())

    def _take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise CutOffError
        self._at += count
        return self._data[self._at - count : self._at]


def string(data: bytes) -> bytes:
    """Return bytes as a field."""
    return struct.pack(">I", len(data)) + data


def blob(public: bytes) -> bytes:
    """Return an Ed25519 public key (32 bytes) as OpenSSH has it."""
    return string(ED25519) + string(public)


def pair(data: bytes) -> bytes | None:
    """Return the bytes of a key or a signature that is one of Ed25519; None: it is another, or none."""
    fields = Fields(data)
    try:
        kind, value = fields.string(), fields.string()
    except CutOffError:
        return None
    return value if kind == ED25519 and fields.is_over else None


def public_in(text: str, what: str) -> bytes:
    """Return the Ed25519 public key in the text of a file such as ``~/.ssh/id_ed25519.pub``, 32 bytes.

    Args:
        text: the text of the file.
        what: how an error calls the file.

    Raises:
        InvalidConfigError: it is none; says why.
    """
    words = text.split(maxsplit=2)
    if "\n" in text.strip():
        raise InvalidConfigError(f"{what} has more than one line; give a file with one public key")
    if words and words[0] != ED25519.decode():
        raise InvalidConfigError(
            f"{what} is a key of another kind than Ed25519; `ssh-keygen -t ed25519` makes one"
        )
    data = decode64(words[1]) if len(words) > 1 else None
    public = None if data is None else pair(data)
    if public is None or len(public) != KEY_BYTES:
        raise InvalidConfigError(f"{what} is damaged: what stands behind `ssh-ed25519` is no such key")
    return public
