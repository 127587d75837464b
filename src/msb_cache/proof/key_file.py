"""Keys in files, for a person: a new one, and the verifier key of what a file has."""

from __future__ import annotations

import os

from msb_cache.errors import InvalidConfigError
from msb_cache.proof import ssh
from msb_cache.proof.signer import beginning_of, new_secret, read_secret
from msb_cache.proof.vkey import COSIGNATURE, ED25519, Kind, VerifierKey, checked_name, refuse_secret
from msb_cache.wording import reason_of

_LONGEST = 16 * 1024
"""Bytes of an OpenSSH public key with a long comment, which are read of a file."""


def new_key(path: str | os.PathLike[str], name: str, *, witness: bool = False) -> VerifierKey:
    """Make a key for signing, write its secret into a new file, and return the key that others check with.

    The file is its user's alone (0600), and durable when this returns. A home is not needed.

    Args:
        path: where; what is there is never written over.
        name: who signs, such as ``ci7.example.com/msb-cache``: of a log's key the origin of its checkpoints.
            Without spaces and plus signs.
        witness: the key of a witness, which cosigns checkpoints of others; else that of a log.

    Raises:
        InvalidConfigError: it is no name, something is at the path, or it cannot be written there.
        UnsupportedError: the extra ``proof`` is not installed.
    """
    return new_secret(path, name, COSIGNATURE if witness else ED25519)


def key_of(path: str | os.PathLike[str], *, name: str | None = None, witness: bool = False) -> VerifierKey:
    """Return the key with which others check what a key in a file signs.

    Args:
        path: a secret key file, which has a name and a kind of its own; or an OpenSSH public key such as
            ``~/.ssh/id_ed25519.pub``, whose secret an ssh-agent has.
        name: of the OpenSSH key: who signs, as for ``new_key``.
        witness: the OpenSSH key is that of a witness.

    Raises:
        InvalidConfigError: the file cannot be read, has no such key, or is a secret that others can read; a
            name is missing, or given to a key that has one.
        UnsupportedError: the extra ``proof``, which a secret key needs, is not installed.
    """
    path = os.fspath(path)
    refuse_secret(path)  # which an error would show
    text = _public_text(path)
    if text is None:
        if name is not None or witness:
            raise InvalidConfigError(
                f"the key in {path} has a name and a kind of its own; leave --name and --witness out"
            )
        return read_secret(path).key
    if name is None:
        raise InvalidConfigError(
            f"{path} is a public key of OpenSSH, which says no name; give it one: --name"
        )
    kind: Kind = COSIGNATURE if witness else ED25519
    return VerifierKey(checked_name(name), kind, ssh.public_in(text, path))


def _public_text(path: str) -> str | None:
    """Return the text of a file with a public key; None: it has none."""
    try:
        content, _ = beginning_of(path, _LONGEST)
    except OSError as error:
        raise InvalidConfigError(f"the key {path} cannot be read: {reason_of(error)}") from None
    text = content.decode("utf-8", "replace")
    return text if text.startswith(ssh.PREFIXES) else None
