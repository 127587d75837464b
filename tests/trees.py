"""What lies in a folder, to be compared before and after."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path


def files_below(folder: Path, *, locks: bool = False) -> dict[str, str]:
    """Map every file below a folder to its content's hash; lock files only if asked for."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode) and (locks or path.suffix != ".lock"):
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(mode):
            found[str(path.relative_to(folder))] = f"-> {path.readlink()}"
    return found
