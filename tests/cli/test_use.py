"""That a use is recorded and moves what list shows."""

from __future__ import annotations

from pathlib import Path

from tests.cli.support import Call


def test_use_moves_last_used(home: Path, call: Call) -> None:
    before = call("inspect", "app:1", "--format", "json").json
    call("use", "app:1")
    after = call("inspect", "app:1", "--format", "json").json
    assert after["last_used_at"] > before["last_used_at"]
    assert after["created_at"] == before["created_at"]
