"""Partial downloads: parts of layers that a later pull goes on with, and when none will any more."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from msb_cache.artifacts.layout import Layout
from msb_cache.artifacts.locks import is_free
from msb_cache.oci.registry.partials import Partial

STALE_SECONDS = 7 * 24 * 3600
"""A partial download that no pull went on with for this long is deleted."""

_PARTIAL = r"([0-9a-f]{64})\.partial"


def stale(layout: Layout) -> Iterator[Path]:
    """Yield the partial downloads that no pull went on with, and that this user may delete.

    One that is being written is locked.
    """
    try:
        names = sorted(os.listdir(layout.downloads))
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        path = layout.downloads / name
        with suppress(FileNotFoundError, PermissionError):
            old = re.fullmatch(_PARTIAL, name) and time.time() - path.lstat().st_mtime > STALE_SECONDS
            if old and path.is_file() and not path.is_symlink() and is_free(path):
                yield path


def collect_stale(layout: Layout) -> None:
    """Delete them."""
    for path in stale(layout):
        partial = Partial.open(path.parent, f"sha256:{path.stem}", 1 << 62)
        if partial is not None:
            partial.discard()
            partial.close()
