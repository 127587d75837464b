"""Who signs: what has the secret key to a verifier key. And how a log signs, and how a witness cosigns.

A secret lies in a file of ``new_secret``, in an ssh-agent, or in what a command asks. The file has one line,
``PRIVATE+KEY+name+hash+secret``, of the form that Go's ``sumdb/note`` has: the hash is that of the verifier
key, the secret is the base64 of the kind and the 32 bytes that an Ed25519 key is made of.
"""

from __future__ import annotations

import base64
import errno
import os
import re
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from msb_cache import ownership
from msb_cache.errors import InvalidConfigError
from msb_cache.extras import require
from msb_cache.proof import ssh
from msb_cache.proof.note import Signature, cosigned
from msb_cache.proof.vkey import (
    COSIGNATURE,
    ED25519,
    KEY_BYTES,
    PRIVATE,
    TIME_BYTES,
    Kind,
    VerifierKey,
    checked_name,
    decode64,
)
from msb_cache.wording import reason_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_LONGEST = 1024
"""Bytes of a secret key file; one with the longest name has about three hundred."""

_SECRET = PRIVATE.encode()
_VKEY = re.compile(r"[^+\s]+\+[0-9a-f]{8}\+[A-Za-z0-9+/=]*")
_LATEST = 2**63 - 1


class Signer(Protocol):
    """Signs with one key, wherever its secret lies."""

    @property
    def key(self) -> VerifierKey:
        """The public key that signatures are checked with."""

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature of a message, 64 bytes.

        Raises:
            MicrosandboxError: it cannot be made.
        """


def signer_of(named: str, command: str | None = None) -> Signer:
    """Return what signs as a person has named it.

    Args:
        named: the path of a secret key file, or a verifier key; then an ssh-agent has its secret.
        command: what has the secret of the verifier key instead: it is run, without a shell, for each
            signature, with what is to be signed on standard input.

    Raises:
        InvalidConfigError: it is neither, the file cannot be used, or a file and a command are given.
        UnsupportedError: the extra ``proof`` is not installed, by which signatures are checked as well.
    """
    require("proof", "what signs", "cryptography")
    if named.startswith(PRIVATE):
        raise InvalidConfigError("a secret key is given by the path of its file, and is not shown otherwise")
    if not _VKEY.fullmatch(named):
        if command is not None:
            raise InvalidConfigError(
                f"{named} would be a secret key file, and a command signs as well; give the verifier key of "
                "that, as `key show` prints it"
            )
        return read_secret(named)
    key = VerifierKey.parse(named)
    if command is None:
        from msb_cache.proof.agent import AgentSigner

        return AgentSigner(key)
    from msb_cache.proof.sign_command import CommandSigner

    return CommandSigner(key, command)


def sign(text: str, signer: Signer) -> Signature:
    """Return a log's signature of a note's text, which ends with a line feed.

    Raises:
        InvalidConfigError: the key is that of a witness.
        MicrosandboxError: the signer does not sign.
    """
    key = signer.key
    if key.kind != ED25519:
        raise InvalidConfigError(
            f"{key.name} is the key of a witness, and a log signs with another; `key new` makes one"
        )
    return Signature(key.name, key.key_id, signer.sign(text.encode()))


def cosign(text: str, time: int, signer: Signer) -> Signature:
    """Return a witness's signature of a note's text as seen at a time, in s since the epoch.

    Raises:
        InvalidConfigError: the key is that of a log, or there is no such time.
        MicrosandboxError: the signer does not sign.
    """
    key = signer.key
    if key.kind != COSIGNATURE:
        raise InvalidConfigError(
            f"{key.name} is the key of a log, and a witness signs with another; `key new --witness` makes one"
        )
    if not 0 < time <= _LATEST:
        raise InvalidConfigError(f"{time} is no time at which a witness signs; set the clock")
    signature = signer.sign(cosigned(text, time))
    return Signature(key.name, key.key_id, time.to_bytes(TIME_BYTES, "big") + signature)


class SecretKey:
    """A secret key of a file, which is never shown: neither it nor an error of it says anything of it."""

    __slots__ = ("_key", "_secret")

    def __init__(self, name: str, kind: Kind, secret: Ed25519PrivateKey) -> None:
        self._key = VerifierKey(name, kind, secret.public_key().public_bytes_raw())
        self._secret = secret

    @property
    def key(self) -> VerifierKey:
        """The public key that signatures are checked with."""
        return self._key

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature of a message, 64 bytes."""
        return self._secret.sign(message)

    def __repr__(self) -> str:
        return f"<SecretKey of {self._key}>"


