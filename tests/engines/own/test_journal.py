"""Additions that did not commit are taken back by their journals."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache import ImageCache, failpoints
from msb_cache.artifacts.layout import Layout
from msb_cache.engines.own import add as adding
from tests.engines.interrupting import (
    check_clean,
    prepare,
)
from tests.trees import files_below


def test_an_undo_that_fails_is_left_to_recovery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = prepare(tmp_path, "retag")
    before = files_below(home / "cache")

    def fail(step: str) -> None:
        if step == "add.published":
            monkeypatch.setattr(adding, "undo", interrupted)
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
