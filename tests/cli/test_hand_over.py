"""What hand-over says: what it did, what msb says otherwise, and what failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from msb_cache.artifacts.layout import Layout
from tests.cli.support import APP, Call
from tests.fakemsb import FakeMsb


@pytest.fixture
def fake(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMsb:
    """Return the fake msb for a home of ours."""
    fake = FakeMsb(tmp_path / "msb", home)
    monkeypatch.setenv("MSB_PATH", str(fake.program))
    return fake


def test_tables_and_json(fake: FakeMsb, call: Call) -> None:
    planned = call("hand-over", "app:1", "--dry-run")
    assert (planned.code, planned.out) == (0, "")
    assert planned.err == f"  ✓ Would be   app:1  {APP.digest}\n"
    (done,) = call("hand-over", "app:1", "--format", "json", "--reason", "msb shall run it").json
    assert done | {"reset": ..., "reference": ...} == {
        "reference": ...,
        "digest": APP.digest,
        "outcome": "handed over",
        "new_digest": None,
        "reset": ...,
        "problem": None,
    }
    assert done["reset"].keys() == {"created_at", "last_used_at"}
    assert done["reset"]["created_at"]["before"].endswith("+00:00")
    assert call("history", "app:1", "--type", "image.pulled").out.rstrip().endswith("msb shall run it")
    known = call("hand-over", "app:1")
    assert (known.code, known.err) == (0, f"  ✓ Known      app:1  {APP.digest}\n")


def test_one_that_fails(fake: FakeMsb, call: Call) -> None:
    path = Layout(fake.home).vmdk(APP.digest)
    path.unlink()
    done = call("hand-over")
    assert done.code == 1
    assert f"error: app:1: {path.name} is missing; load the image again\n" in done.err
    assert "Handed over example.org/team/tool:2" in done.err
    assert "the log has the times as they were" in done.err


def test_another_digest_and_quiet(fake: FakeMsb, call: Call) -> None:
    fake.fails("load", "error: no")
    done = call("hand-over", "app:1")
    assert done.code == 0
    assert f"  ✓ Saved      app:1  {APP.digest} → sha256:" in done.err
    assert "app:1 has another digest now: msb did not take it as it is (no)" in done.err
    quiet = call("hand-over", "-q")
    assert (quiet.code, quiet.lines, quiet.err) == (0, ["app:latest", "example.org/team/tool:2"], "")
    assert call("hand-over", "-q").out == ""
    assert call("hand-over").err == "msb knows every image here.\n"


def test_without_an_msb(home: Path, call: Call) -> None:
    done = call("hand-over")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "no msb is found" in done.err
