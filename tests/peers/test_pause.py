"""A prune pauses between decision and unlink, an image that shares the layer is loaded, and mounts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from msb_cache import ImageCache, failpoints
from msb_cache.artifacts.layout import Layout
from tests.artifacts.support import mounted
from tests.engines.interrupting import ONE, SHARED, TWO, Pruning, check_clean, write

pytestmark = pytest.mark.peer


def test_the_image_that_came_in_between_mounts(tmp_path: Path, require_peer: Callable[[str], str]) -> None:
    require_peer("root")
    home = tmp_path / "cache-home"
    with ImageCache(home) as cache:
        cache.load(write(tmp_path / "one.tar", ONE))
    decided, go_on = threading.Event(), threading.Event()

    def observer(step: str) -> None:
        if step == "delete.decided" and threading.current_thread() is prune:
            decided.set()
            assert go_on.wait(30)

    prune = Pruning(home, observer)
    try:
        prune.start()
        assert decided.wait(30)
        with ImageCache(home) as cache:
            cache.load(write(tmp_path / "two.tar", TWO))
        go_on.set()
        prune.join(30)
    finally:
        go_on.set()
        failpoints.observer = None
    check_clean(home)
    layout = Layout(home)
    with ImageCache(home) as cache:
        assert [handle.reference for handle in cache.list()] == ["two:1"]
        digest = cache.get("two:1").manifest_digest
    assert digest is not None
    layers = [layout.layer(SHARED.diff_id), layout.layer(TWO.layers[1].diff_id)]
    with mounted(layout.fsmeta(digest), layers, tmp_path / "mnt") as root:
        assert (root / "shared").read_bytes() == b"s" * 9000
        assert (root / "two").read_bytes() == b"2"
        assert not (root / "one").exists()
