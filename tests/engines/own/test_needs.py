"""What the index needs is asked for as it is when a file would go."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from msb_cache import ImageCache, ImageNotFoundError, failpoints
from msb_cache.artifacts.layer import read_layer
from msb_cache.artifacts.layout import Layout
from msb_cache.eventstore import events as ev
from tests.engines.interrupting import (
    SHARED,
    Pruning,
    check_clean,
    prepare,
)


def test_a_layer_loaded_between_decision_and_unlink_stays(tmp_path: Path) -> None:
    """The prune has decided to delete the shared layer; a load of it comes before the unlink."""
    home = prepare(tmp_path, "load")  # one:1 alone
    decided, go_on = threading.Event(), threading.Event()

    def observer(step: str) -> None:
        if step == "delete.decided" and threading.current_thread() is worker:
            decided.set()
            assert go_on.wait(30)

    worker = Pruning(home, observer)
    worker.start()
    assert decided.wait(30)
    with ImageCache(home) as cache:
        with pytest.raises(ImageNotFoundError):
            cache.get("one:1")
        cache.load(tmp_path / "two.tar")
    go_on.set()
    worker.join(30)
    failpoints.observer = None
    check_clean(home)
    layout = Layout(home)
    assert read_layer(layout.layer(SHARED.diff_id)).root.children is not None
    with ImageCache(home) as cache:
        kept = cache.events(types=["artifact.kept"])
        assert [(event.subject, event.data) for event in kept] == [
            (SHARED.diff_id, ev.ArtifactKept(kind="layer", reason="needed"))
        ]
        assert cache.prunes()[0].counters.outcome == "partial"
        assert (
            cache.inspect("two:1").layers[0].erofs_size_bytes == layout.layer(SHARED.diff_id).stat().st_size
        )
