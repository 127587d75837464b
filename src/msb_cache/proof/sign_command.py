"""Keys whose secret another program has, which is run for each signature: a hardware token, a vault.

It gets what is to be signed on standard input, and prints the signature. What it prints is not believed: it
is bounded in bytes and in time, and the signature is checked.
"""

from __future__ import annotations

from msb_cache.errors import SigningError
from msb_cache.proof.program import Program
from msb_cache.proof.vkey import SIGNATURE_BYTES, VerifierKey, decode64

SECONDS = 60.0
"""So long it may take: it can ask a person first, or wait for a token to be touched."""

MAX_OUTPUT = 4096
"""Bytes of what it prints; a signature has about a hundred."""


class CommandSigner:
    """Signs by running a command, without a shell.

    Args:
        key: the key that signatures are checked with; the command has its secret.
        command: a program and its arguments, quoted as for a shell.

    Raises:
        InvalidConfigError: the command has no program, or a quote has no end.
    """

    def __init__(self, key: VerifierKey, command: str) -> None:
        self._key = key
        self._program = Program(command, "to sign", SigningError)

    @property
    def key(self) -> VerifierKey:
        """The public key that signatures are checked with."""
        return self._key

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature of a message, 64 bytes.

        Raises:
            SigningError: the command cannot be run, fails, prints no signature of the key, or takes too long.
            KeyboardInterrupt: what ends this thread's waits does so; the command is killed.
        """
        program = self._program.name
        ended = self._program.run(message, seconds=SECONDS, most=MAX_OUTPUT)
        if ended.status != 0:
            raise SigningError(f"{program}, which is to sign, {ended.how}")
        signature = _signature(ended.output)
        if signature is None:
            raise SigningError(
                f"{program} prints no signature: {SIGNATURE_BYTES} bytes, or a line of base64 of them"
                f"{ended.last_line}"
            )
        if not self._key.has_signed(message, signature):
            raise SigningError(
                f"{program} signs with another key than {self._key.name}, or something else than it was given"
            )
        return signature


def _signature(output: bytes) -> bytes | None:
    if len(output) == SIGNATURE_BYTES:
        return output
    try:
        found = decode64(output.decode("ascii").strip())
    except UnicodeDecodeError:
        return None
    return found if found is not None and len(found) == SIGNATURE_BYTES else None
