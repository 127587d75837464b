"""Digest syntax and computing digests (OCI image-spec, descriptor.md, "Digests"). Not for verifying streams.

Content is stored under SHA-256 only: it is what every registry and archive writer uses, and one algorithm
keeps one name per artifact. SHA-512 is registered too, so it is refused by name and not as a syntax error.
"""

from __future__ import annotations

import re

from msb_cache.errors import InvalidImageError

_SHA256_CHARACTERS = 71
_HEX = "0123456789abcdef"
_SHA512 = r"sha512:[0-9a-f]{128}"
_SHOWN_CHARACTERS = 120


def digest_of(data: bytes) -> str:
    """The SHA-256 digest of ``data`` as ``sha256:<64 hex digits>``."""
    import hashlib  # loads OpenSSL, which a command that only parses references need not pay for

    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_problem(text: str) -> str | None:
    """What is wrong with a digest, as the end of a sentence, or None when it is a usable SHA-256 digest."""
    if len(text) == _SHA256_CHARACTERS and text.startswith("sha256:") and not text[7:].strip(_HEX):
        return None
    if re.fullmatch(_SHA512, text):
        return "is a sha512 digest; only sha256 is supported"
    return "is not a digest of the form sha256:<64 lower-case hex digits>"


def check_digest(text: str, what: str) -> str:
    """Return ``text`` if it is a SHA-256 digest, else raise InvalidImageError naming ``what`` holds it."""
    problem = digest_problem(text)
    if problem is None:
        return text
    raise InvalidImageError(f"{what}: {shown(text)} {problem}")


def shown(text: str) -> str:
    """Untrusted text made safe for a one-line message: quoted, control characters escaped, cut when long."""
    if len(text) > _SHOWN_CHARACTERS:
        text = text[:_SHOWN_CHARACTERS] + "…"
    return "'" + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text) + "'"
