"""Files that are replaced only when the new one is whole."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msb_cache import (
    ImageCache,
)
from tests.examples import ONE, archive


def test_a_save_writes_through_links_and_to_devices(cache: ImageCache, tmp_path: Path) -> None:
    cache.load(archive(ONE))
    link, target = tmp_path / "link.tar", tmp_path / "target.tar"
    link.symlink_to(target)
    cache.save("one:1", link)
    assert link.is_symlink()
    assert target.stat().st_size > 0
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_bytes)
        cache.save("one:1", pipe)
        assert read.result(30) == target.read_bytes()