def new_secret(path: str | os.PathLike[str], name: str, kind: Kind = ED25519) -> VerifierKey:
    """Make a key, write its secret into a new file that only its user may read, and return what checks it.

    The file and its name are durable when this returns. One that root makes in another user's folder is that
    user's.

    Args:
        path: where; nothing may be there.
        name: of a log's key the origin of its checkpoints; without spaces and plus signs.
        kind: 1: of a log; 4: of a witness.

    Raises:
        InvalidConfigError: it is no name, something is at the path, or it cannot be written there.
        UnsupportedError: the extra ``proof`` is not installed.
    """
    require("proof", "what makes keys", "cryptography")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    secret = Ed25519PrivateKey.generate()
    key = SecretKey(checked_name(name), kind, secret).key
    seed = base64.b64encode(bytes((kind,)) + secret.private_bytes_raw()).decode()
    path = os.fspath(path)
    try:
        _write(path, f"{PRIVATE}{name}+{key.key_id.hex()}+{seed}\n".encode())
    except FileExistsError:
        raise InvalidConfigError(
            f"something is at {path} already, and no key is written over it; give another path"
        ) from None
    except OSError as error:
        raise InvalidConfigError(f"no key can be written to {path}: {reason_of(error)}") from None
    return key


def _write(path: str, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = ownership.open_file(path, flags, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(path)  # half of a key would be in the way of the next one
        raise


def read_secret(path: str | os.PathLike[str]) -> SecretKey:
    """Return the secret key in a file of ``new_secret``, or of Go's ``note.GenerateKey``.

    Raises:
        InvalidConfigError: it cannot be read, others can read it, it is a link or no file, or no secret key.
        UnsupportedError: the extra ``proof`` is not installed.
    """
    require("proof", "what signs", "cryptography")
    found = _secret_in(_content(os.fspath(path)))
    if isinstance(found, str):
        raise InvalidConfigError(f"{os.fspath(path)} {found}")
    return found


def _content(path: str) -> bytes:
    try:
        content, found = beginning_of(path, _LONGEST + 1, os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidConfigError(
                f"{path} is a symbolic link, and no secret key is read through one; give the file itself"
            ) from None
        raise InvalidConfigError(f"the key {path} cannot be read: {reason_of(error)}") from None
    if content.startswith(_SECRET) and ownership.is_readable_by_others(path, found.st_mode):
        raise InvalidConfigError(
            f"others can read {path}, so its key is no secret: make another, or `chmod 600` it"
        )
    return content


def beginning_of(path: str, most: int, flags: int = 0) -> tuple[bytes, os.stat_result]:
    """Return the first bytes of a file, and what the system says of it.

    Raises:
        OSError: it cannot be read.
        InvalidConfigError: it is no regular file.
    """
    # Without O_NONBLOCK opening a FIFO would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise InvalidConfigError(f"{path} is no file, so no key is read from it; give one")
        return os.read(descriptor, most), found
    finally:
        os.close(descriptor)


def _secret_in(content: bytes) -> SecretKey | str:
    """Return the key in a file's content, or how a sentence goes on that begins with the file."""
    if content.startswith(b"-----BEGIN "):
        return (
            "is a secret key of another form; give it to an ssh-agent with `ssh-add`, and its public key to "
            "`key show`, which prints the verifier key to sign with"
        )
    if content.startswith(tuple(prefix.encode() for prefix in ssh.PREFIXES)):
        return "is a public key; sign with the verifier key that `key show` prints of it"
    if _VKEY.fullmatch(content.decode("utf-8", "replace").strip()):
        return "has a verifier key in it, and no secret; give that key itself and not its file"
    if not content.startswith(_SECRET):
        return "is no secret key; `key new` makes one"
    return _parsed(content.removesuffix(b"\n")) or "is damaged: it is no whole secret key; take another copy"


def _parsed(line: bytes) -> SecretKey | None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        name, digits, encoded = line.decode()[len(PRIVATE) :].split("+", 2)
        checked_name(name)
    except (ValueError, InvalidConfigError):
        return None
    data = decode64(encoded) or b""
    if len(line) > _LONGEST or len(data) != 1 + KEY_BYTES or data[0] not in (ED25519, COSIGNATURE):
        return None
    kind: Kind = ED25519 if data[0] == ED25519 else COSIGNATURE
    found = SecretKey(name, kind, Ed25519PrivateKey.from_private_bytes(data[1:]))
    return found if found.key.key_id.hex() == digits else None
