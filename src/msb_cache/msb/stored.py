"""What msb keeps of a manifest in a reference's metadata file, and its database does not say.

Only of a file whose documents fit together: what is seen here is what later looks are compared with.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from msb_cache.artifacts import metadata
from msb_cache.errors import CorruptArtifactError, InvalidImageError
from msb_cache.home.documents import inner_difference
from msb_cache.oci.documents.decode import decode_config

MAX_SIGNAL = 64
"""Characters of a stop signal that is taken over."""


class Stored(NamedTuple):
    """A manifest as a metadata file has it.

    Attributes:
        manifest_digest: the manifest's own digest.
        digest: the SHA-256 digest of the bytes that are kept of it; another, where msb wrote it anew.
        config_digest: its config's digest, which the config that is kept has.
        diff_ids: its layers, bottom to top.
        stop_signal: what its config says of that.
        written_at_ns: when the file was written, in ns since the epoch.
    """

    manifest_digest: str
    digest: str
    config_digest: str
    diff_ids: tuple[str, ...]
    stop_signal: str | None
    written_at_ns: int


Look = Callable[[str], Stored | None]
"""For a canonical reference, what its metadata file has; None where none is whole."""


def look(path: Path) -> Stored | None:
    """Return what a metadata file has; None if it is not there, or its documents do not fit together."""
    try:
        written_at = os.stat(path).st_mtime_ns
        found = metadata.decode(path)
        if inner_difference(found) is not None:
            return None
        signal = decode_config(found.raw_config_json.encode()).run.stop_signal
    except (OSError, CorruptArtifactError, InvalidImageError):
        return None
    return Stored(
        found.manifest_digest,
        metadata.digest_of(found.raw_manifest_json),
        found.config_digest,
        tuple(layer.diff_id for layer in found.layers),
        signal if signal and len(signal) <= MAX_SIGNAL else None,
        written_at,
    )
