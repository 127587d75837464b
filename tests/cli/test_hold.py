"""Holds: that they hold, are recorded once, and end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.support import APP, Call, fingerprint
from tests.fakemsb import FakeMsb


def test_use_hold_release(home: Path, call: Call) -> None:
    used = call("use", "app:1", "--holder", "sandbox:dev")
    assert (used.code, used.out, used.err) == (0, "", "  ✓ Used       app:1\n")
    assert call("rm", "app:1").code == 0  # used is not held
    held = call("hold", "app:latest", "sandbox:dev")
    assert (held.code, held.out) == (0, "")
    assert f"app:latest ({APP.digest[:19]}) by sandbox:dev" in held.err
    released = call("release", "sandbox:dev")
    assert (released.code, released.out) == (0, "")
    assert APP.digest[:19] in released.err


def test_holding_twice_is_one_event(home: Path, call: Call) -> None:
    call("hold", "app:1", "sandbox:dev")
    once = fingerprint(home)
    assert call("hold", "app:1", "sandbox:dev").code == 0
    assert fingerprint(home) == once


def test_quiet(home: Path, call: Call) -> None:
    for arguments in (
        ("use", "app:1"),
        ("hold", "app:1", "sandbox:dev"),
        ("release", "sandbox:dev"),
        ("release", "sandbox:dev"),
    ):
        done = call(*arguments, "-q")
        assert (done.code, done.out, done.err) == (0, "", "")


def test_a_hold_that_msb_does_not_know_is_not_enforced(
    own_home: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeMsb(tmp_path / "msb", own_home)
    fake.load(APP)
    fake("create", "app:1", "--name", "dev")
    monkeypatch.setenv("MSB_PATH", str(fake.program))
    held = call("hold", "app:1", "sandbox:mine", "--format", "json")
    assert held.json == {
        "reference": "app:1",
        "digest": APP.digest,
        "holder": "sandbox:mine",
        "enforced": False,
    }
    assert "`msb image prune` and `msb image rm` do not know this hold" in held.err
    assert call("hold", "app:1", "sandbox:dev", "--format", "json").json["enforced"]  # msb's own


def test_json(home: Path, call: Call) -> None:
    assert call("hold", "app:1", "sandbox:dev", "--format", "json").json["enforced"]
