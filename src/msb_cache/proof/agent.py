"""Keys whose secret an ssh-agent has, which signs with it and never gives it away.

What the agent answers is not believed: it is bounded in bytes and in time, and a signature is checked.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from msb_cache.errors import InvalidConfigError, SigningError
from msb_cache.proof import ssh
from msb_cache.proof.vkey import VerifierKey
from msb_cache.waiting import end_if_asked, told_to_end

VARIABLE = "SSH_AUTH_SOCK"
"""Names the agent's socket, in the environment."""

SECONDS = 60.0
"""So long an agent may take: it can ask a person first, or wait for a token to be touched."""

MAX_ANSWER = 256 * 1024
"""Bytes of an answer: no agent of OpenSSH sends more."""

LIST, LISTED = 11, 12
SIGN, SIGNED = 13, 14
"""The types of the requests to an agent, and of their answers."""


class AgentSigner:
    """Signs by the ssh-agent that ``SSH_AUTH_SOCK`` names.

    Args:
        key: the key that signatures are checked with; the agent has its secret.
    """

    def __init__(self, key: VerifierKey) -> None:
        self._key = key

    @property
    def key(self) -> VerifierKey:
        """The public key that signatures are checked with."""
        return self._key

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature of a message, 64 bytes.

        Raises:
            InvalidConfigError: no agent is named.
            SigningError: it cannot be reached, has not the key, refuses, or answers wrongly or too late.
            KeyboardInterrupt: what ends this thread's waits does so.
        """
        blob = ssh.blob(self._key.public)
        with _talking() as talk:
            if blob not in talk.list_keys():
                raise SigningError(
                    f"the ssh-agent has not the secret of {self._key.name}; give it that with `ssh-add`, or "
                    "unlock it"
                )
            signature = talk.signature(blob, message, self._key.name)
        if signature is None or not self._key.has_signed(message, signature):
            raise SigningError(
                f"the ssh-agent answered with a signature that is not of {self._key.name}; use another agent"
            )
        return signature


@contextmanager
def _talking() -> Iterator[_Talk]:
    path = os.environ.get(VARIABLE)
    if not path:
        raise InvalidConfigError(
            f"no ssh-agent is named by {VARIABLE}; start one and give it the key with `ssh-add`, or sign "
            "with a secret key file"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        talk = _Talk(line)
        try:
            talk.settle()
            line.connect(path)
        except OSError as error:
            raise SigningError(
                f"the ssh-agent that {VARIABLE} names cannot be reached: {error.strerror or error}; start one"
            ) from None
        with told_to_end(talk.shut):
            yield talk


class _Talk:
    """A talk with the agent, which takes ``SECONDS`` at most."""

    def __init__(self, line: socket.socket) -> None:
        self._line, self._until = line, time.monotonic() + SECONDS

    def list_keys(self) -> list[bytes]:
        """Return the public keys whose secrets the agent has, as OpenSSH has them."""
        kind, answer = self._ask(LIST)
        fields = ssh.Fields(answer)
        found = []
        try:
            for _ in range(fields.number() if kind == LISTED else 0):
                found.append(fields.string())
                fields.string()  # the comment
        except ssh.CutOffError:
            raise _wrong() from None
        if kind != LISTED or not fields.is_over:
            raise _wrong()
        return found

    def signature(self, blob: bytes, message: bytes, name: str) -> bytes | None:
        """Return the Ed25519 signature that the agent makes, unchecked; None: it is of another kind."""
        kind, answer = self._ask(SIGN, ssh.string(blob) + ssh.string(message) + bytes(4))
        if kind != SIGNED:
            raise SigningError(
                f"the ssh-agent refuses to sign with {name}; `ssh-add -T` with its public key tries it out"
            )
        fields = ssh.Fields(answer)
        try:
            return ssh.pair(fields.string())
        except ssh.CutOffError:
            raise _wrong() from None

    def _ask(self, kind: int, content: bytes = b"") -> tuple[int, bytes]:
        """Return the type and the content of the answer to a request."""
        try:
            self.settle()
            self._line.sendall(ssh.string(bytes((kind,)) + content))
            (length,) = struct.unpack(">I", self._exactly(4))
            if not 0 < length <= MAX_ANSWER:
                raise _wrong()
            answer = self._exactly(length)
        except OSError as error:
            end_if_asked()
            if isinstance(error, TimeoutError):
                raise SigningError(f"the ssh-agent did not answer within {SECONDS:.0f} seconds") from None
            raise SigningError(f"the ssh-agent went away: {error.strerror or error}; try again") from None
        return answer[0], answer[1:]

    def _exactly(self, count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            self.settle()
            data = self._line.recv(count - len(found))
            if not data:
                raise ConnectionResetError(None, "its answer is cut off")
            found += data
        return bytes(found)

    def settle(self) -> None:
        """Let the next step take what is left of the time."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._line.settimeout(left)

    def shut(self) -> None:
        """End what waits for the agent."""
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)


def _wrong() -> SigningError:
    return SigningError(f"what {VARIABLE} names does not answer as an ssh-agent does; name one that does")
