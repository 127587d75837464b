"""What msb is pulling, as the folders of its cache show it: msb itself draws it, and on a terminal only.

In 0.7.11 a blob grows as ``tmp/sha256_<hex>.part`` beside a ``.download.lock``, and then lies as
``layers/sha256_<hex>.tar.gz`` until the pull is over. How long blobs will be, no file says. If several of
msb's pulls run in one home, this shows the layers of all.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from itertools import islice

from msb_cache.oci.registry.downloads import DownloadEvent, LayerProgress

_BLOB = re.compile(r"sha256_([0-9a-f]{64})\.(part|download\.lock|tar\.gz)")
_MOST = 10_000
"""Entries of a folder that are looked at; an image has some hundred layers at most."""


class Arrivals:
    """The blobs that come into a cache of msb from now on.

    Args:
        cache: its folder.
        progress: told of each as ``LayerProgress`` says.
    """

    def __init__(self, cache: str | os.PathLike[str], progress: Callable[[LayerProgress], None]) -> None:
        self._folders = [os.path.join(cache, name) for name in ("tmp", "layers")]
        self._progress = progress
        self._before = dict(self._entries())
        """What lay there already; it is shown once it changes."""
        self._told: dict[str, tuple[DownloadEvent, int]] = {}

    def look(self) -> None:
        """Tell of what has changed since the last look."""
        states: dict[str, tuple[DownloadEvent, int]] = {}
        for (digest, kind), size in self._entries():
            if digest not in self._told and self._before.get((digest, kind)) == size:
                continue
            if kind == "tar.gz":
                states[digest] = ("fetched", size)
            elif kind == "part":
                states[digest] = ("bytes", size)
            else:
                states.setdefault(digest, ("queued", 0))
        for digest, (event, size) in states.items():
            before = self._told.get(digest)
            if before == (event, size) or (event == "queued" and before is not None):
                continue  # its lock stays when it has come
            self._told[digest] = (event, size)
            if event == "bytes" and (before is None or before[0] == "queued"):
                event = "started"
            self._progress(LayerProgress(digest, event, size, size if event == "fetched" else None))

    def _entries(self) -> Iterator[tuple[tuple[str, str], int]]:
        """Yield the files of blobs: digest and kind, and the length in bytes."""
        for folder in self._folders:
            try:
                with os.scandir(folder) as entries:
                    for entry in islice(entries, _MOST):
                        found = _BLOB.fullmatch(entry.name)
                        if found is not None and (size := _length(entry)) is not None:
                            yield (f"sha256:{found[1]}", found[2]), size
            except OSError:
                continue  # msb makes it


def _length(entry: os.DirEntry[str]) -> int | None:
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return None  # it went meanwhile
    return found.st_size if stat.S_ISREG(found.st_mode) else None
