"""Keys that sign notes, for tests: by the cryptography library, with no file and no agent."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from msb_cache.eventstore.subtrees import LogTree
from msb_cache.proof.kept import keep
from msb_cache.proof.note import Note, Signature, cosigned
from msb_cache.proof.tree_head import TreeHead
from msb_cache.proof.vkey import Kind, VerifierKey

LOG = "log.example/cache"
MONDAY = 1_793_000_000
"""When witnesses say that they saw a note, in s since the epoch, unless a test says otherwise."""


@dataclass(frozen=True)
class SigningKey:
    """A secret key and the public one."""

    secret: Ed25519PrivateKey
    key: VerifierKey

    def sign(self, message: bytes) -> bytes:
        return self.secret.sign(message)


def _new(name: str, kind: Kind, seed: str) -> SigningKey:
    secret = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"{name} {seed}".encode()).digest())
    return SigningKey(secret, VerifierKey(name, kind, secret.public_key().public_bytes_raw()))


def new_log_key(name: str = LOG, seed: str = "") -> SigningKey:
    """Return the key of a log; the same for the same name and seed."""
    return _new(name, 1, seed)


def new_witness_key(name: str, seed: str = "") -> SigningKey:
    """Return the key of a witness; the same for the same name and seed."""
    return _new(name, 4, seed)


def sign(text: str, *keys: SigningKey) -> Note:
    """Return the note of a text with the signatures of logs."""
    return Note(text, tuple(Signature(k.key.name, k.key.key_id, k.sign(text.encode())) for k in keys))


def cosign(note: Note, key: SigningKey, time: int = MONDAY) -> Note:
    """Return a note with one more signature, of a witness."""
    signed = time.to_bytes(8, "big") + key.sign(cosigned(note.text, time))
    return Note(note.text, (*note.signatures, Signature(key.key.name, key.key.key_id, signed)))


def checkpoint(size: int, root: bytes, *keys: SigningKey) -> Note:
    """Return the signed checkpoint of a tree, by keys of one log."""
    return sign(TreeHead(keys[0].key.name, size, root).text, *keys)


def keep_signed(
    database: str | Path, *keys: SigningKey, size: int | None = None, witnesses: Sequence[SigningKey] = ()
) -> Note:
    """Put the signed checkpoint of a log into its database, of so many events or all; return the note."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        if size is None:
            (size,) = connection.execute("SELECT max(seq) FROM events").fetchone()
        note = checkpoint(size, LogTree(connection, size).root(), *keys)
        for witness in witnesses:
            note = cosign(note, witness)
        connection.execute("BEGIN IMMEDIATE")
        keep(connection, note, MONDAY * 10**9)
        connection.execute("COMMIT")
    return note
