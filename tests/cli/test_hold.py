"""Holds: that they hold, are recorded once, and end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.support import APP, USAGE, Call, fingerprint, sentence
from tests.fakemsb import FakeMsb


def test_use_hold_release(home: Path, call: Call) -> None:
    used = call("use", "app:1", "--holder", "sandbox:dev")
    assert (used.code, used.out, used.err) == (0, "", "  ✓ Used       app:1\n")
    assert call("rm", "app:1").code == 0  # used is not held
    held = call("hold", "app:latest", "sandbox:dev")
    assert (held.code, held.out) == (0, "")
    assert f"app:latest ({APP.digest}) by sandbox:dev" in held.err
    released = call("release", "sandbox:dev")
    assert (released.code, released.out) == (0, "")
    assert APP.digest in released.err


def test_holding_twice_is_one_event(home: Path, call: Call) -> None:
    call("hold", "app:1", "sandbox:dev")
    once = fingerprint(home)
    assert call("hold", "app:1", "sandbox:dev").code == 0
    assert fingerprint(home) == once


def test_until(home: Path, call: Call) -> None:
    done = call("hold", "app:1", "sandbox:dev", "--until", "2099-01-01")
    assert re.search(r" by sandbox:dev until 2099-01-01 00:00:00 [+-]\d{4}$", done.err)
    found = call("hold", "app:1", "sandbox:dev", "--until", "2099-01-02T00:00:00Z", "--format", "json").json
    assert found["until"] == "2099-01-02T00:00:00.000000000+00:00"
    assert call("holders", "--format", "json").json[0]["until"] == found["until"]
    table = call("holders")
    assert table.lines[0].split() == ["HOLDER", "DIGEST", "REFERENCE", "SINCE", "UNTIL"]
    before = fingerprint(home)
    for wrong in ("yesterday", "2001-01-01", "", "fortnight"):
        done = call("hold", "app:1", "sandbox:dev", "--until", wrong)
        assert (done.code, done.out) == (USAGE, "")
        assert "a time to come" in sentence(done.err) or "no time to come" in sentence(done.err)
    assert fingerprint(home) == before
    assert call("hold", "app:1", "sandbox:dev", "--format", "json").json["until"] is None


def test_quiet(home: Path, call: Call) -> None:
    for arguments, digests in (
        (("use", "app:1"), [APP.digest]),
        (("hold", "app:1", "sandbox:dev"), [APP.digest]),
        (("release", "sandbox:dev"), [APP.digest]),
        (("release", "sandbox:dev"), []),
    ):
        done = call(*arguments, "-q")
        assert (done.code, done.lines, done.err) == (0, digests, "")


def test_a_hold_that_msb_does_not_know_is_not_enforced(
    own_home: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeMsb(tmp_path / "msb", own_home)
    fake.load(APP)
    fake("create", "app:1", "--name", "dev")
    monkeypatch.setenv("MSB_PATH", str(fake.program))
    held = call("hold", "app:1", "sandbox:mine", "--format", "json")
    said = {"reference": "app:1", "digest": APP.digest, "holder": "sandbox:mine", "until": None}
    assert held.json.items() >= {**said, "enforced": False}.items()
    assert "`msb image prune` and `msb image rm` do not know this hold" in held.err
    assert call("hold", "app:1", "sandbox:dev", "--format", "json").json["enforced"]  # msb's own


def test_json(home: Path, call: Call) -> None:
    assert call("hold", "app:1", "sandbox:dev", "--format", "json").json["enforced"]
