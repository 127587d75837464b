"""What the bytes of artifacts are: of each kind by its algorithm, of files and of what is about to be one."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from msb_cache.artifacts import verity
from msb_cache.artifacts.kinds import KINDS

if TYPE_CHECKING:
    from pathlib import Path


def digest_of(kind: str, path: str | Path) -> str:
    """Return the digest of the file at ``path`` itself, not behind a link, as one of an artifact of a kind.

    Raises:
        OSError: it cannot be read, or is no file.
    """
    return verity.digest_of_file(path, KINDS[kind].algorithm)


def digest_of_content(content: bytes) -> str:
    """Return the SHA-256 digest of what a small file has."""
    return f"sha256:{sha256(content).hexdigest()}"
