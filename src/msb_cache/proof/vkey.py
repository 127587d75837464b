"""Verifier keys: who signs, by which kind of signature, as the strings of C2SP's signed-note.

Not for secret keys: see ``signer``. Signatures are Ed25519 only, of logs or of witnesses.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Any, ClassVar, Final, Literal

from msgspec import Struct

from msb_cache.errors import InvalidConfigError
from msb_cache.extras import require
from msb_cache.shapes import Result

ED25519: Final = 1
"""The kind of signature of a log: Ed25519 over the text of the note."""

COSIGNATURE: Final = 4
"""The kind of a witness: Ed25519 over the text and the time at which it was seen."""

Kind = Literal[1, 4]

KEY_BYTES, SIGNATURE_BYTES, TIME_BYTES = 32, 64, 8

PRIVATE = "PRIVATE+KEY+"
"""How a secret key begins; see ``signer``."""

LONGEST_NAME = 255
"""Bytes of a key's name."""

_LONGEST = 1024
_HEX = re.compile(r"[0-9a-f]{8}")


class VerifierKey(Result, Struct, frozen=True):
    """A public key with its name: ``name+hash+key``.

    Attributes:
        name: who signs; of a log's key also the origin of its checkpoints. Without spaces and plus signs.
        kind: 1: the key of a log; 4: of a witness.
        public: the Ed25519 public key, 32 bytes.
    """

    _is_plain: ClassVar[bool] = True
    name: str
    kind: Kind
    public: bytes

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Return the key that a string names.

        Raises:
            InvalidConfigError: it is none, its hash is not that of its name and key, or it is of a kind that
                is not known here.
        """
        if len(text) > _LONGEST:
            raise InvalidConfigError(
                "the key is longer than any verifier key; give one such as `key show` prints"
            )
        refuse_secret(text)
        name, plus, rest = text.partition("+")
        digits, second, encoded = rest.partition("+")
        data = decode64(encoded)
        if not plus or not second or not _HEX.fullmatch(digits) or not data:
            raise InvalidConfigError(f"{text!r} is no verifier key, such as example.com/log+8c2f1c26+AQ…")
        kind, public = data[0], data[1:]
        if kind not in (ED25519, COSIGNATURE):
            raise InvalidConfigError(
                f"the key {name!r} is of kind {kind}, and this msb-cache knows 1 and 4 (Ed25519)"
            )
        found = cls(checked_name(name), 1 if kind == ED25519 else 4, public)
        if len(public) != KEY_BYTES:
            raise InvalidConfigError(
                f"the key {name!r} has {len(public)} bytes, and an Ed25519 key {KEY_BYTES}"
            )
        if found.key_id.hex() != digits:
            raise InvalidConfigError(
                f"the key {name!r} is damaged: its hash is {found.key_id.hex()}, not {digits}"
            )
        return found

    @property
    def key_id(self) -> bytes:
        """The four bytes by which a signature says, beside the name, which key made it."""
        message = self.name.encode() + b"\n" + bytes((self.kind,)) + self.public
        return hashlib.sha256(message).digest()[:4]

    def __str__(self) -> str:
        key = base64.b64encode(bytes((self.kind,)) + self.public).decode()
        return f"{self.name}+{self.key_id.hex()}+{key}"

    def has_signed(self, message: bytes, signature: bytes) -> bool:
        """Return whether an Ed25519 signature (64 bytes) is this key's over a message."""
        require("proof", "what checks signatures", "cryptography")
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    def _shape(self) -> dict[str, Any]:
        return {"name": self.name, "key": str(self), "witness": self.kind == COSIGNATURE}


def refuse_secret(text: str) -> None:
    """Refuse a secret key where something else is asked for, before an error shows it.

    Raises:
        InvalidConfigError: it is one.
    """
    if text.startswith(PRIVATE):
        raise InvalidConfigError(
            "this is a secret key; `key show` prints the verifier key of the file that it is in"
        )


def checked_name(name: str) -> str:
    """Return the name of a key, if it can be one.

    Raises:
        InvalidConfigError: it cannot; says why.
    """
    refuse_secret(name)
    if not name or any(character.isspace() or character == "+" for character in name):
        has = "has neither spaces nor plus signs" if name else "is not empty"
        raise InvalidConfigError(f"{name!r} is no name of a key: it {has}, such as ci7.example.com/msb-cache")
    if not name.isprintable():
        raise InvalidConfigError(f"{name!r} is no name of a key: it has characters that cannot be printed")
    if len(name.encode("utf-8", "surrogatepass")) > LONGEST_NAME:
        raise InvalidConfigError(f"the name of a key has at most {LONGEST_NAME} bytes")
    return name


def decode64(text: str) -> bytes | None:
    """Return what base64 says; None: it is none, or not written in the one way that there is."""
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return found if base64.b64encode(found).decode() == text else None
