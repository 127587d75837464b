"""Additions that did not commit are taken back by their journals."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from msb_cache import ImageCache, failpoints
from msb_cache.artifacts.layout import Layout, lock_path
from msb_cache.artifacts.locks import Lock
from msb_cache.engines.own import staging
from tests.engines.interrupting import (
    check_clean,
    in_a_child,
    load_two,
    prepare,
)
from tests.trees import files_below


def test_an_undo_that_fails_is_left_to_recovery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = prepare(tmp_path, "retag")
    before = files_below(home / "cache")

    def fail(step: str) -> None:
        if step == "add.published":
            monkeypatch.setattr(staging, "undo", interrupted)
            raise OSError(28, "No space left on device")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    failpoints.observer = fail
    with ImageCache(home) as cache, pytest.raises(KeyboardInterrupt):
        cache.load(tmp_path / "moved.tar")
    failpoints.observer = None
    assert len(Layout(home).interrupted_operations()) == 1
    with ImageCache(home) as cache:
        cache.release("sandbox:nobody")
    assert files_below(home / "cache") == before
    check_clean(home)


def test_one_damaged_journal_does_not_keep_others_from_writing(tmp_path: Path) -> None:
    home = prepare(tmp_path, "load")
    layout = Layout(home)
    journals = [b'[{"kind":"x","subject":"y"}]', b'[{"kind":"layer","subject":"../../etc"}]', b"{"]
    for number, journal in enumerate(journals):
        staging = layout.staging(f"01a208de-7af1-7b41-9b6b-00000000000{number}")
        staging.mkdir(parents=True)
        (staging / "journal.json").write_bytes(journal)
    layout.operation_lock("01a208de-7af1-7b41-9b6b-000000000009").mkdir()
    with ImageCache(home) as cache:
        cache.use("one:1")


def test_what_another_addition_has_locked_is_undone_later(tmp_path: Path) -> None:
    """It may reuse what the killed one published, and fail."""
    home = prepare(tmp_path, "load")
    layout, before = Layout(home), files_below(home / "cache")

    def killed(step: str) -> None:
        if step == "add.published":
            os.kill(os.getpid(), signal.SIGKILL)

    in_a_child(home, load_two, tmp_path, killed)
    (published,) = {*layout.folders["layer"].glob("*.erofs")} - {home / "cache" / name for name in before}
    with Lock(lock_path(published)) as other:
        assert other.acquire()
        with ImageCache(home) as cache:
            cache.use("one:1")
        assert published.exists()
        assert len(layout.interrupted_operations()) == 1
    with ImageCache(home) as cache:
        cache.use("one:1")
    assert files_below(home / "cache") == before
    check_clean(home)
