"""Which partial downloads no pull will go on with."""

from __future__ import annotations

import os
import time
from pathlib import Path

from msb_cache.artifacts.layout import Layout
from msb_cache.artifacts.locks import Lock
from msb_cache.engines.own.downloads import STALE_SECONDS, collect_stale, stale


def test_what_is_stale(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    assert [*stale(layout)] == []
    layout.downloads.mkdir(parents=True)
    names = [f"{number * 64}.partial" for number in "0123"]
    old, fresh, held, link = (layout.downloads / name for name in names)
    other, folder = layout.downloads / "notes.partial", layout.downloads / f"{'4' * 64}.partial"
    for path in (old, fresh, held, other):
        path.write_bytes(b"begun")
    link.symlink_to(old)
    folder.mkdir()
    for path in (old, held, other, link, folder):
        os.utime(path, (time.time() - STALE_SECONDS - 60,) * 2, follow_symlinks=False)
    with Lock(held) as lock:
        assert lock.acquire()
        assert [*stale(layout)] == [old]
        collect_stale(layout)
    assert {*layout.downloads.iterdir()} == {fresh, held, link, other, folder}
