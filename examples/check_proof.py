"""Check a proof that `msb-cache prove` made, with nothing of msb-cache: `check_proof.py FILE VKEY`.

It needs the log's verifier key (`msb-cache key show`) by another way than the proof, and `cryptography`.
"""

from __future__ import annotations

import base64
import json
import struct
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

COLUMNS = (
    *("seq", "id", "type", "version", "subject", "operation"),
    *("occurred_at", "recorded_at", "actor", "data"),
)


def check(proof: str, vkey: str) -> dict[str, Any]:
    """Return the event that is proved to be in the log of the key. It raises an error if it is not."""
    above, _, note = proof.partition("\n\n")
    title, extra, index, *path = above.split("\n")
    text, _, below = note.rpartition("\n\n")
    origin, size, root, *_ = text.split("\n")

    # The checkpoint is of the key's log, and signed by it.
    name, key_id, key = vkey.split("+", 2)
    public = base64.b64decode(key)[1:]  # behind the kind of key, 1
    known = sha256(name.encode() + b"\n\x01" + public).digest()[:4]
    signatures = [base64.b64decode(line.split(" ")[2]) for line in below.splitlines()]
    signed = next(each[4:] for each in signatures if each[:4] == known)
    Ed25519PublicKey.from_public_bytes(public).verify(signed, f"{text}\n".encode())
    require(
        (title, origin, key_id) == ("c2sp.org/tlog-proof@v1", name, known.hex()), "another log, or no proof"
    )

    # The event's hash is over the hash before it and its columns: each a tag, its length and its value.
    found = json.loads(base64.b64decode(extra.removeprefix("extra ")))
    event = {column: found["event"][column] for column in COLUMNS}
    hashed = bytes.fromhex(found["previous"])
    for value in event.values():
        data = value.encode() if isinstance(value, str) else struct.pack(">q", value)
        hashed += struct.pack(">cI", b"t" if isinstance(value, str) else b"i", len(data)) + data

    # That hash is the leaf at the event's place in the tree with the checkpoint's root (RFC 6962).
    at, last = int(index.removeprefix("index ")), int(size) - 1
    require(0 <= at == event["seq"] - 1 <= last, "the proof is of another event")
    node = sha256(b"\x00" + sha256(hashed).digest()).digest()
    for side in map(base64.b64decode, path):
        while at and at == last and at % 2 == 0:
            at, last = at // 2, last // 2
        require(last > 0, "the path is too long")
        node = sha256(b"\x01" + (side + node if at % 2 else node + side)).digest()
        at, last = at // 2, last // 2
    require((last, node) == (0, base64.b64decode(root)), "the event is not in the log")
    return event


def require(true: bool, otherwise: str) -> None:
    """Stop if something is not so."""
    if not true:
        raise ValueError(otherwise)


if __name__ == "__main__":
    event = check(Path(sys.argv[1]).read_bytes().decode(), sys.argv[2])
    print(f"event {event['seq']}: {event['type']} of {event['subject']}: {event['data']}")
