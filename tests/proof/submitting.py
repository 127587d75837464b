"""Logs that submit to a witness: they sign, prove, and rewrite themselves."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from msb_cache.eventstore import merkle
from msb_cache.proof.note import Note
from msb_cache.proof.submission import Submission
from msb_cache.proof.tree_head import TreeHead
from msb_cache.proof.vkey import VerifierKey
from msb_cache.proof.witness import Witness
from tests.proof.signing import LOG, MONDAY, SigningKey, new_log_key, new_witness_key, sign

WITNESS = new_witness_key("witness.example/w1")
LOG_KEY = new_log_key()
LOG_HASH = sha256(LOG.encode()).hexdigest()
NOW = MONDAY * 10**9


class SubmittingLog:
    """A log of any leaves, with a key."""

    def __init__(self, leaves: Sequence[bytes], key: SigningKey = LOG_KEY) -> None:
        self.key = key
        self.leaves = leaves
        self._hashes = [merkle.leaf_hash(each) for each in leaves]

    def _subtree(self, level: int, index: int) -> bytes:
        return merkle.combined(self._hashes[index << level : (index + 1) << level])

    def head(self, size: int) -> TreeHead:
        return TreeHead(self.key.key.name, size, merkle.root(size, self._subtree))

    def path(self, old: int, size: int) -> tuple[bytes, ...]:
        return () if old == 0 else tuple(merkle.consistency_path(old, size, self._subtree))

    def note(self, size: int, *keys: SigningKey) -> Note:
        return sign(self.head(size).text, *(keys or (self.key,)))

    def request(self, old: int, size: int) -> bytes:
        """What it sends to have a checkpoint cosigned that goes on from one that is known."""
        return request(old, self.path(old, size) if old <= size else (), self.note(size))


def request(old: int, path: tuple[bytes, ...], note: Note) -> bytes:
    return str(Submission(old, path, note)).encode()


def leaves(count: int, seed: str = "") -> list[bytes]:
    return [sha256(f"{seed} {number}".encode()).digest() for number in range(count)]


HONEST = SubmittingLog(leaves(40))
EARLY = SubmittingLog([*leaves(5), *leaves(35, "early")])
"""The same log, written anew behind its fifth event."""
LATE = SubmittingLog([*leaves(20), *leaves(20, "late")])
"""And behind its twentieth."""


def witness_at(folder: Path, *logs: VerifierKey, now: Sequence[int] = (NOW,)) -> Witness:
    """A witness whose clock says these times, and the last one for ever."""
    times = [*now]

    def clock() -> int:
        return times.pop(0) if len(times) > 1 else times[0]

    return Witness(folder / "w.db", WITNESS, logs or (LOG_KEY.key,), clock)


def written(key: SigningKey, path: Path) -> Path:
    """Write a secret key as its file."""
    seed = base64.b64encode(bytes((key.key.kind,)) + key.secret.private_bytes_raw()).decode()
    path.write_text(f"PRIVATE+KEY+{key.key.name}+{key.key.key_id.hex()}+{seed}\n")
    path.chmod(0o600)
    return path
