"""Homes that a test copied elsewhere, as if they had been made there."""

from __future__ import annotations

import os
import re
from pathlib import Path


def settle(home: Path) -> None:
    """Let the VMDKs of a copied home name its own files; they stay as long as the index knows them to be."""
    for path in (home / "cache" / "vmdk").glob("*.vmdk"):
        content = path.read_bytes()
        own = re.sub(rb'"[^"\n]*(/cache/[^"\n]*")', b'"' + os.fsencode(home) + rb"\1", content)
        extents, _, _ = own.partition(b"\n# The Disk Data Base\n")
        # What describes no extent may be cut short, as readers want none of it, and of a copy it was.
        extents = extents.rstrip(b"#\n") + b"\n"
        settled = own if len(own) == len(content) else extents.ljust(len(content), b"#")
        assert len(settled) == len(content), "the copy's path is too long"
        path.write_bytes(settled)
